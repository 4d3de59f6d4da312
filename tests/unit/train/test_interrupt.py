"""A signal waits for the end of a step, and no longer."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from mlaas4hep.train.interrupt import SIGNALS, Interrupt, Interrupted


@pytest.fixture(autouse=True)
def _default_handlers() -> Iterator[None]:
    """As in a process that a shell has started."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_elsewhere_a_signal_ends_things_at_once(number: int) -> None:
    with Interrupt(), pytest.raises(Interrupted) as caught:
        signal.raise_signal(number)
    assert caught.value.number == number
    assert isinstance(caught.value, KeyboardInterrupt)
    assert signal.getsignal(number) == signal.SIG_DFL


def test_while_it_is_held_the_first_leaves_a_mark_and_the_second_ends_things() -> None:
    def step(interrupt: Interrupt) -> None:
        with interrupt.held():
            signal.raise_signal(signal.SIGTERM)
            assert (interrupt.asked, interrupt.urgent) == (True, False)
            with pytest.raises(Interrupted):
                signal.raise_signal(signal.SIGINT)
            # Swallowed, as scikit-learn does in the middle of a step: the marks stay.
            assert interrupt.urgent

    with Interrupt() as interrupt, pytest.raises(Interrupted, match="SIGTERM"):
        step(interrupt)


@pytest.mark.parametrize("earlier", [False, True])
def test_a_wait_hears_a_signal_at_once_that_came_in_it_or_before(earlier: bool) -> None:
    done = []

    def step(interrupt: Interrupt) -> None:
        with interrupt.held():
            if earlier:
                signal.raise_signal(signal.SIGTERM)
            done.append("the step")
            with interrupt.listening():
                signal.raise_signal(signal.SIGTERM)
                done.append("the wait")

    with Interrupt() as interrupt, pytest.raises(Interrupted, match="SIGTERM"):
        step(interrupt)
    assert done == ["the step"]


def test_a_mark_that_nobody_asked_for_is_found_at_the_end() -> None:
    done = []

    def step(interrupt: Interrupt) -> None:
        with interrupt.held():
            signal.raise_signal(signal.SIGHUP)
            done.append("the rest of the step")

    with Interrupt() as interrupt, pytest.raises(Interrupted, match="SIGHUP"):
        step(interrupt)
    assert done


def test_what_the_process_was_started_to_ignore_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGHUP)
    assert not interrupt.asked
