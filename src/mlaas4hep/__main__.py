"""``python -m mlaas4hep``: the same as the command ``mlaas4hep``."""

from mlaas4hep.cli import main

main()
