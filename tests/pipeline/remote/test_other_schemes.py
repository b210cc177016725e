"""Shards over TLS from a web server, and over FTP: what is not S3 goes the same way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import ShardError, UserError
from pipeline.remote.cache import Cache
from pipeline.shards.files import ShardFiles
from pipeline.shards.index import scan
from pipeline.shards.patterns import expand
from pipeline.shards.rows import payload_of
from tests.pictures import tiny_shards
from tests.servers.ftp import Ftp, ftp_server
from tests.servers.s3 import forget
from tests.servers.web import certificate_for_loopback, web_server

ROOT = Path(__file__).parents[3]
NAMES, ROWS = ["ant", "bee", "cat"], 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    tiny_shards(folder, rows=ROWS, shards=2, classes=3, class_names=NAMES)
    return folder


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DISTILL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("pipeline.remote.client.FIRST_PAUSE_S", 0.01)
    forget()
    yield
    forget()


def read(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


# ---- https


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("there is no `openssl` command: no certificate can be made")
    return certificate_for_loopback(tmp_path_factory.mktemp("tls") / "loopback.pem")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_web_server_over_tls_gives_what_files_give(folder, certificate, tmp_path, ranges) -> None:
    with web_server(folder, ranges=ranges, certificate=certificate) as web:
        code = (
            "from pipeline.shards.index import scan; from pipeline.processes.start import settle_start_method\n"
            "from pipeline.shards.patterns import expand; import sys\n"
            "if __name__ == '__main__':\n"
            "    urls = expand(sys.argv[1:]); settle_start_method(urls, None)\n"
            "    index = scan(urls, workers=2)\n"
            "    print(index.digest(), *index.class_names)\n"
        )
        script = tmp_path / "look.py"
        script.write_text(code)
        env = {**os.environ, "SSL_CERT_FILE": str(certificate), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        line = [sys.executable, str(script), f"{web.url}/{{000000..000001}}.tar"]
        done = subprocess.run(line, capture_output=True, text=True, check=False, env=env)
        assert done.returncode == 0, done.stderr
        local = scan([str(path) for path in sorted(folder.glob("*.tar"))])
        assert done.stdout.split() == [local.digest(), *NAMES]
        assert sorted(web.names) == ["000000.tar", "000001.tar", "classes.json", "pack.json"], "each is fetched once"
        assert web.parts == (1 if ranges else 0), "the small files are asked for by range"


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(folder, certificate, tmp_path) -> None:
    with web_server(folder, certificate=certificate) as web:
        with pytest.raises(ShardError, match=r"cannot be read: ClientConnectorCertificateError: .*self.signed"):
            Cache(tmp_path / "c").open(f"{web.url}/000000.tar")
        assert web.asked == []


@pytest.mark.parametrize(
    ("status", "message", "times"),
    [
        (404, r"000000\.tar is not there", 1),
        (403, r"000000\.tar cannot be read: ClientResponseError: 403", 1),
        (503, r"000000\.tar: ClientResponseError: 503.* \(5 attempts\)", 5),
        (429, r"000000\.tar: ClientResponseError: 429.* \(5 attempts\)", 5),
    ],
)
def test_a_web_server_that_refuses_is_quoted_and_asked_again_where_that_may_help(
    folder, tmp_path, status, message, times
) -> None:
    with web_server(folder) as web:
        web.answers["/000000.tar"] = status
        with pytest.raises(ShardError, match=message):
            Cache(tmp_path / "c").open(f"{web.url}/000000.tar")
        assert web.asked == ["HEAD /000000.tar", "GET /000000.tar"] * times


def test_a_web_server_that_is_not_there_is_asked_again_and_said_to_be_so(folder, tmp_path, caplog) -> None:
    with web_server(folder) as gone:
        pass
    with pytest.raises(ShardError, match=r"000000\.tar: ClientConnectorError: .* \(5 attempts\)"):
        Cache(tmp_path / "c").open(f"{gone.url}/000000.tar")


@pytest.mark.parametrize("kind", ["web", "ftp"])
def test_a_file_that_was_changed_is_fetched_anew(tmp_path, kind) -> None:
    (tmp_path / "x.tar").write_bytes(b"a" * 2000)
    cache = Cache(tmp_path / "c")
    with web_server(tmp_path) if kind == "web" else ftp_server(tmp_path) as server:
        assert read(cache.open(f"{server.url}/x.tar")) == b"a" * 2000
        (tmp_path / "x.tar").write_bytes(b"b" * 2000)
        os.utime(tmp_path / "x.tar", (1, 1))
        assert read(cache.open(f"{server.url}/x.tar")) == b"b" * 2000


# ---- ftp


@pytest.fixture
def ftp(folder: Path) -> Iterator[Ftp]:
    with ftp_server(folder) as server:
        yield server


def test_shards_over_ftp_are_those_of_files(folder: Path, ftp: Ftp) -> None:
    urls = expand([f"{ftp.url}/*.tar"])
    assert urls == expand([f"{ftp.url}/{{000000..000001}}.tar"])
    assert urls == expand([f"{ftp.url}/"]), "a folder means the tars in it"
    index, local = scan(urls), scan([str(path) for path in sorted(folder.glob("*.tar"))])
    assert index.digest() == local.digest() and index.class_names == tuple(NAMES)
    with index.files() as files:
        for row in range(ROWS):
            assert payload_of(index, files, row) == payload_of(local, local.files(), row)
    with pytest.raises(ShardError, match=r"absent\.tar is not there"):
        scan([f"{ftp.url}/absent.tar"])


def test_a_transfer_that_ends_early_is_made_again(folder: Path, ftp: Ftp, tmp_path: Path, caplog) -> None:
    ftp.cut = 2
    assert read(Cache(tmp_path / "c").open(f"{ftp.url}/000000.tar")) == (folder / "000000.tar").read_bytes()
    assert "attempt 3 of 5" in caplog.text
    ftp.cut = 100
    with pytest.raises(ShardError, match=r"000001\.tar: .* bytes came \(5 attempts\)"):
        Cache(tmp_path / "c").open(f"{ftp.url}/000001.tar")


def test_reading_and_fetching_ahead_do_not_mix_their_connections(folder: Path, ftp: Ftp) -> None:
    urls = expand([f"{ftp.url}/*.tar"])
    for _ in range(3):
        with ShardFiles(urls) as files:
            for shard in (0, 1, 0, 1):
                size = (folder / f"{shard:06d}.tar").stat().st_size
                assert files.read(shard, 0, size) == (folder / f"{shard:06d}.tar").read_bytes()


def test_hosts_and_logins_are_told_apart(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    tiny_shards(other, rows=ROWS + 4, shards=2)
    with ftp_server(folder) as first, ftp_server(other, password="secret") as second:
        sizes = [len(scan(expand([f"{server.url}/*.tar"]))) for server in (first, second)]
        assert sizes == [ROWS, ROWS + 4]
        wrong = second.url.replace("secret", "guess")
        with pytest.raises(ShardError, match=r"error_perm: 530 who are you\?"):
            expand([f"{wrong}/*.tar"])
        assert second.asked.count("PASS guess") == 1, "it is not tried again"


def test_a_host_that_is_not_there_ends_in_time(tmp_path: Path) -> None:
    with ftp_server(tmp_path) as gone:
        pass
    with pytest.raises(ShardError, match=r"\(5 attempts\)"):
        Cache(tmp_path / "c").open(f"{gone.url}/000000.tar")


@pytest.mark.parametrize("scheme", ["gs", "az", "sftp"])
def test_a_scheme_whose_package_is_not_here_says_which(scheme: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{scheme}:// cannot be read here: .*nstall"):
        Cache(tmp_path / "c").open(f"{scheme}://bucket/000000.tar")
