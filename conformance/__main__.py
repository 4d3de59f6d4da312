"""``python -m conformance``: ask a server, show what it did, and say by the exit status whether it is conformant.

0: nothing failed; 1: something did; 2: there was nothing to ask.
"""

from __future__ import annotations

import argparse
import json
import ssl
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from conformance.checks import Check, all_checks, groups_of, run_checks
from conformance.report import as_json, as_line, as_table, write_junit
from conformance.target import Target, TargetError, Wish
from conformance.wire import Place

EXAMPLES = """\
examples:
  python -m conformance --url http://localhost:8000
  python -m conformance --url http://localhost:8000 --grpc localhost:8001 --model tth --junit found.xml
  python -m conformance --url http://localhost:8080 --only infer --only binary --assume binary_tensor_data
  python -m conformance --list
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; gives the exit status."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    checks = all_checks()
    if asked.list:
        print("\n".join(f"{one.full_name:44}{one.expected}  [{one.section}]" for one in checks))
        return 0
    if asked.url is None:
        parser.error("--url says which server is asked")
    _demand_known(parser, [*asked.only, *asked.skip])
    chosen = [one for one in checks if _is_chosen(one, asked.only, asked.skip)]
    try:
        place = Place.parse(asked.url, timeout_s=asked.timeout, headers=asked.header)
        if asked.ca:
            place = replace(place, trusted=ssl.create_default_context(cafile=asked.ca))
        target = Target(place, _wish(asked))
    except (TargetError, ValueError, OSError) as error:
        print(f"nothing to ask: {error}", file=sys.stderr)
        return 2
    results = []
    for result in run_checks(target, chosen):
        results.append(result)
        if asked.json or asked.verbose or result.status == "fail":
            print(as_json(result) if asked.json else as_line(result), flush=True)
    target.close()
    if not asked.json:
        print(("\n" if results else "") + as_table(results))
    if asked.junit:
        write_junit(asked.junit, results, url=asked.url)
    return int(any(one.status == "fail" for one in results))


def _is_chosen(one: Check, only: Sequence[str], skip: Sequence[str]) -> bool:
    names = (one.group, one.full_name)
    return (not only or any(name in only for name in names)) and not any(name in skip for name in names)


def _demand_known(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    groups = groups_of(all_checks())
    unknown = set(names) - set(groups) - {one.full_name for one in all_checks()}
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: no such group or check; groups: {', '.join(groups)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m conformance",
        description="Ask a server of the Open Inference Protocol v2 whether it keeps what the protocol promises.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add: Any = parser.add_argument
    add("--url", help="address of the server, for example http://localhost:8000")
    add("--grpc", default="", metavar="HOST:PORT", help="its gRPC side, grpcs://HOST:PORT with TLS; else skipped")
    add(
        "--header",
        action="append",
        default=[],
        type=_header,
        metavar="NAME:VALUE",
        help="send this header with every request, over gRPC as metadata (a token, for example); may be repeated",
    )
    add("--model", default="", help="model to ask; left out, the first that the server names")
    add(
        "--only",
        action="append",
        default=[],
        metavar="GROUP",
        help="this group, or this check (group.name), alone; may be repeated",
    )
    add(
        "--skip",
        action="append",
        default=[],
        metavar="GROUP",
        help="leave this group, or this check, out; may be repeated",
    )
    add("--ca", type=Path, metavar="FILE", help="certificates that are trusted, for a server with one of its own (PEM)")
    add("--sample", type=Path, metavar="FILE", help="a valid request as JSON, where random values do not fit the model")
    add("--assume", action="append", default=[], metavar="EXTENSION", help="ask for an extension that is not announced")
    add("--unload", action="store_true", help="allow the check that unloads the model and loads it again")
    add("--seed", type=int, default=0, help="of tensors and of mutated requests (default 0)")
    add("--fuzz", type=int, default=200, metavar="N", help="mutated requests of each kind (default 200)")
    add("--huge", type=int, default=16, metavar="MIB", help="size of the largest tensors that are sent (default 16)")
    add("--timeout", type=float, default=10, metavar="S", help="seconds that an answer may take (default 10)")
    add("--json", action="store_true", help="one JSON object a check instead of the table")
    add("--junit", type=Path, metavar="FILE", help="write the results as JUnit XML")
    add("--verbose", "-v", action="store_true", help="show also what passed and what was skipped")
    add("--list", action="store_true", help="show all checks, what each expects, and where that is written")
    return parser


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"asked for NAME:VALUE, found '{text}'")
    return name.strip(), value.strip()


def _wish(asked: argparse.Namespace) -> Wish:
    return Wish(
        model=asked.model,
        grpc=asked.grpc,
        seed=asked.seed,
        fuzz=asked.fuzz,
        huge_bytes=asked.huge << 20,
        assume=frozenset(asked.assume),
        unload=asked.unload,
        authority=asked.ca,
        sample=json.loads(asked.sample.read_text()) if asked.sample else None,
    )


if __name__ == "__main__":
    sys.exit(main())
