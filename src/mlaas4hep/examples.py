"""Where the project's own events are: in the checkout that it runs from, or installed beside the package."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from mlaas4hep.errors import DataError


def example_folder(name: str) -> Path:
    """Folder of an example, such as ``tth``; it holds ``config.yaml`` and ``data/``.

    Raises
    ------
    DataError
        It is neither beside the package nor in a checkout.
    """
    checkout = Path(__file__).parents[2]
    installed = Path(sysconfig.get_path("data"), "share", "mlaas4hep")
    places = [root / "examples" / name for root in (checkout, installed)]
    for place in places:
        if (place / "config.yaml").is_file():
            return place
    raise DataError(f"the example '{name}' is not installed; looked in {' and '.join(map(str, places))}")
