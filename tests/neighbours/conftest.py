"""Fixtures of the neighbours: servers that start slowly are shared."""

from tests.neighbours.servers.seaweed import seaweed

__all__ = ["seaweed"]
