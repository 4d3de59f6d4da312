"""Friend trees: columns of the same events in other files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.data.friends import FriendSource, match_friends
from mlaas4hep.data.source import Source, cut_reads, open_source
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Column, Jagged
from mlaas4hep.testing import SourceContract, make_events, same_column, write_events


def scores(entries: int, seed: int) -> dict[str, Column]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 3, entries)
    return {
        "score": rng.random(entries).astype(np.float32),
        "MET_pt": rng.random(entries).astype(np.float32),
        "Hit_x": Jagged.from_counts(counts, rng.random(counts.sum())),
    }


@pytest.fixture
def joined(tmp_path: Path) -> Iterator[FriendSource]:
    main = write_events(tmp_path / "a.root", make_events(230), cluster=60)
    one = write_events(tmp_path / "b.root", scores(230, 1), tree="tagger", cluster=33)
    other = write_events(tmp_path / "c.root", scores(230, 2), tree="calib", format="rntuple", cluster=100)
    friends = {"tagger": open_source(str(one)), "calib": open_source(str(other))}
    with FriendSource(open_source(str(main)), friends) as source:
        yield source


class TestFriends(SourceContract):
    @pytest.fixture
    def expected(self) -> dict[str, Column]:
        tagger, calib = scores(230, 1), scores(230, 2)
        renamed = {f"calib.{name}": one for name, one in calib.items()}
        return {**make_events(230), **{f"tagger.{name}": one for name, one in tagger.items()}, **renamed}

    @pytest.fixture
    def source(self, joined: FriendSource) -> Source:
        return joined


def test_clusters_are_those_of_the_tree(joined: FriendSource) -> None:
    assert joined.clusters.tolist() == [0, 60, 120, 180, 230]


def test_a_column_that_one_friend_has_needs_no_prefix(tmp_path: Path) -> None:
    main = write_events(tmp_path / "a.root", make_events(50))
    friend = write_events(tmp_path / "b.root", scores(50, 1), tree="tagger")
    with FriendSource(open_source(str(main)), {"tagger": open_source(str(friend))}) as source:
        read = source.read(["score", "tagger.score", "Hit_x"], 10, 20)
        assert list(read) == ["score", "tagger.score", "Hit_x"]
        assert same_column(read["score"], scores(50, 1)["score"][10:20])
        assert same_column(read["score"], read["tagger.score"])


def test_the_tree_wins_over_its_friends(joined: FriendSource) -> None:
    assert same_column(joined.read(["MET_pt"], 0, 5)["MET_pt"], make_events(230)["MET_pt"][:5])


def test_a_column_of_several_friends_must_say_whose(joined: FriendSource) -> None:
    with pytest.raises(
        DataError, match=r"column 'score' .*2 friends have it; ask for 'tagger\.score' or 'calib\.score'"
    ):
        joined.read(["score"], 0, 1)


def test_friends_of_other_lengths_are_refused_with_both(tmp_path: Path) -> None:
    main = open_source(str(write_events(tmp_path / "a.root", make_events(50))))
    friend = open_source(str(write_events(tmp_path / "b.root", scores(49, 1), tree="tagger")))
    with main, friend, pytest.raises(DataError, match=r"b\.root.*has 49 entries.*a\.root.*which has 50"):
        FriendSource(main, {"tagger": friend})


@pytest.mark.parametrize("names", [["MET_pt"], ["MET_pt", "tagger.score", "calib.Hit_x"], ["tagger.Hit_x"]])
def test_cuts_cover_the_range_in_rising_order(joined: FriendSource, names: list[str]) -> None:
    for most in (1, 2000, 10**9):
        bounds = cut_reads(joined, names, 20, 200, max_bytes=most)
        assert (bounds[0], bounds[-1]) == (20, 200)
        assert all(np.diff(bounds) > 0)
    assert len(cut_reads(joined, names, 20, 200, max_bytes=10**9)) <= len(
        cut_reads(joined, names, 20, 200, max_bytes=1)
    )


def test_closing_closes_the_friends(joined: FriendSource) -> None:
    joined.close()
    with pytest.raises(DataError, match=r"b\.root.*is closed"):
        joined.read(["tagger.score"], 0, 1)


# Which file belongs to which


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("x1", "x2", "y1", "y2", "z1"):
        write_events(tmp_path / f"{name}.root", {"x": np.arange(3.0)})
    return tmp_path


def test_patterns_are_matched_to_files_by_position(folder: Path) -> None:
    files = [str(folder / "a.root"), str(folder / "b.root")]
    found = match_friends(files, [f"{folder}/x*.root", f"{folder}/y*.root"])
    assert [[Path(one).stem for one in friends] for friends in found] == [["x1", "y1"], ["x2", "y2"]]
    assert match_friends(files, []) == ((), ())


def test_single_files_together_are_one_friend(folder: Path) -> None:
    found = match_friends(["a.root", "b.root"], [f"{folder}/y2.root", f"{folder}/x1.root"])
    assert [[Path(one).stem for one in friends] for friends in found] == [["y2"], ["x1"]]


def test_one_file_may_have_several_friends(folder: Path) -> None:
    [friends] = match_friends(["a.root"], [f"{folder}/x1.root", f"{folder}/z1.root"])
    assert [Path(one).stem for one in friends] == ["x1", "z1"]


def test_numbers_that_do_not_fit_are_refused_with_all_of_them(folder: Path) -> None:
    with pytest.raises(DataError, match=r"3 files need as many friend files each, found 2 of .*x\*\.root, 2 of"):
        match_friends(["a", "b", "c"], [f"{folder}/x*.root", f"{folder}/y*.root"])
