"""Stor: blobs addressed by their SHA-256, kept whole on every storage of a replica set."""

__version__ = "0.1.0"
