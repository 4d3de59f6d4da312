"""An uploaded model of any framework becomes a repository entry that can be served, or is refused with a way out.

`convert` takes a file and what comes with it (a contract, TFaaS's ``params.json``, labels), works in a confined process
of its own, proves that the graph gives what the framework gives, and only then moves ``NAME/VERSION`` into place.
Invariant: nothing of an upload is opened in the caller's process, nothing in it is ever unpickled, and a refusal leaves
nothing on disk.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlaas4hep.convert.limits import Limits
    from mlaas4hep.convert.operators import Operators
    from mlaas4hep.convert.result import Conversion
    from mlaas4hep.convert.upload import Upload, convert

__all__ = ["Conversion", "Limits", "Operators", "Upload", "convert"]

# The confined process imports a part of this package before it may start a thread: nothing is imported here.
_HOMES = {
    "Conversion": "result",
    "Limits": "limits",
    "Operators": "operators",
    "Upload": "upload",
    "convert": "upload",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"mlaas4hep.convert.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
