"""The command line reference, made from the commands themselves: ``{commands}`` shows the help text of each.

Invariant: what the page says is what ``mlaas4hep COMMAND --help`` prints.
"""

from __future__ import annotations

from collections.abc import Iterator

import click
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

WIDTH = 100


def help_texts() -> Iterator[tuple[str, str]]:
    """Name and help text of the program and of each command."""
    from mlaas4hep.cli import group

    settings = {**group.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    parent = click.Context(group, info_name="mlaas4hep", **settings)
    yield "mlaas4hep", group.get_help(parent)
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        assert command is not None
        with click.Context(command, info_name=name, parent=parent) as context:
            yield f"mlaas4hep {name}", command.get_help(context)


class Commands(SphinxDirective):
    """``{commands}``: one section a command."""

    def run(self) -> list[nodes.Node]:
        text = "\n\n".join(f"## {name}\n\n```text\n{words}\n```" for name, words in help_texts())
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
