"""Load by the clock accounts for every request; rows in company are judged by their bits."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from benchmarks.openloop import Lines
from benchmarks.rows import Asked, judged

QUESTION = b"POST /x HTTP/1.1\r\ncontent-length: 1\r\n\r\nq"


def answer(status: str, body: bytes, more: str = "") -> bytes:
    return f"HTTP/1.1 {status} word\r\nX-Content-Length: 1\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


GOOD, OTHER = answer("200", b"right"), answer("200", b"wrong")
FULL, BARE = answer("503", b"busy", "retry-after: 1\r\n"), answer("503", b"busy")


@contextmanager
def replying(reply: Callable[[int], bytes | None]) -> Iterator[tuple[str, int]]:
    """Answers the n-th question of all with that; None hangs up."""
    door = socket.create_server(("127.0.0.1", 0))
    count = [0]

    def talk(line: socket.socket) -> None:
        with line, contextlib.suppress(OSError):
            rest = b""
            while data := line.recv(1 << 16):
                *whole, rest = (rest + data).split(QUESTION)
                for _ in whole:
                    count[0] += 1
                    found = reply(count[0])
                    if found is None:
                        return
                    line.sendall(found[:7])  # in pieces, which a reader has to put together
                    line.sendall(found[7:])

    def accept() -> None:
        while True:
            try:
                line, _ = door.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(line,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield door.getsockname()
    finally:
        door.close()


def test_every_request_is_right_wrong_refused_or_something_else() -> None:
    turns = [GOOD, OTHER, FULL, BARE, answer("400", b"no")]
    with replying(lambda number: turns[number % 5]) as address, Lines(address, [(QUESTION, GOOD[9:])] * 3) as lines:
        seen = lines.by_clock(500, 0.1, wait_s=20)
    assert seen.asked >= 25
    assert seen.open == seen.broken == 0
    assert len(seen.waited_s) + seen.wrong + seen.refused + seen.statuses["400"] == seen.asked
    assert min(len(seen.waited_s), seen.wrong, seen.bare) >= 5
    assert seen.refused > seen.bare
    assert 0 < seen.waited_ms(0.5) <= seen.waited_ms(0.99)


def test_connections_that_break_are_made_again_and_their_questions_counted() -> None:
    hangs = {10, 30}
    with replying(lambda number: None if number in hangs else GOOD) as address:
        with Lines(address, [(QUESTION, GOOD[9:])] * 2, mends=True) as lines:
            seen = lines.by_clock(500, 0.15, wait_s=20)
        assert seen.broken >= 2
        assert len(seen.waited_s) + seen.broken + seen.open == seen.asked
        hangs.add(40 + seen.asked)
        with pytest.raises(ConnectionResetError), Lines(address, [(QUESTION, None)]) as lines:
            lines.in_turn(100, 20)


def test_rows_in_company_are_judged_by_every_bit() -> None:
    offline = np.float32([[0.25], [0.5], [0.75], [0.125]])
    bits = [one.tobytes() for one in offline]
    near = np.float32([0.5 + 1e-7]).tobytes()
    asked = Asked(None, {}, offline)  # type: ignore[arg-type]
    found = judged(asked, bits, {0: bits[0], 1: near, 2: bits[1], 3: None})
    assert found == {"requests": 4, "distinct_scores": 4, "wrong": 2, "differing_bits": 3}
    assert judged(asked, bits, dict(enumerate(bits)))["differing_bits"] == 0
