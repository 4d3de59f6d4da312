"""Requests a second of the server beside its peers: ``python -m benchmarks.serving``."""
