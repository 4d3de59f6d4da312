"""Load by the clock: requests leave when they are due, whatever has been answered, and waiting counts from then.

Plain sockets with requests that were made before, in one thread over one epoll: a request and its answer cost this
process a few microseconds, less than any server. A connection asks its own question, again and again, and does not wait
for answers (HTTP/1.1 pipelining), so that each answer can be held against the one that is right. Invariant: every
request is accounted for, as answered rightly, answered wrongly, refused, broken off or still open at the end.
"""

from __future__ import annotations

import gc
import re
import select
import socket
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

TICK_S = 1e-3
_READ = 1 << 18
_START = b"HTTP/1.1 "
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_ERRORS = (ConnectionResetError, BrokenPipeError, ConnectionRefusedError)


@dataclass
class Seen:
    """What became of the requests of one load.

    Attributes
    ----------
    asked
        Requests that were due.
    seconds
        From the first request until none was due any more.
    waited_s
        Of right answers: from when the request was due to its answer.
    refused, bare
        Answers 503; those of them without ``Retry-After``.
    wrong
        Answers 200 that are not those of the row.
    statuses
        Of all other answers.
    broken
        Requests whose connection ended before their answer.
    late_s
        The most that this process was behind its clock.
    """

    asked: int = 0
    seconds: float = 0.0
    waited_s: array[float] = field(default_factory=lambda: array("d"))
    refused: int = 0
    bare: int = 0
    wrong: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    broken: int = 0
    open: int = 0
    late_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def rps(self) -> float:
        """Right answers a second."""
        return len(self.waited_s) / self.seconds

    def waited_ms(self, share: float) -> float:
        """A quantile of the waiting of right answers."""
        waited = sorted(self.waited_s)
        return waited[min(int(share * len(waited)), len(waited) - 1)] * 1e3 if waited else float("nan")


