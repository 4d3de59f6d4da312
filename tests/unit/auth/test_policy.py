"""The file of --auth: all that is wrong with it at once, and nothing open that it does not open."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlaas4hep.auth import ACTIONS, parse_policy, read_policy
from mlaas4hep.auth.policy import Need
from mlaas4hep.errors import ConfigError

GOOD = """
issuers: [https://cms-auth.cern.ch/]
audience: https://ml.example.org
"""


def test_the_shortest_file_opens_nothing() -> None:
    policy = parse_policy(GOOD)
    assert set(policy.needs) == set(ACTIONS)
    assert all(Need("anyone") not in needs for needs in policy.needs.values())
    assert policy.needs["infer"] == (Need("scope", "compute.read"),)
    assert all(
        one.startswith(("RS", "PS", "ES", "Ed")) for one in policy.issuers["https://cms-auth.cern.ch/"].algorithms
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "not a mapping of keys such as issuers, audience, allow"),
        ("a: 1", "a: unknown key"),
        ("a: 1", "issuers: is missing"),
        ("a: 1", "audience: is missing"),
        (GOOD + "alow: {}", "alow: unknown key; did you mean 'allow'"),
        (GOOD + "allow: {infr: anyone}", "allow.infr: unknown; did you mean 'infer'"),
        (GOOD + "allow: {infer: []}", "allow.infer: asked for text or a list of texts"),
        (GOOD + "allow: {infer: storage.read}", "lacks the path"),
        (GOOD + "allow: {infer: 'a b'}", "'a b' is not a scope; or anyone, token"),
        (GOOD + "allow: {infer: compute.read, infer: anyone}", "key 'infer' is given twice"),
        (GOOD + "1: 2", "1: unknown key"),
        (GOOD + "allow: anyone", "allow: asked for a mapping"),
        (GOOD + "clock_skew_s: -1", "clock_skew_s: asked for a number of seconds"),
        (GOOD.replace("https://cms", "http://cms"), "is not https"),
        (GOOD.replace("https://cms-auth.cern.ch/", ""), "issuers: is empty"),
        (GOOD.replace("https://cms-auth.cern.ch/", "5"), "asked for a URL such as https://cms-auth.cern.ch/, found 5"),
        (GOOD.replace("[https:", "[{issuer: 'https://a.b', algorithms: [HS256]}, https:"), "'HS256'.*public key"),
        (GOOD.replace("[https:", "[{issuer: 'https://a.b', authority: no.pem}, https:"), "no file 'no.pem'"),
        (GOOD.replace("[https:", "[https://a.b/, https:") + "allow: {infer: subject:me}", "needs a single issuer"),
    ],
)
def test_what_is_wrong_is_told(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_policy(text)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_policy(tmp_path / "auth.yaml")
