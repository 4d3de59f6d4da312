"""Where the project's own events are: in the installed package, or in the checkout that it runs from."""

from __future__ import annotations

from pathlib import Path

from mlaas4hep.errors import DataError


def example_folder(name: str) -> Path:
    """Folder of an example, such as ``tth``; it holds ``config.yaml`` and ``data/``.

    Raises
    ------
    DataError
        It is neither beside the package nor in a checkout.
    """
    package = Path(__file__).parent
    places = [package / "_examples" / name, package.parents[1] / "examples" / name]
    for place in places:
        if (place / "config.yaml").is_file():
            return place
    raise DataError(f"the example '{name}' is not installed; looked in {' and '.join(map(str, places))}")