class Line:
    """A connection, its question, and what of it is under way."""

    def __init__(self, address: tuple[str, int], request: bytes, answer: bytes | None) -> None:
        self.address = address
        self.request = request
        self.answer = answer
        self.due_s: deque[float] = deque()
        self.rest = b""
        self.unsent = b""
        self.connect()

    def connect(self) -> None:
        """Anew, where it was broken."""
        self.socket = socket.create_connection(self.address, timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.rest = self.unsent = b""

    def send(self, due_s: Sequence[float]) -> None:
        """Ask as many times; what the socket does not take is kept."""
        self.due_s.extend(due_s)
        self.push(self.request * len(due_s))

    def push(self, more: bytes = b"") -> None:
        """Hand the socket what it takes."""
        data = self.unsent + more if self.unsent else more
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except _ERRORS:
            sent = len(data)  # whoever reads from it finds out, and counts what is lost
        self.unsent = data[sent:]


class Lines:
    """All connections of a load.

    Parameters
    ----------
    address
        Host and port.
    pairs
        A question for each connection, and its answer as the wire brings it; None takes the first one for right.
    mends
        Connect again where a connection breaks.
    """

    def __init__(
        self, address: tuple[str, int], pairs: Sequence[tuple[bytes, bytes | None]], *, mends: bool = False
    ) -> None:
        self.lines = [Line(address, *pair) for pair in pairs]
        self._mends = mends
        self._epoll = select.epoll()
        self._by_number: dict[int, Line] = {}
        for line in self.lines:
            self._watch(line)

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._epoll.close()
        for line in self.lines:
            line.socket.close()

    def by_clock(
        self, rps: float, seconds: float, *, wait_s: float, on_tick: Callable[[float], None] | None = None
    ) -> Seen:
        """Ask so often, and wait for the answers that are missing at the end.

        Parameters
        ----------
        wait_s
            How long at most.
        on_tick
            Told the seconds since the start, now and then.
        """
        seen, place, begin_s, cpu_s = Seen(), 0, time.perf_counter(), time.process_time()
        gc.disable()
        while (now_s := time.perf_counter() - begin_s) < seconds:
            due = int(now_s * rps) - seen.asked
            if due > 0:
                seen.late_s = max(seen.late_s, due / rps)
                place = self._spread(begin_s + seen.asked / rps, 1 / rps, due, place)
                seen.asked += due
            if on_tick is not None:
                on_tick(now_s)
            self._read(seen, max(TICK_S - (time.perf_counter() - begin_s - now_s), 0.0))
        seen.seconds = time.perf_counter() - begin_s
        ends_s = time.perf_counter() + wait_s
        while any(line.due_s for line in self.lines) and time.perf_counter() < ends_s:
            self._read(seen, 0.01)
        gc.enable()
        seen.open, seen.cpu_s = sum(len(line.due_s) for line in self.lines), time.process_time() - cpu_s
        return seen

    def in_turn(self, depth: int, seconds: float) -> Seen:
        """Ask as soon as an answer came, so many questions at a time on each connection."""
        seen, begin_s, cpu_s = Seen(), time.perf_counter(), time.process_time()
        gc.disable()
        while (now_s := time.perf_counter()) - begin_s < seconds:
            for line in self.lines:
                free = depth - len(line.due_s)
                if free > 0 and (free == depth or free >= depth // 2):
                    self._send(line, [now_s] * free)
                    seen.asked += free
            self._read(seen, 0.1)
        seen.seconds = time.perf_counter() - begin_s
        while any(line.due_s for line in self.lines) and time.perf_counter() - begin_s < seconds + 10:
            self._read(seen, 0.01)
        gc.enable()
        seen.open, seen.cpu_s = sum(len(line.due_s) for line in self.lines), time.process_time() - cpu_s
        return seen

    def _spread(self, first_s: float, step_s: float, due: int, place: int) -> int:
        """Requests that are due, over the connections in turn; each gets neighbours, for one call of the system."""
        lines, done = self.lines, 0
        share = -(-due // len(lines))
        while done < due:
            count = min(share, due - done)
            self._send(lines[place % len(lines)], [first_s + (done + one) * step_s for one in range(count)])
            done += count
            place += 1
        return place % len(lines)

    def _read(self, seen: Seen, timeout_s: float) -> None:
        for number, event in self._epoll.poll(timeout_s):
            line = self._by_number[number]
            try:
                if event & select.EPOLLOUT:
                    line.push()
                    self._listen(line)
                if event & ~select.EPOLLOUT:
                    data = line.socket.recv(_READ)
                    if not data:
                        raise ConnectionResetError
                    self._take(line, data, seen)
            except BlockingIOError:
                continue
            except _ERRORS:
                self._broken(line, seen)

    def _take(self, line: Line, data: bytes, seen: Seen) -> None:
        """Count answers that are whole."""
        now_s = time.perf_counter()
        whole = line.rest + data if line.rest else data
        first, *pieces = whole.split(_START)
        if first or not pieces:
            if not _START.startswith(whole):
                raise ConnectionResetError  # what comes is no answer
            line.rest = whole
            return
        last = pieces[-1]
        size = _size(last)
        if size is None or len(last) < size:
            line.rest = _START + pieces.pop()
        else:
            pieces[-1], line.rest = last[:size], last[size:]
        for piece in pieces:
            due_s = line.due_s.popleft()
            if piece == line.answer:
                seen.waited_s.append(now_s - due_s)
            else:
                self._note(line, piece, now_s - due_s, seen)

    def _note(self, line: Line, piece: bytes, waited_s: float, seen: Seen) -> None:
        status = piece[:3].decode("latin-1")
        if status == "503":
            seen.refused += 1
            seen.bare += b"retry-after: " not in piece
        elif status != "200":
            seen.statuses[status] = seen.statuses.get(status, 0) + 1
        elif line.answer is None:
            line.answer = piece
            seen.waited_s.append(waited_s)
        else:
            seen.wrong += 1

    def _broken(self, line: Line, seen: Seen) -> None:
        if not self._mends:
            raise ConnectionResetError(f"a connection ended with {len(line.due_s)} questions open")
        seen.broken += len(line.due_s)
        line.due_s.clear()
        self._epoll.unregister(line.socket)
        del self._by_number[line.socket.fileno()]
        line.socket.close()
        line.connect()
        self._watch(line)

    def _watch(self, line: Line) -> None:
        self._by_number[line.socket.fileno()] = line
        self._epoll.register(line.socket, select.EPOLLIN)

    def _send(self, line: Line, due_s: Sequence[float]) -> None:
        line.send(due_s)
        if line.unsent:
            self._listen(line)

    def _listen(self, line: Line) -> None:
        """To what it says, and while something waits to be sent, to whether it takes more."""
        self._epoll.modify(line.socket, select.EPOLLIN | (select.EPOLLOUT if line.unsent else 0))


def _size(piece: bytes) -> int | None:
    """Of a whole answer behind its first word; None where its head does not tell yet."""
    head = piece.find(b"\r\n\r\n")
    found = _LENGTH.search(piece, 0, head) if head >= 0 else None
    return None if found is None else head + 4 + int(found[1])
