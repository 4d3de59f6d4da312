"""The file of limits: read whole or refused with all that is wrong; a client's share is its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlaas4hep.errors import ConfigError
from mlaas4hep.serve import shares as module
from mlaas4hep.serve.limits import ClientLimits, Limits, QueueLimits, parse_limits, read_limits
from mlaas4hep.serve.shares import Share, Shares


def test_a_file_says_what_holds_for_all_and_for_one() -> None:
    found = parse_limits(
        "request: {max_body_bytes: 1000}\nconnection: {connections: 7, unfinished_s: 0.5}\nclient: {rate: 2.5}\n"
        "model: {wait_s: 1}\nmodels: {slow: {rows: 4}}\n",
        queue=QueueLimits(wait_s=3.0, max_wait_ms=2.0),
    )
    assert (found.max_body_bytes, found.max_instances) == (1000, Limits().max_instances)
    assert (found.wire.connections, found.wire.unfinished_s, found.client.rate) == (7, 0.5, 2.5)
    assert found.queue_of("any") == QueueLimits(wait_s=1, max_wait_ms=2.0)
    assert found.queue_of("slow") == QueueLimits(wait_s=1, max_wait_ms=2.0, rows=4)
    assert parse_limits("{}") == Limits()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clients: {rate: 1}", "clients: unknown key; did you mean 'client'"),
        ("client: {rat: 1}", "client.rat: unknown key; did you mean 'rate'"),
        ("models: {tth: {wait: 1}}", "models.tth.wait: unknown key; did you mean 'wait_s'"),
        ("model: {rows: 1.5}", "model.rows: asked for a whole number from 1 on, found 1.5"),
        ("model: {wait_s: .nan}", "model.wait_s: asked for a number from 0.001 on, found nan"),
        ("client: {questions: true}", "client.questions: asked for a whole number from 1 on, found True"),
        ("client: 5", "client: asked for a mapping of connections, questions, rate, found 5"),
        ("models: [tth]", "models: asked for a mapping such as"),
        ("[1]", "is not a mapping of keys such as model, models, client"),
        ("model: {rows: 1}\nmodel: {rows: 2}", "key 'model' is given twice"),
    ],
)
def test_a_file_that_cannot_be_followed_is_refused_by_its_place(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "limits.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_limits(path)
    assert said in str(refused.value)
    assert "limits.yaml" in str(refused.value)


def share_of(shares: Shares, address: str) -> Share:
    found = shares.enter(address)
    assert found is not None
    return found


def test_who_asks_faster_than_allowed_is_told_when_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    shares = Shares(ClientLimits(rate=2.0))
    one, other = share_of(shares, "192.0.2.1"), share_of(shares, "192.0.2.2")
    assert [shares.refusal(one, asks=True) for _ in range(2)] == [None, None]
    refused = shares.refusal(one, asks=False)
    assert refused is not None
    assert (refused.status, refused.headers) == (429, {"Retry-After": "1"})
    assert "may make 2 requests a second" in refused.text
    assert shares.refusal(other, asks=True) is None
    now[0] += 0.6
    assert shares.refusal(one, asks=True) is None
    assert shares.refusal(one, asks=True) is not None


def test_a_client_is_its_address_over_all_connections_and_strangers_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    shares = Shares(ClientLimits(connections=1))
    first = share_of(shares, "2001:db8::1")
    assert not shares.is_crowded(first)
    assert shares.enter("2001:db8::2") is first
    refused = shares.refusal(first, asks=False)
    assert refused is not None
    assert "2 connections of this client are open, and 1 may be" in refused.text
    shares.leave(first)
    assert shares.refusal(first, asks=False) is None
    for number in range(module._MANY):
        shares.leave(shares.enter(f"10.0.{number // 256}.{number % 256}"))
    now[0] += 5
    shares.enter("10.1.0.0")
    assert len(shares._shares) == 2, "who is connected, and who came last"
    assert Shares(ClientLimits()).enter("192.0.2.1") is None
