"""One table: every model, only ``model:`` changed, beside itself in memory and beside default boosting, out of fold.

Data sets are the files ``benchmarks/NAME.yaml`` on real files below ``MLAAS4HEP_TEST_DATA``; all of their events are
used (``tth`` is of the repository, with collections of jets; ``quark_gluon`` and ``top`` are constituents). Each seed
cuts other folds and draws other orders and first weights. A fold is scored by the graph of a bundle that was trained
without it (streamed), by the same network in a plain loop of its framework on arrays (the library's own fit of trees),
and by scikit-learn's default boosting; networks of one vector and trees see a collection slot by slot, the missing
slots as missing. Areas carry physics weights; of several classes it is the mean of one class against the rest. A row is
good where the mean of its paired differences, over folds and seeds, is not further below zero than 0.005 or two of its
standard errors.

A line that is finished is appended to the file of --resume; called again, only what is not there is measured.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.judging import real_files
from benchmarks.table.lines import Key, Line, append, finished, key_of, markdown, verdicts
from benchmarks.table.models import DATASETS, ROWS, combinations

Outcome = tuple[Key, Line | None, str]


def main() -> int:
    """Measure what is missing, then say what all of it means."""
    asked = _parser().parse_args()
    settings = {"folds": asked.folds, "limit": asked.events, "epochs": asked.epochs}
    done = finished(asked.resume, settings) if asked.resume else {}
    wanted = combinations(asked.datasets, asked.models, asked.seeds)
    missing = [] if asked.markdown else [key for key in wanted if key not in done]
    if missing:
        real_files()
    failed = 0
    for key, line, why in _measured(missing, settings, jobs=asked.jobs):
        if line is None:
            failed += 1
            print(f"{key}: {why}", file=sys.stderr, flush=True)
            continue
        done[key_of(line)] = line
        if asked.resume:
            append(asked.resume, line)
        if asked.json:
            print(json.dumps(line), flush=True)
    rows = verdicts(done[key] for key in sorted(wanted, key=_place) if key in done)
    if asked.json:
        for row in rows:
            print(json.dumps({"row": row}))
    if asked.markdown or not asked.json:
        print(markdown(rows))
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--json", action="store_true", help="a JSON line each, and at the end one a row over the seeds")
    add("--markdown", action="store_true", help="measure nothing: only the table of what --resume holds")
    add("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS), metavar="NAME", help=", ".join(DATASETS))
    add("--models", nargs="+", choices=ROWS, default=list(ROWS), metavar="NAME", help=", ".join(ROWS))
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--folds", type=int, default=3)
    add("--events", type=int, default=60_000, help="entries of a data set at most; none of them has as many")
    add("--epochs", type=int, help="at most, instead of the config's")
    add("--jobs", type=int, default=1, help="processes")
    add("--resume", type=Path, metavar="FILE", help="where finished lines are kept")
    return parser


def _place(key: Key) -> tuple[int, int, int]:
    dataset, model, seed = key
    return list(DATASETS).index(dataset), list(ROWS).index(model), seed


def _measured(keys: list[Key], settings: dict[str, Any], *, jobs: int) -> Iterator[Outcome]:
    """Each with its line, or with why there is none."""
    if jobs == 1:
        yield from (_outcome(key, settings) for key in keys)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for one in as_completed([pool.submit(_outcome, key, settings) for key in keys]):
            yield one.result()


def _outcome(key: Key, settings: dict[str, Any]) -> Outcome:
    from benchmarks.table.one import measure  # not where a table is only printed

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        events, rest = settings["limit"], {"folds": settings["folds"], "epochs": settings["epochs"]}
        return key, measure(*key, events=events, **rest), ""
    except Exception:  # told, counted in the exit status, and tried again by the next call; the others go on
        return key, None, traceback.format_exc()


if __name__ == "__main__":
    sys.exit(main())
