from __future__ import annotations

import pytest

from mlaas4hep.client.attempts import retry_after_s
from mlaas4hep.client.servers import Servers, address_of
from mlaas4hep.errors import UserError

A, B, C = "http://a:1", "http://b:2", "https://c"


def test_the_one_that_answered_is_asked_until_it_fails_and_a_dead_one_comes_back_after_a_while() -> None:
    now = [0.0]
    servers = Servers([A, B], clock=lambda: now[0])
    first, second = servers.addresses
    assert servers.current == first
    servers.failed(first)
    assert servers.current == second
    servers.well(second)
    now[0] = 100.0
    assert servers.current == second, "it stays where it was answered"
    servers.failed(second)
    assert servers.current == first, "whose time is over"


def test_where_all_have_failed_the_one_is_asked_whose_time_is_over_first() -> None:
    now = [0.0]
    servers = Servers([A, B, C], clock=lambda: now[0])
    for count in (1, 2, 3):
        servers.failed(servers.addresses[1])
        assert servers.wait_s() == 0.0, count
    servers.failed(servers.addresses[0])
    servers.failed(servers.addresses[2])
    assert servers.current == servers.addresses[0]
    assert servers.wait_s() == 1.0
    servers.failed(servers.addresses[0])
    assert servers.current == servers.addresses[2]
    servers.well(servers.addresses[1])
    assert servers.wait_s() == 0.0


def test_a_server_that_is_busy_is_left_alone_as_long_as_it_asks() -> None:
    now = [0.0]
    servers = Servers([A, B], clock=lambda: now[0])
    servers.busy(servers.addresses[0], 7.0)
    servers.busy(servers.addresses[1], 5.0)
    assert servers.current == servers.addresses[1] or servers.wait_s() == 5.0


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("http://host", ("http", "host", 80, "", "host")),
        ("https://host/base/", ("https", "host", 443, "/base", "host")),
        ("http://[::1]:8000", ("http", "::1", 8000, "", "[::1]:8000")),
    ],
)
def test_a_url_is_read(url: str, wanted: tuple[str, str, int, str, str]) -> None:
    found = address_of(url)
    assert (found.scheme, found.host, found.port, found.prefix, found.authority) == wanted


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "ftp://host", "http://", "http://host:port", "http://u:p@host", "http://a b", "http://h?x=1"],
)
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(UserError):
        Servers(url)


def test_a_password_in_a_url_does_not_stand_in_the_message() -> None:
    for url in ("http://user:secret@host", "ftp://user:secret@host"):
        with pytest.raises(UserError) as caught:
            Servers(url)
        assert "secret" not in str(caught.value)


def test_no_server_is_refused() -> None:
    with pytest.raises(UserError, match="no server is given"):
        Servers([])


def test_a_date_to_come_back_at_is_understood() -> None:
    assert retry_after_s("Fri, 31 Dec 9999 23:59:59 GMT") > 1e9
    assert retry_after_s("²") == 0.0
