"""Far places against real servers on loopback: nginx, XRootD with and without tokens, an S3 store."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.config import Config, parse_config
from mlaas4hep.data.batches import Batch
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.locate import locate
from mlaas4hep.data.places import kind_of, open_place, persist, proxies
from mlaas4hep.data.places.persist import PATIENCE, Patience
from mlaas4hep.errors import DataError
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import Format, PlaceContract, refusal, same_batch
from tests import servers
from tests.servers import Tokens, XRootD

CONTENT = np.random.default_rng(2).bytes(9_500_123)
NAMES = ("a.root", "b c.root", "part/c.csv.gz", "part/d.root", "part/notes.md")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Served by all: one bucket, ``events``, with some files."""
    with servers.open_folder() as path:
        bucket = path / "events"
        (bucket / "part").mkdir(parents=True)
        for name in NAMES:
            (bucket / name).write_bytes(CONTENT[:2_000])
        yield path


@pytest.fixture(scope="module")
def nginx(folder: Path) -> Iterator[str]:
    with servers.nginx(folder) as address:
        yield address


@pytest.fixture(scope="module")
def xrootd(folder: Path) -> Iterator[XRootD]:
    pytest.importorskip("XRootD")
    with servers.xrootd(folder) as found:
        yield found


@pytest.fixture(scope="session")
def tokens() -> Iterator[Tokens]:
    """The same to the end: the XRootD client takes its authorities once a process, when it is first used."""
    with servers.open_folder() as own:
        yield Tokens(own)


