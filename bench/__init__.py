"""Measurements of speed, each beside something well known on the same machine in the same run."""
