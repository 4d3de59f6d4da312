"""Pages of a server for people: which models answer, what each takes, a form to try it, and what all routes are.

Rendered here, with no resource from elsewhere. They look at models and counts and change neither. Invariant: whatever a
model, a contract or a file says is text on a page, never markup, and no page runs a script that is not this package's.
"""

from __future__ import annotations

from mlaas4hep.serve.pages.entrance import Entrance
from mlaas4hep.serve.pages.routes import page_routes

__all__ = ["Entrance", "page_routes"]