@pytest.fixture(scope="module", autouse=True)
def _trusted(tokens: Tokens) -> Iterator[None]:
    """Before anything else of this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("X509_CERT_FILE", str(tokens.authority))
        yield


@pytest.fixture(scope="module")
def guarded(folder: Path, tokens: Tokens) -> Iterator[XRootD]:
    pytest.importorskip("XRootD")
    with servers.xrootd(folder, tokens=tokens) as found:
        yield found


@pytest.fixture(scope="module")
def store(folder: Path) -> Iterator[str]:
    pytest.importorskip("botocore")
    with servers.s3(folder) as endpoint:
        yield endpoint


@pytest.fixture
def s3(store: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The bucket, with the credentials in the environment."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", store)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", servers.KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.KEY)
    return f"s3://{servers.BUCKET}"


@pytest.fixture
def with_token(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> str:
    token = tokens.token()
    monkeypatch.setenv("BEARER_TOKEN", token)
    return token


class Served(PlaceContract):
    """The contract, on a file of the served folder."""

    name = "contract.root"

    @pytest.fixture
    def content(self) -> bytes:
        return CONTENT

    @pytest.fixture
    def rewrite(self, folder: Path) -> Callable[[bytes], object]:
        return lambda data: _put(folder / "events" / self.name, data)

    @pytest.fixture(autouse=True)
    def _written(self, rewrite: Callable[[bytes], object], content: bytes) -> None:
        rewrite(content)


def _put(file: Path, data: bytes) -> None:
    """Another time of change each time, also within the second that servers count in."""
    later = int(file.stat().st_mtime) + 2 if file.exists() else 1_700_000_000
    file.write_bytes(data)
    file.chmod(0o644)
    os.utime(file, (later, later))


class TestNginx(Served):
    @pytest.fixture
    def address(self, nginx: str) -> str:
        return f"{nginx}/events/{self.name}"


class TestRedirectedByADoor(Served):
    @pytest.fixture
    def address(self, nginx: str) -> str:
        return f"{nginx}/moved/events/{self.name}"


class TestWebDav(Served):
    @pytest.fixture
    def address(self, xrootd: XRootD) -> str:
        return f"{xrootd.http.replace('http', 'dav')}/events/{self.name}"


class TestXRootD(Served):
    @pytest.fixture
    def address(self, xrootd: XRootD) -> str:
        return f"{xrootd.root}/events/{self.name}"


@pytest.mark.usefixtures("with_token")
class TestXRootDWithTokens(Served):
    @pytest.fixture
    def address(self, guarded: XRootD) -> str:
        return f"{guarded.root}/events/{self.name}"


@pytest.mark.usefixtures("with_token")
class TestHttpsWithTokens(Served):
    @pytest.fixture
    def address(self, guarded: XRootD) -> str:
        return f"{guarded.http}/events/{self.name}"


class TestS3(Served):
    @pytest.fixture
    def address(self, s3: str) -> str:
        return f"{s3}/{self.name}"


@pytest.fixture(params=["root", "dav", "s3"])
def listing(request: pytest.FixtureRequest) -> str:
    """The folder ``events`` at every kind of place that lists."""
    if request.param == "s3":
        return str(request.getfixturevalue("s3"))
    server: XRootD = request.getfixturevalue("xrootd")
    return f"{server.root}/events" if request.param == "root" else f"{server.http.replace('http', 'dav')}/events"


def names_of(found: tuple[str, ...], base: str) -> list[str]:
    return [one.removeprefix(f"{base}/").replace("%20", " ") for one in found if "contract" not in one]


def test_folders_and_wild_cards_find_the_same_files_everywhere(listing: str) -> None:
    def expand(pattern: str) -> list[str]:
        return names_of(kind_of(listing).expand(f"{listing}/{pattern}"), listing)

    assert expand("") == ["a.root", "b c.root"]
    assert expand("part/") == ["part/c.csv.gz", "part/d.root"]
    assert expand("*.root") == ["a.root", "b c.root"]
    assert expand("**/*.root") == ["a.root", "b c.root", "part/d.root"]
    assert expand("p*/[cd].*") == ["part/c.csv.gz", "part/d.root"]
    [spaced] = kind_of(listing).expand(f"{listing}/b*.root")
    assert open_place(spaced).size == 2_000
    assert "did you mean 'a.root'" in refusal(lambda: expand("aa*.root"))


def test_a_server_that_lists_nothing_says_what_to_do(nginx: str) -> None:
    told = refusal(lambda: kind_of(nginx).expand(f"{nginx}/events/*.root"))
    assert "speaks no WebDAV" in told
    assert "text file" in told


def test_lists_of_files_may_lie_far_away(folder: Path, nginx: str) -> None:
    (folder / "list.txt").write_text(f"# some\n\nevents/a.root\n{nginx}/events/part/d.root  # the other\n")
    found = locate([f"{nginx}/list.txt"])
    assert found == (f"{nginx}/events/a.root", f"{nginx}/events/part/d.root")


def test_a_server_without_ranges_gives_small_files_whole_and_large_ones_not(folder: Path, nginx: str) -> None:
    small = open_place(f"{nginx}/plain/events/a.root")
    assert bytes(small.read([(10, 20)])[0]) == CONTENT[10:20]
    with (folder / "large.root").open("wb") as file:
        file.truncate(17 * 1024 * 1024)
    assert "gives no ranges" in refusal(lambda: open_place(f"{nginx}/plain/large.root"))
    assert open_place(f"{nginx}/large.root").size == 17 * 1024 * 1024


def test_an_empty_file_is_a_place_of_size_0(folder: Path, nginx: str, xrootd: XRootD, s3: str) -> None:
    (folder / "events" / "empty.md").touch()
    for address in (f"{nginx}/events", f"{xrootd.root}/events", f"{xrootd.http}/events", s3):
        assert open_place(f"{address}/empty.md").size == 0


@pytest.mark.parametrize("protocol", ["root", "http"])
def test_without_a_token_a_guarded_file_is_refused(
    protocol: str, guarded: XRootD, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BEARER_TOKEN", "BEARER_TOKEN_FILE", proxies.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    address = f"{getattr(guarded, protocol)}/events/a.root"
    told = _in_a_new_process(address)
    assert "DataError" in told
    assert address in told
    assert "no token was found; " in told
    assert "X509_USER_PROXY is not set" in told


def test_a_token_that_is_refused_is_told_with_its_age_and_never_shown(
    guarded: XRootD, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = tokens.token(valid_s=-3_600)
    monkeypatch.setenv("BEARER_TOKEN", late)
    told = refusal(lambda: open_place(f"{guarded.http}/events/a.root"))
    assert "expired 60 minutes ago" in told
    assert late not in told


def test_a_token_that_is_renewed_in_its_file_is_used(
    guarded: XRootD, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BEARER_TOKEN", raising=False)
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(tmp_path / "token"))
    (tmp_path / "token").write_text(tokens.token() + "\n")
    place = open_place(f"{guarded.http}/events/a.root")
    (tmp_path / "token").write_text(tokens.token(valid_s=-3_600))
    assert "expired" in refusal(lambda: place._fetch([(0, 1_000)]))  # type: ignore[attr-defined]
    (tmp_path / "token").write_text(tokens.token())
    assert bytes(place._fetch([(0, 1_000)])[0]) == CONTENT[:1_000]  # type: ignore[attr-defined]


def test_an_unknown_authority_is_no_secure_connection(guarded: XRootD, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("X509_CERT_FILE")
    assert "certificate verify failed" in refusal(lambda: open_place(f"{guarded.http}/events/a.root"))


KINDS_OF_ASKING = ["nginx", "TLSv1_2", "TLSv1_3"]


@pytest.fixture(scope="module", params=KINDS_OF_ASKING)
def asking(request: pytest.FixtureRequest, folder: Path, tokens: Tokens) -> Iterator[str]:
    """A server that lets nobody in without a certificate of ours."""
    kind = str(request.param)
    with (
        servers.nginx(folder, tokens=tokens)
        if kind == "nginx"
        else servers.asking_tls(folder, tokens, newest=ssl.TLSVersion[kind])
    ) as address:
        yield f"{address}/events/a.root"


@pytest.fixture(scope="module")
def good_proxy(tokens: Tokens) -> Path:
    return tokens.proxy()


@pytest.fixture(scope="module")
def old_proxy(tokens: Tokens) -> Path:
    return tokens.proxy(ends="20200102030000Z")


def test_a_proxy_is_shown_to_a_server_that_asks_and_a_lack_of_it_is_told(
    asking: str, good_proxy: Path, old_proxy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, as where a proxy is renewed in the midst of a session."""
    monkeypatch.setattr(persist, "PATIENCE", Patience(stall_s=5.0, pause_s=0.001, attempts=2))
    monkeypatch.setattr(proxies, "_usual", lambda: str(good_proxy.parent / "x509up_u7"))
    monkeypatch.delenv(proxies.VARIABLE, raising=False)
    told = refusal(lambda: open_place(asking))
    assert "a certificate of ours" in told
    assert f"X509_USER_PROXY is not set, and there is no {good_proxy.parent}/x509up_u7" in told
    monkeypatch.setenv(proxies.VARIABLE, str(old_proxy))
    told = refusal(lambda: open_place(asking))
    assert f"the X.509 proxy {old_proxy} (X509_USER_PROXY) expired on 2020-01-02 03:00 UTC, 2" in told
    assert "days ago" in told
    monkeypatch.setenv(proxies.VARIABLE, str(good_proxy))
    assert bytes(open_place(asking).read([(5, 500)])[0]) == CONTENT[5:500]


