"""Talk to a server: events by name, or tensors, over one connection that is kept.

Needs numpy, msgspec and the standard library. Invariant: nothing of the server is imported here, and nothing of a model
is known; what a model wants is asked from the server.
"""

from mlaas4hep.client.client import Client

__all__ = ["Client"]
