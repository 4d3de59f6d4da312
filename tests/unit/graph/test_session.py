"""A session answers tensors that fit the graph and says what is wrong with others."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from mlaas4hep.errors import BundleError, RequestError
from mlaas4hep.graph.merge import merge
from mlaas4hep.graph.session import Session
from tests.small_graphs import make_mlp, make_rows, make_spec

SPEC = make_spec()


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(merge(SPEC, make_mlp(SPEC)[0]))


def test_scores_are_float32_with_one_row_an_event(session: Session) -> None:
    scores = session.run(make_rows(SPEC, 5))
    assert (scores.dtype, scores.shape, session.num_scores) == (np.float32, (5, 1), 1)


def test_no_events_give_no_scores(session: Session) -> None:
    rows = make_rows(SPEC, 0)
    assert session.run(rows).shape == session.execute(rows).shape == (0, 1)


def test_an_event_without_anything_has_a_finite_score(session: Session) -> None:
    rows = {name: np.full_like(array, np.nan) for name, array in make_rows(SPEC, 1).items()}
    assert np.isfinite(session.run(rows)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"event": None}, r"input 'event' \[N, 4\] is missing; given: jets"),
        ({"jet": np.zeros((5, 3, 5), np.float32)}, "unknown input 'jet'; did you mean 'jets'?"),
        ({"event": np.zeros((5, 4))}, "input 'event' must be float32, but is float64"),
        ({"event": [[0.0] * 4] * 5}, "input 'event' must be float32, but is no array, but a list"),
        ({"jets": np.zeros((5, 4, 5), np.float32)}, r"must have shape \[N, 3, 5\], but has \[5, 4, 5\]"),
        ({"event": np.zeros(4, np.float32)}, r"must have shape \[N, 4\], but has \[4\]"),
        ({"jets": np.zeros((6, 3, 5), np.float32)}, "same number of events, but 'event' has 5, 'jets' has 6"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(session: Session, change: dict[str, object], message: str) -> None:
    inputs = {name: array for name, array in {**make_rows(SPEC, 5), **change}.items() if array is not None}
    with pytest.raises(RequestError, match=message):
        session.run(inputs)  # type: ignore[arg-type]


def test_a_file_that_is_no_graph_is_refused() -> None:
    with pytest.raises(BundleError, match="ONNX Runtime cannot load it"):
        Session(b"not a graph")


def test_a_graph_with_other_ends_is_refused() -> None:
    with pytest.raises(BundleError, match="one output, 'scores'"):
        Session(make_mlp(SPEC)[0].model)


def test_a_session_and_the_reading_of_bundles_need_no_onnx_package() -> None:
    program = "import sys, mlaas4hep.bundle, mlaas4hep.graph.session; print('onnx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
