"""Where a stream stood, as `state_dict` told it: read back, or refused with what it is instead.

Invariant: a state that comes through here was told by a stream of the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlaas4hep.arguments import as_found, whole
from mlaas4hep.errors import DataError

VERSION = 3


def read_state(state: Any, names: Sequence[str], *, fingerprint: str) -> dict[str, int]:
    """Numbers of a state, by name.

    Parameters
    ----------
    state
        What `mlaas4hep.data.batches.BatchIterator.state_dict` gave.
    names
        Of its numbers.
    fingerprint
        Of the stream that it should belong to.

    Raises
    ------
    DataError
        It is no state, one of another version, or one of another stream.
    """
    wanted = ("version", "fingerprint", *names)
    require_keys(state, wanted, "a state of a stream")
    if state["version"] != VERSION:
        raise DataError(
            f"this state was saved by another version of the program: it says {as_found(state['version'])}, and "
            f"{VERSION} is read here; begin the epoch anew"
        )
    if state["fingerprint"] != fingerprint:
        raise DataError(
            "this state was saved from another stream: files, inputs, selection, part, seed, shuffle_window or the "
            "number of processes that share it differ"
        )
    return {name: whole(state[name], f"{name} of a state", error=DataError) for name in names}


def require_keys(state: Any, names: Sequence[str], what: str) -> None:
    """Refuse what is no mapping with these keys."""
    if not isinstance(state, Mapping):
        raise DataError(f"{what} is a mapping, as state_dict() gives it; got {as_found(state)}")
    lacking = [name for name in names if name not in state]
    if lacking:
        holds = ", ".join(map(str, state)) or "nothing"
        raise DataError(f"this is not {what}: it lacks {', '.join(lacking)}, and holds {holds}{_whose(state)}")


def _whose(state: Mapping[Any, Any]) -> str:
    if "stream" in state:
        return "; it looks like one of a TorchDataset: load it there"
    return "; it looks like one of an EventDataset's epoch: load it there" if "fingerprint" in state else ""
