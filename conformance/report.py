"""Results as plain text, as JSON lines and as JUnit XML."""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

from conformance.checks import Result

# What XML 1.0 cannot hold, whatever a server answered.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_json(result: Result) -> str:
    """One line."""
    return json.dumps(asdict(result), ensure_ascii=False)


def as_line(result: Result) -> str:
    """One line of the table, and what was asked, expected and found where the check failed."""
    line = f"{result.status:8}{result.group + '.' + result.name:40}{result.seconds:7.2f} s  "
    if result.status != "fail":
        return f"{line}{textwrap.shorten(result.found, 80, placeholder=' ...')}".rstrip()
    more = {"asked": result.asked, "expected": f"{result.expected} ({result.section})", "found": result.found}
    return "\n".join([line.rstrip(), *(f"        {name:10}{_plain(text)}" for name, text in more.items())])


def as_table(results: Sequence[Result]) -> str:
    """Passed, failed and skipped of each group."""
    counts: dict[str, Counter[str]] = {}
    for one in results:
        counts.setdefault(one.group, Counter())[one.status] += 1
    counts["all"] = Counter(one.status for one in results)
    lines = [f"{'group':16}{'passed':>8}{'failed':>8}{'skipped':>9}"]
    for group, count in counts.items():
        lines.append(f"{group:16}{count['pass']:8}{count['fail']:8}{count['skipped']:9}")
    return "\n".join(lines)


def write_junit(path: Path, results: Sequence[Result], *, url: str) -> None:
    """One suite a group, one case a check."""
    root = ElementTree.Element("testsuites", name=f"Open Inference Protocol v2: {url}")
    for group in dict.fromkeys(one.group for one in results):
        mine = [one for one in results if one.group == group]
        suite = ElementTree.SubElement(root, "testsuite", name=group, tests=str(len(mine)))
        suite.set("failures", str(sum(one.status == "fail" for one in mine)))
        suite.set("skipped", str(sum(one.status == "skipped" for one in mine)))
        suite.set("time", f"{sum(one.seconds for one in mine):.3f}")
        for one in mine:
            _add_case(suite, one)
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _add_case(suite: ElementTree.Element, one: Result) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=one.group, name=one.name, time=f"{one.seconds:.3f}")
    if one.status == "skipped":
        ElementTree.SubElement(case, "skipped", message=_plain(one.found))
    if one.status == "fail":
        failure = ElementTree.SubElement(case, "failure", message=_plain(one.found))
        failure.text = _plain(f"asked: {one.asked}; expected: {one.expected} ({one.section})")


def _plain(text: str) -> str:
    return _NOT_XML.sub("?", text.replace("\n", " "))