def test_a_proxy_that_cannot_be_used_says_why_and_shows_nothing_of_it(
    good_proxy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = good_proxy.read_text()
    certificate, key = text[: text.index("-----BEGIN PRIVATE")], text[text.index("-----BEGIN PRIVATE") :]
    for broken, why in (
        (certificate, "it holds no private key"),
        (key, "it holds no certificate"),
        (certificate + key.replace("BEGIN PRIVATE", "BEGIN ENCRYPTED PRIVATE"), "is locked by a password"),
        (None, "no such file"),
    ):
        path = tmp_path / "proxy"
        path.unlink() if broken is None else path.write_text(broken)
        monkeypatch.setenv(proxies.VARIABLE, str(path))
        told = refusal(lambda: open_place("https://localhost:1/a.root"))
        assert why in told
        assert "X509_USER_PROXY" in told
        assert str(path) in told
        assert not any(line in told for line in text.splitlines())


def test_wrong_keys_and_none_are_refused_by_the_store(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    assert "HTTP 403" in refusal(lambda: open_place(f"{s3}/a.root"))
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "yes")
    assert "without credentials" in refusal(lambda: open_place(f"{s3}/a.root"))


def test_the_next_replica_takes_over(folder: Path, nginx: str, xrootd: XRootD) -> None:
    replicas = [f"{nginx}/events/gone.root", f"{xrootd.root}/events/a.root", f"{nginx}/events/a.root"]
    place = open_place(replicas[0], replicas=replicas)
    assert place.url == replicas[0]
    assert bytes(place.read([(5, 500)])[0]) == CONTENT[5:500]
    assert place.effort.failovers == 1  # type: ignore[attr-defined]


@pytest.mark.slow  # XRootD waits for the dead line when it is closed, and so do we
def test_a_line_that_goes_dead_is_left_for_the_next_replica(
    folder: Path, xrootd: XRootD, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(folder / "events" / "contract.root", CONTENT)
    monkeypatch.setattr(persist, "PATIENCE", Patience(stall_s=1.0, pause_s=0.01))
    port = int(xrootd.root.rstrip("/").rpartition(":")[2])
    with servers.freezing(port, after_bytes=1_000_000) as frozen:
        replicas = [f"root://127.0.0.1:{frozen}//events/contract.root", f"{xrootd.root}/events/contract.root"]
        place = open_place(replicas[0], replicas=replicas)
        ranges = [(at, at + 300_000) for at in range(0, 9_000_000, 600_000)]
        assert [bytes(one) for one in place.read(ranges)] == [CONTENT[start:stop] for start, stop in ranges]
        assert place.effort.failovers >= 1  # type: ignore[attr-defined]
        place.close()


def test_a_process_ends_though_its_line_is_dead(folder: Path, xrootd: XRootD) -> None:
    _put(folder / "events" / "contract.root", CONTENT)
    port = int(xrootd.root.rstrip("/").rpartition(":")[2])
    with servers.freezing(port, after_bytes=50_000) as frozen:
        until = "try:\n    p.read([(0, 9_000_000)])\nexcept Exception as error:\n    print(type(error).__name__)"
        quick = (
            "from mlaas4hep.data.places import persist\npersist.PATIENCE = persist.Patience(stall_s=0.5, attempts=1)"
        )
        address = f"root://127.0.0.1:{frozen}//events/contract.root"
        assert _in_a_new_process(address, before=quick, then=until) == ""


def test_nothing_hangs_when_the_interpreter_ends_or_forks(xrootd: XRootD) -> None:
    address = f"{xrootd.root}/events/a.root"
    assert _in_a_new_process(address, then="import sys; sys.exit(0)") == ""
    assert "RuntimeError" in _in_a_new_process(address, then="raise RuntimeError('in the midst')")
    reading = "target=lambda: [p.read([(0, 2000)]) for _ in iter(int, 1)], daemon=True"
    assert _in_a_new_process(address, then=f"import threading; threading.Thread({reading}).start()") == ""
    told = _in_a_new_process(
        address,
        then="""
import os, sys
child = os.fork()
if not child:
    try:
        p._fetch([(0, 10)])
    except Exception as error:
        print(error, file=sys.stderr)
    print(open_place(url).size, file=sys.stderr)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert p._fetch([(0, 10)])
""",
    )
    assert "before this process was forked" in told
    assert told.strip().endswith("2000")


def _in_a_new_process(address: str, *, before: str = "", then: str = "") -> str:
    """What it says to the error stream; it has a minute, which only a hang takes."""
    code = f"{before}\nfrom mlaas4hep.data.places import open_place\nurl = {address!r}\np = open_place(url)\n{then}\n"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stderr


@pytest.fixture
def streams(
    small_files: dict[Format, Path], folder: Path, nginx: str, xrootd: XRootD, s3: str
) -> Callable[[str], EventDataset]:
    """The small files as a stream, by the place that they are read from."""
    for path in small_files["ttree"].glob("*.root"):
        shutil.copy(path, folder / "events" / path.name)
    bases = {
        "local": str(small_files["ttree"]),
        "http": f"{nginx}/events",
        "dav": f"{xrootd.http.replace('http', 'dav')}/events",
        "root": f"{xrootd.root}/events",
        "s3": s3,
    }

    return lambda place: _opened(bases[place])


def _opened(base: str) -> EventDataset:
    config = _config(base)
    catalogue = Catalogue.open(config)
    preprocessor = Preprocessor(config.features, catalogue.types)
    return EventDataset(catalogue, preprocessor, shuffle=True, batch_size=64, threads=2)


def batches(stream: EventDataset) -> list[Batch]:
    with stream.epoch(0) as one:
        return list(one)


def _config(base: str) -> Config:
    return parse_config(
        f"""
samples:
  signal: {{files: ['{base}/signal0.root', '{base}/signal1.root']}}
  background: {{files: '{base}/background0.root'}}
inputs:
  event: [MET_pt]
  jets: {{vars: [Jet_pt, Jet_eta], length: 3, sort: -Jet_pt}}
weights: {{event: genWeight}}
"""
    )


def test_events_from_every_place_are_the_same_bits(streams: Callable[[str], EventDataset]) -> None:
    local = batches(streams("local"))
    assert sum(len(batch.labels) for batch in local) > 300
    for place in ("http", "dav", "root", "s3"):
        far = batches(streams(place))
        assert len(far) == len(local)
        assert all(map(same_batch, far, local)), place


def test_events_stream_from_a_server_that_asks_for_a_proxy(
    small_files: dict[Format, Path], tokens: Tokens, good_proxy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(proxies.VARIABLE, str(good_proxy))
    with servers.open_folder() as own, servers.nginx(own, tokens=tokens) as address:
        for path in small_files["ttree"].glob("*.root"):
            shutil.copy(path, own / path.name)
        far, local = (batches(_opened(base)) for base in (address, str(own)))
    assert sum(map(len, far)) > 300
    assert all(same_batch(one, other) for one, other in zip(far, local, strict=True))


def test_files_that_are_not_here_come_through_the_redirector(
    small_files: dict[Format, Path], folder: Path, xrootd: XRootD, nginx: str
) -> None:
    shutil.copy(small_files["ttree"] / "signal0.root", folder / "events" / "signal0.root")
    shutil.copy(small_files["ttree"] / "background0.root", folder / "events" / "background0.root")
    text = f"""
redirector: ['{xrootd.root.rstrip("/")}', '{nginx}']
samples:
  signal: {{files: /events/signal0.root}}
  background: {{files: '/events/back*.root'}}
inputs: {{event: [MET_pt]}}
"""
    files = Catalogue.open(parse_config(text)).files
    assert [file.path for file in files] == [f"{xrootd.root}/events/{one}0.root" for one in ("signal", "background")]
    assert all(len(file.replicas) == 2 for file in files)
    missing = parse_config(text.replace("signal0", "signal9"))
    with pytest.raises(DataError, match=r"signal9\.root: cannot be opened"):
        Catalogue.open(missing)


def test_patience_is_short_at_first_and_bounded_in_all() -> None:
    assert PATIENCE.stall(0) <= 5
    assert sum(PATIENCE.stall(one) for one in range(PATIENCE.attempts)) <= 120
