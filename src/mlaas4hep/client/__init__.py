"""Talk to servers: events by name, or tensors, while the caller waits, on an event loop, or beside the caller's work.

Needs numpy, msgspec and the standard library. Invariant: nothing of the server is imported here, and nothing of a model
is known; what a model wants is asked from the server.
"""

from mlaas4hep.client.asking import Scores
from mlaas4hep.client.async_client import AsyncClient
from mlaas4hep.client.client import Client
from mlaas4hep.client.external import ExternalWork
from mlaas4hep.client.identity import Tls
from mlaas4hep.client.splitting import Limits

__all__ = ["AsyncClient", "Client", "ExternalWork", "Limits", "Scores", "Tls"]
