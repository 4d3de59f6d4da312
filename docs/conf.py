"""Sphinx settings of the documentation. Build: ``sphinx-build -W --keep-going -b html docs docs/_build``."""

import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.napoleon import NumpyDocstring

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "mlaas4hep"
author = "The mlaas4hep developers"
copyright = author
release = installed_version("mlaas4hep")
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "command_line",
    "typed_values",
]
exclude_patterns = ["_build", "_ext"]

# Markdown: definition lists, ::: for notes, and anchors on headings, so that [text](page.md#heading) is checked.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Single backticks in docstrings name things of this package: linked where a page documents them.
default_role = "py:obj"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_google_docstring = False
napoleon_use_rtype = False
python_use_unqualified_type_names = True
# A name such as `name` stands in many classes; the link then goes nowhere, which is no fault of a page.
suppress_warnings = ["ref.python"]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_title = f"mlaas4hep {release}"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False

# Napoleon takes what stands before a colon in the docstring of a property for its type; ours are sentences.
NumpyDocstring._parse_attribute_docstring = lambda self: list(self._dedent(self._consume_to_end()))

_ARRAY = re.compile(r"~?(?:numpy\.)?ndarray\[tuple\[[^]]*\], ~?(?:numpy\.)?dtype\[~?(?:\w+\.)?(\w+)(?:\[[^]]*\])?\]\]")


def _plain_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Arrays as ``ndarray[float32]`` (their shapes stand in the text); protocols have no constructor."""
    if what == "class" and getattr(obj, "_is_protocol", False):
        return "", None
    return signature and _ARRAY.sub(r"ndarray[\1]", signature), returned and _ARRAY.sub(r"ndarray[\1]", returned)


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-signature", _plain_signature)
