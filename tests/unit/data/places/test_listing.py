"""Wild cards and folders in addresses."""

from __future__ import annotations

import pytest

from mlaas4hep.data.places import kind_of
from mlaas4hep.data.places.endings import has_known_ending, is_list
from mlaas4hep.data.places.listing import Entry, expand_address
from mlaas4hep.testing import refusal

TREE = {
    "/d/": [
        Entry("a.root", False),
        Entry("b.root", False),
        Entry(".x.root", False),
        Entry("s", True),
        Entry("t", True),
    ],
    "/d/s/": [Entry("c.root", False), Entry("n.md", False), Entry("deep", True)],
    "/d/s/deep/": [Entry("e.csv.gz", False)],
    "/d/t/": [Entry("c.root", False)],
}


HOST = "far://host"


def listed(url: str) -> list[Entry]:
    return TREE[url.removeprefix(HOST).rstrip("/") + "/"]


def expand(path: str) -> list[str]:
    found = expand_address(f"{HOST}{path}", listed, is_folder=lambda url: url.endswith("/t"))
    return [one.removeprefix(HOST) for one in found]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("/d/a.root", ["/d/a.root"]),
        ("/d/*.root", ["/d/a.root", "/d/b.root"]),
        ("/d/.*.root", ["/d/.x.root"]),
        ("/d/*/c.root", ["/d/s/c.root", "/d/t/c.root"]),
        ("/d/**/c.root", ["/d/s/c.root", "/d/t/c.root"]),
        ("/d/[ab].root", ["/d/a.root", "/d/b.root"]),
        ("/d/s/**", ["/d/s/c.root", "/d/s/deep/e.csv.gz", "/d/s/n.md"]),
        ("/d/", ["/d/a.root", "/d/b.root"]),
        ("/d/t", ["/d/t/c.root"]),
        ("/d/none.root?x=*", ["/d/none.root?x=*"]),
    ],
)
def test_patterns_find_what_fits(pattern: str, found: list[str]) -> None:
    hidden = [one for one in found if "/." in one]
    assert sorted(one for one in expand(pattern) if hidden or "/." not in one) == found


def test_nothing_found_is_refused_with_the_nearest() -> None:
    assert "did you mean" in refusal(lambda: expand("/d/aa*.root"))
    told = refusal(lambda: expand_address("far://host/d/", lambda url: [Entry("n.md", False)], is_folder=None))
    assert ".parquet" in told


def test_endings_are_those_of_formats_and_of_lists() -> None:
    assert all(map(has_known_ending, ("a.root", "A.ROOT", "b.csv.gz", "c.jsonl", "d.avro", "e.parquet", "f.tsv")))
    assert not any(map(has_known_ending, ("a.txt", "root", "a.root.bak")))
    assert is_list("files.txt")
    assert is_list("https://host/files.list?version=1")
    assert not is_list("files.root")


def test_an_unknown_scheme_is_refused_with_the_nearest() -> None:
    assert "did you mean 'root'" in refusal(lambda: kind_of("roott://host//a.root"))
    assert "needs another package" in refusal(lambda: kind_of("abfs://host/a.root").expand("abfs://host/a.root/"))
