"""What a server takes: of one request, of one connection, of one client, and for one model; from a file, if given.

Values without defaults that hurt nobody are off. Invariant: a limit is of one kind only, so that who meets it is told
which one it was and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from mlaas4hep.errors import ConfigError, nearest


class QueueLimits(msgspec.Struct, frozen=True):
    """What may wait for one model, and how it is joined.

    Parameters
    ----------
    batch_rows
        The most rows that are joined; a question of more is run as it is.
    rows, bytes
        What may wait. A question that exceeds them alone is taken when nothing else waits.
    wait_s
        The longest that a question may be expected to wait, whatever its own deadline is.
    max_wait_ms
        How long a run is put off so that more questions can join it. 0 joins only what is there anyway, which costs no
        one any time.
    """

    batch_rows: int = 256
    rows: int = 65_536
    bytes: int = 256 << 20
    wait_s: float = 10.0
    max_wait_ms: float = 0.0


class WireLimits(msgspec.Struct, frozen=True):
    """What one connection may cost before a route sees anything of it.

    Parameters
    ----------
    connections
        Open at once; beyond, questions other than for health are answered with 503. A process may commonly have 1024
        files open.
    head_bytes
        Request line and headers; a question of ours has less than 1 kB.
    unfinished_s, slowest_bytes_s
        A question must be whole within this time and what its bytes take at the slowest rate.
    keep_alive_s
        After which a connection that asks nothing is let go.
    body_bytes
        Of bodies of all connections that are received and not answered yet.
    """

    connections: int = 512
    head_bytes: int = 64 << 10
    unfinished_s: float = 30.0
    slowest_bytes_s: int = 64 << 10
    keep_alive_s: float = 30.0
    body_bytes: int = 1 << 30


class ClientLimits(msgspec.Struct, frozen=True):
    """What one client may have, who is told by its address; None is no limit. Behind a proxy all clients are one.

    Parameters
    ----------
    connections
        Open at once.
    questions
        To models, not answered yet.
    rate
        Requests a second, of any kind; a second's worth may come at once.
    """

    connections: int | None = None
    questions: int | None = None
    rate: float | None = None

    @property
    def any(self) -> bool:
        """Whether there is any limit."""
        return self != ClientLimits()


class Limits(msgspec.Struct, frozen=True):
    """How much a server takes.

    Parameters
    ----------
    max_body_bytes
        Size of a request's body.
    max_instances
        Events of a request by name.
    queue
        What may wait for a model.
    models
        The same for models by name, where it is another.
    wire, client
        Of a connection, and of a client.
    """

    max_body_bytes: int = 64 << 20
    max_instances: int = 100_000
    queue: QueueLimits = QueueLimits()
    models: Mapping[str, QueueLimits] = {}
    wire: WireLimits = WireLimits()
    client: ClientLimits = ClientLimits()

    def queue_of(self, model: str) -> QueueLimits:
        """What may wait for a model."""
        return self.models.get(model, self.queue)

    @property
    def wait_s(self) -> float:
        """The longest that any model's questions may wait."""
        return max([self.queue.wait_s, *(one.wait_s for one in self.models.values())])


# By section and key of the file: least value, and whether it is a whole number.
_KEYS: dict[str, dict[str, tuple[float, bool]]] = {
    "request": {"max_body_bytes": (1, True), "max_instances": (1, True)},
    "connection": {
        "connections": (1, True),
        "head_bytes": (1024, True),
        "unfinished_s": (0.001, False),
        "slowest_bytes_s": (1, True),
        "keep_alive_s": (0.001, False),
        "body_bytes": (1, True),
    },
    "client": {"connections": (1, True), "questions": (1, True), "rate": (0.001, False)},
    "model": {
        "batch_rows": (1, True),
        "rows": (1, True),
        "bytes": (1, True),
        "wait_s": (0.001, False),
        "max_wait_ms": (0, False),
    },
}


def read_limits(path: Path, *, queue: QueueLimits | None = None) -> Limits:
    """The limits of a YAML file.

    Parameters
    ----------
    queue
        What holds for models where the file says nothing.

    Raises
    ------
    ConfigError
        It cannot be read; tells all that is wrong with it.
    """
    from mlaas4hep.strict_yaml import read_text  # brings YAML, which a server without such a file does not need

    return parse_limits(read_text(path), where=str(path), queue=queue)


def parse_limits(text: str, *, where: str = "limits", queue: QueueLimits | None = None) -> Limits:
    """As `read_limits`, from text.

    Examples
    --------
    >>> limits = parse_limits("model: {wait_s: 1}\\nmodels: {slow: {wait_s: 30}}\\nclient: {questions: 64}")
    >>> limits.queue_of("any").wait_s, limits.queue_of("slow").wait_s, limits.client.questions
    (1, 30, 64)
    """
    from mlaas4hep.strict_yaml import load_mapping  # brings YAML, which a server without such a file does not need

    document = load_mapping(text, where, such_as="model, models, client")
    problems: list[str] = []
    known = (*_KEYS, "models")
    problems += [f"{key}: unknown key{nearest(key, known)}" for key in document if key not in known]
    found = {section: _section(document.get(section), section, section, problems) for section in _KEYS}
    models = document.get("models") or {}
    if not isinstance(models, dict):
        problems.append(f"models: asked for a mapping such as {{tth: {{wait_s: 1}}}}, found {models!r}")
        models = {}
    by_name = {name: _section(value, "model", f"models.{name}", problems) for name, value in models.items()}
    if problems:
        raise ConfigError(problems, where=where)
    usual = msgspec.structs.replace(queue or QueueLimits(), **found["model"])
    return Limits(
        **found["request"],
        queue=usual,
        models={name: msgspec.structs.replace(usual, **some) for name, some in by_name.items()},
        wire=WireLimits(**found["connection"]),
        client=ClientLimits(**found["client"]),
    )


def _section(value: Any, section: str, place: str, problems: list[str]) -> dict[str, Any]:
    known = _KEYS[section]
    if not isinstance(value, dict):
        if value is not None:
            problems.append(f"{place}: asked for a mapping of {', '.join(known)}, found {value!r}")
        return {}
    problems += [f"{place}.{key}: unknown key{nearest(key, known)}" for key in value if key not in known]
    found = {key: one for key, one in value.items() if key in known}
    for key, one in found.items():
        least, whole = known[key]
        kinds = int if whole else (int, float)
        if isinstance(one, bool) or not isinstance(one, kinds) or not least <= one < 1e15:
            problems.append(f"{place}.{key}: asked for a {'whole ' * whole}number from {least:g} on, found {one!r}")
    return found
