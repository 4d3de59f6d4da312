"""Scores from servers: the same bytes as from the bundle, through failures, and nothing from another model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from mlaas4hep.bundle import Bundle
from mlaas4hep.errors import BundleError, NotFoundError, RequestError, ServerError
from mlaas4hep.score import passes
from mlaas4hep.score.asked import ask
from mlaas4hep.score.run import score_files
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService
from tests.crooked_server import Asked, crooked, reply
from tests.scored import read_output, write_input
from tests.small_bundle import write_small_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_small_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def url(bundle: Bundle) -> Iterator[str]:
    with background(InferenceService(open_repository(bundle.path.parent))) as found:
        yield found


def scores(bundle: Bundle, path: Path, out: Path, *urls: str, **client: object) -> bytes:
    asked = ask([bundle], urls=urls, client=client)
    try:
        done = score_files(asked, [str(path)], str(out))
    finally:
        asked.close()
    return read_output(done.outputs[0].path)["tth_signal"].tobytes()


def test_a_server_gives_the_bytes_of_the_bundle(bundle: Bundle, url: str, tmp_path: Path) -> None:
    write_input(tmp_path / "a.root", 10_000, cluster=3_000)
    assert scores(bundle, tmp_path / "a.root", tmp_path / "there", url) == scores(
        bundle, tmp_path / "a.root", tmp_path / "here"
    )


def test_what_one_server_fails_the_next_answers(bundle: Bundle, url: str, tmp_path: Path) -> None:
    write_input(tmp_path / "a.root", 500)
    here = scores(bundle, tmp_path / "a.root", tmp_path / "here")

    def busy(asked: Asked) -> bytes:
        return reply(503, {"error": "too much is asked"})

    with crooked(busy) as server:
        dead = "http://127.0.0.1:1"
        assert scores(bundle, tmp_path / "a.root", tmp_path / "there", dead, server.url, url, retries=8) == here
    assert server.asked


def test_another_model_of_that_name_is_refused(bundle: Bundle, url: str, tmp_path: Path) -> None:
    other = write_small_bundle(tmp_path, seed=7)
    with pytest.raises(BundleError, match=r"serves another 'tth'.*spec_sha256|model_sha256 is"):
        ask([other], urls=[url])
    unknown = write_small_bundle(tmp_path, name="tthh")
    with pytest.raises(NotFoundError, match="tthh"):
        ask([unknown], urls=[url])


def test_the_next_server_answers_with_the_same_model_or_not_at_all(bundle: Bundle, url: str, tmp_path: Path) -> None:
    write_input(tmp_path / "a.root", 500)
    other = write_small_bundle(tmp_path / "other", seed=7)  # of the same name and version
    with background(InferenceService(open_repository(other.path.parent))) as another:
        with background(InferenceService(open_repository(bundle.path.parent))) as first:
            asked = ask([bundle], urls=[first, another], client={"retries": 3, "timeout_s": 10.0})
        try:
            with pytest.raises(RequestError, match="is another than the one that is asked for: model_sha256 is"):
                score_files(asked, [str(tmp_path / "a.root")], str(tmp_path / "out"))
        finally:
            asked.close()
    assert list((tmp_path / "out").iterdir()) == []


def test_many_batches_of_one_cluster_are_under_way_at_once(bundle: Bundle, url: str, tmp_path: Path) -> None:
    write_input(tmp_path / "a.root", 3_000, cluster=3_000)
    here = scores(bundle, tmp_path / "a.root", tmp_path / "here")
    with mock.patch.object(passes, "BATCH", 64):  # more than may be asked side by side
        assert scores(bundle, tmp_path / "a.root", tmp_path / "there", url) == here


def test_a_server_that_goes_away_ends_it_without_an_output(bundle: Bundle, tmp_path: Path) -> None:
    write_input(tmp_path / "a.root", 500)
    with background(InferenceService(open_repository(bundle.path.parent))) as url:
        asked = ask([bundle], urls=[url], client={"retries": 1, "timeout_s": 5.0})
    try:
        with pytest.raises(ServerError):
            score_files(asked, [str(tmp_path / "a.root")], str(tmp_path / "out"))
    finally:
        asked.close()
    assert list((tmp_path / "out").iterdir()) == []
