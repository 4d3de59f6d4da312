"""``python -m conformance.compare NAME=FILE ...``: what several runs with ``--json`` found, as tables in Markdown.

Invariant: a file is told as it is; of a check that several files hold for one name, the last result counts.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from conformance.checks import all_checks, groups_of

# Group, name and status of each check, in the order of the report.
Found = Mapping[tuple[str, str], str]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the counts of each group, then what failed."""
    parser = argparse.ArgumentParser(prog="python -m conformance.compare", description=__doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="NAME=FILE", help="output of a run with --json; a name may come twice"
    )
    runs: dict[str, dict[tuple[str, str], str]] = {}
    for one in parser.parse_args(arguments).runs:
        name, _, path = one.partition("=")
        runs.setdefault(name, {}).update(read_run(Path(path)))
    print("\n".join([*counts_of(runs), "", *failures_of(runs)]))


def read_run(path: Path) -> dict[tuple[str, str], str]:
    """Statuses of a run; lines that are no JSON (a log that was mixed in) are left out."""
    lines = (json.loads(line) for line in path.read_text().splitlines() if line.startswith("{"))
    return {(one["group"], one["name"]): one["status"] for one in lines}


def counts_of(runs: Mapping[str, Found]) -> list[str]:
    """One row a group: passed / failed / skipped."""
    rows = [f"| group | {' | '.join(runs)} |", f"|---|{'---|' * len(runs)}"]
    for group in (*groups_of(all_checks()), "all"):
        cells = []
        for found in runs.values():
            count = Counter(status for (mine, _), status in found.items() if group in (mine, "all"))
            cells.append(f"{count['pass']} / {count['fail']} / {count['skipped']}" if count else "-")
        rows.append(f"| `{group}` | {' | '.join(cells)} |")
    return rows


def failures_of(runs: Mapping[str, Found]) -> list[str]:
    """One row a group in which something failed: the names of what failed."""
    rows = [f"| failed | {' | '.join(runs)} |", f"|---|{'---|' * len(runs)}"]
    for group in groups_of(all_checks()):
        cells = [_failed(found, group) for found in runs.values()]
        if any(cells):
            rows.append(f"| `{group}` | {' | '.join(cells)} |")
    return rows


def _failed(found: Found, group: str) -> str:
    statuses = {name: status for (mine, name), status in found.items() if mine == group}
    failed = [name for name, status in statuses.items() if status == "fail"]
    passed = [name for name, status in statuses.items() if status == "pass"]
    if len(failed) > 6 and len(passed) < len(failed):
        return f"all but {', '.join(passed)}" if passed else "all"
    return ", ".join(failed)


if __name__ == "__main__":
    main()
