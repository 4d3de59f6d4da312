"""Tables of what a config may say, made from the types that read it when the pages are built.

``{struct} module.Class`` lists the keys of one `msgspec.Struct`: type and default from the class, meaning from its
docstring. ``{dials}`` lists every model of every built-in backend with its dials and capabilities. Invariant: a key
that nobody describes, or a description of a key that is gone, is a warning, and so stops the build.
"""

from __future__ import annotations

import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any value"}
_ENTRY = re.compile(r"(?P<names>[a-z0-9_]+(?:, [a-z0-9_]+)*)\Z")


def field_docs(struct: type) -> dict[str, str]:
    """Text of each entry under ``Parameters`` in the docstrings of the class and those it stems from, by field name."""
    found: dict[str, str] = {}
    for one in reversed(struct.__mro__):
        found |= _own_field_docs(one) if issubclass(one, msgspec.Struct) else {}
    return found


def _own_field_docs(struct: type) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    names: list[str] = []
    inside = False
    for line in inspect.cleandoc(struct.__doc__ or "").splitlines():
        if line in ("Parameters", "Returns", "Raises", "Examples", "Notes"):
            inside, names = line == "Parameters", []
        elif inside and (entry := _ENTRY.match(line)):
            names = entry["names"].split(", ")
            found |= {name: [] for name in names}
        elif inside and line.startswith("    "):
            for name in names:
                found[name].append(line.strip())
    return {name: " ".join(lines) for name, lines in found.items() if lines}


def type_words(wanted: Any) -> str:
    """A type as a user would say it, in Markdown: ``list of text``, ``one of `mc`, `data```."""
    origin, members = get_origin(wanted), get_args(wanted)
    if origin is Literal:
        return "one of " + ", ".join(f"`{one}`" for one in members)
    if origin in (Union, types.UnionType):
        return " or ".join(type_words(one) for one in members if one not in (type(None), msgspec.UnsetType))
    if origin is tuple and members[-1] is Ellipsis:
        return f"list of {type_words(members[0])}".replace("number", "numbers")
    if origin is tuple:
        return f"list of {len(members)}: {', '.join(type_words(one) for one in members)}"
    if origin is dict:
        return f"mapping of names to {type_words(members[1])}"
    if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
        return f"`{wanted.__name__.removesuffix('Document')}`"
    return _WORDS.get(wanted, getattr(wanted, "__name__", str(wanted)))


def default_words(field: Any) -> str:
    """A default as it would be written in YAML."""
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if isinstance(value, msgspec.Struct):
        return "all its defaults"
    if value is None or value is msgspec.UNSET or value in ((), {}, []):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def rows_of(struct: type, words: Mapping[str, str]) -> Iterator[tuple[str, str, str, str]]:
    """Key, type, default and meaning of every field, in the order of the class."""
    hints = typing.get_type_hints(struct)
    for field in msgspec.structs.fields(struct):
        yield f"`{field.name}`", type_words(hints[field.name]), default_words(field), words.get(field.name, "")


def markdown_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(head)]
    lines += [["---"] * len(lines[0]), *map(list, rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def load(path: str) -> Any:
    """The object behind ``package.module.Name``."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


class StructTable(SphinxDirective):
    """``{struct} package.module.Class``: a table of its keys.

    Option ``like`` names classes (separated by blanks) whose docstrings describe keys of the same name; ``without``
    leaves keys out. The body describes what no docstring does, one ``key: text`` a line.
    """

    required_arguments = 1
    has_content = True
    option_spec: typing.ClassVar[dict[str, Any]] = {"like": str, "without": str}

    def run(self) -> list[nodes.Node]:
        struct = load(self.arguments[0])
        words = self._words(struct)
        left_out = {f"`{name}`" for name in self.options.get("without", "").split()}
        rows = [row for row in rows_of(struct, words) if row[0] not in left_out]
        for name, _, _, meaning in rows:
            if not meaning:
                self._complain(f"{struct.__name__}.{name} has no description")
        return self.parse_text_to_nodes(markdown_table(("key", "type", "default", "meaning"), rows))

    def _words(self, struct: type) -> dict[str, str]:
        words: dict[str, str] = {}
        for path in self.options.get("like", "").split():
            words |= field_docs(load(path))
        words |= field_docs(struct)
        for line in self.content:
            key, colon, text = line.partition(":")
            if not colon or key not in struct.__struct_fields__:  # type: ignore[attr-defined]
                self._complain(f"'{line}' describes no key of {struct.__name__}")
            words[key] = text.strip()
        return words

    def _complain(self, text: str) -> None:
        self.state.document.reporter.warning(text, line=self.lineno)


class DialsTables(SphinxDirective):
    """``{dials}``: every model of every built-in backend, with its dials and what it can do."""

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes("\n".join(dials_pages()), allow_section_headings=True)


def dials_pages() -> Iterator[str]:
    """Markdown with one section a model."""
    from mlaas4hep.backends.registry import BUILT_IN, MODELS, find_backend

    for name in BUILT_IN:
        backend = find_backend(name)
        for model, dials in backend.models.items():
            default = "; the default" if MODELS.get(model, ("",))[0] == name else ""
            yield f"### {model} (backend {name}{default})\n"
            yield f"It can: {capability_words(backend.capabilities(model))}.\n"
            yield from _dials_table(dials)
        for dials in _other_dials(type(backend).__module__, tuple(backend.models.values())):
            yield f"### A file of your own (backend {name})\n"
            yield from _dials_table(dials)


def capability_words(capabilities: msgspec.Struct) -> str:
    """Capabilities in words, those that it lacks after a semicolon."""
    given = msgspec.structs.asdict(capabilities)
    resume = given.pop("resume")
    plain = {name.replace("_", " "): value for name, value in given.items()}
    can = [name for name, value in plain.items() if value]
    cannot = [name for name, value in plain.items() if not value]
    return f"{', '.join(can)}, resume ({resume}); it cannot: {', '.join(cannot) or 'nothing'}"


def _dials_table(dials: type) -> Iterator[str]:
    words = field_docs(dials)
    missing = set(dials.__struct_fields__) - set(words)  # type: ignore[attr-defined]
    if missing:
        raise ValueError(f"{dials.__module__}.{dials.__name__}: no description of {', '.join(sorted(missing))}")
    yield markdown_table(("dial", "type", "default", "meaning"), rows_of(dials, words)) + "\n"


def _other_dials(module: str, known: tuple[type, ...]) -> list[type]:
    """Dials written in the module that belong to no named model: those of the user's own objects."""
    from mlaas4hep.backends.dials import Dials

    found = [value for value in vars(importlib.import_module(module)).values() if isinstance(value, type)]
    own = [one for one in found if one.__module__ == module]
    return [one for one in own if issubclass(one, Dials) and one not in known]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("struct", StructTable)
    app.add_directive("dials", DialsTables)
    return {"parallel_read_safe": True}
