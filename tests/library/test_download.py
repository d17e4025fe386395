"""Downloads from a local server that fails and breaks off, and archives that want to get out."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from adlib.datasets.download import download, hash_files
from adlib.datasets.sources import SOURCES, Source
from adlib.datasets.unpack import unpack
from adlib.folders import DatasetError

FILES = {"part/train/good/000.png": hashlib.shake_256().digest(300_000), "part/readme.txt": b"made for a test"}


def make_tar(files: dict[str, bytes], mode: str = "w:xz", kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(content), kind, "../secret"
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def make_zip(files: dict[str, bytes], kind: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as pack:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, kind << 16
            pack.writestr(info, content)
    return buffer.getvalue()


BODY = make_tar(FILES)
GOOD = [BODY, make_tar(FILES, "w:gz"), make_zip(FILES)]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(self.server.status)
        if self.server.length:
            self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body[:self.server.sent])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Sends the first `sent` bytes of `body`. `change` alters what is on record."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.body, server.status, server.sent, server.length, server.requests = BODY, 200, 10**9, True, 0
        server.url = f"http://127.0.0.1:{server.server_port}/toy"
        server.change = lambda **fields: monkeypatch.setitem(SOURCES, "toy", replace(SOURCES["toy"], **fields))
        monkeypatch.setitem(SOURCES, "toy", Source(
            "Toy", server.url, len(BODY), hashlib.sha256(BODY).hexdigest(), 400_000, "part/train/good",
            "CC0 for tests", "http://licence.invalid", "nobody (2020)", "http://home.invalid", unverified="the author"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def check(root: Path, **options: object) -> None:
    """The data set arrives whole, and nothing else is left."""
    folder = download("toy", root, accept_licence=True, **options)
    assert folder == root / "toy" and [f.name for f in root.iterdir()] == ["toy"]
    assert {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()} == FILES


def refused(root: Path, said: str, left: list[str] | None = None, **options: object) -> None:
    with pytest.raises(DatasetError, match=said):
        download("toy", root, accept_licence=True, **options)
    assert [f.name for f in root.glob("*")] == (left or [])


@pytest.mark.parametrize("body", GOOD, ids=["xz", "gz", "zip"])
def test_download(server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], body: bytes) -> None:
    server.body = body
    server.change(size=len(body), sha256=hashlib.sha256(body).hexdigest())
    check(root := tmp_path / "new/data")
    said = ("Toy", "CC0 for tests", "http://licence.invalid", "nobody (2020)", "not verified: the author")
    assert set(re.findall("|".join(map(re.escape, said)), capsys.readouterr().out)) == set(said)
    # A second call finds it, without consent and without a request.
    assert download("toy", root) == root / "toy" and server.requests == 1 and "already" in capsys.readouterr().out


def test_nothing_happens_without_consent_room_or_a_known_name(server: Any, tmp_path: Path) -> None:
    for archive in (None, "toy.tar.xz"):
        with pytest.raises(DatasetError, match=r"(?s)CC0 for tests.*licence\.invalid.*accept_licence=True"):
            download("toy", tmp_path / "data", archive=archive)
    with pytest.raises(DatasetError, match="'cifar': .*expected mvtec_ad, mvtec_loco, visa, btad, magnetic_tile"):
        download("cifar", tmp_path / "data", accept_licence=True)
    assert not (tmp_path / "data").exists()
    server.change(unpacked=10**18)
    refused(tmp_path / "data", r"GB are free, expected at least 1000000000\.\d GB")
    assert server.requests == 0


def test_what_is_not_the_archive_leaves_nothing(server: Any, tmp_path: Path) -> None:
    for server.body in (bytes(len(BODY)), b"<html>This link has expired</html>", make_tar({"../evil": b"x"})):
        refused(tmp_path, r"did not give the archive of Toy \(SHA256.*http://home\.invalid and pass url=")
    for server.status in (404, 503):
        refused(tmp_path, f"did not give the archive of Toy .*{server.status}.*pass archive=")
    server.status, server.body, server.sent = 200, BODY, len(BODY) // 2
    for server.length in (True, False):  # without a length the end of the connection looks like the end of the file
        refused(tmp_path, f"{server.url}: did not give the archive of Toy")
    for url in ("ftp://x/y", "nonsense", "http://127.0.0.1:9/closed"):
        refused(tmp_path, f"{url}: did not give", url=url)


def test_another_address_and_an_archive_at_hand(server: Any, tmp_path: Path) -> None:
    server.change(url="http://127.0.0.1:9/closed")
    check(tmp_path / "a", url=server.url)
    archive = tmp_path / "by_hand"
    refused(tmp_path / "b", "by_hand: is not a file", archive=archive)
    for content, said in ((BODY[:-1], "has [0-9,]+ bytes, expected"), (bytes(len(BODY)), "has the SHA-256")):
        archive.write_bytes(content)
        refused(tmp_path / "b", f"by_hand: {said}", archive=archive)
    archive.write_bytes(BODY)
    check(tmp_path / "b", archive=archive)
    assert archive.read_bytes() == BODY and server.requests == 1


def test_an_archive_that_is_packed_anew_is_judged_by_its_files(server: Any, tmp_path: Path) -> None:
    """As on GitHub: one folder around all, no known size, no known hash of the archive."""
    lines = [f"{hashlib.sha256(FILES[name]).hexdigest()}  {name}\n" for name in sorted(FILES)]
    server.change(size=None, sha256=None, files=("part/**/*.*", hashlib.sha256("".join(lines).encode()).hexdigest()))
    good = make_zip({f"toy-1.0/{name}": content for name, content in FILES.items()})
    bad = {"its files have": good.replace(b"readme", b"README"), "leads outside": make_zip({"../evil": b""})}
    for said, server.body in bad.items():
        refused(tmp_path, said)
    server.body = good
    (tmp_path / "toy.archive").write_bytes(b"of a call that was killed")
    check(tmp_path)


def test_what_lies_in_the_way_is_not_touched(server: Any, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()  # an empty folder is no obstacle
    check(tmp_path)
    server.change(marker="other")
    refused(tmp_path, "toy: is there but has no other", left=["toy"])
    assert (tmp_path / "toy/part/readme.txt").is_file()
    # The archive is the published one and stays where it cannot be used; a later call fetches nothing.
    refused(tmp_path / "b", "holds part, expected Toy with other", left=["toy.archive"])
    server.change(marker="part/train/good")
    check(tmp_path / "b")
    assert server.requests == 2


KILLED = """
import os, sys
from importlib import import_module
from adlib.datasets.sources import SOURCES, Source
module = import_module("adlib.datasets.download")
SOURCES["toy"] = Source("Toy", sys.argv[2], int(sys.argv[3]), sys.argv[4], 400_000, "part/train/good", *"abcd")
if sys.argv[5] == "unpacking":
    real = module.unpack
    def unpack(*arguments):
        real(*arguments)
        os._exit(9)
    module.unpack = unpack
else:
    import requests
    def parts(self, chunk_size):
        yield b"a part"
        os._exit(9)
    requests.models.Response.iter_content = parts
module.download("toy", sys.argv[1], accept_licence=True)
"""


@pytest.mark.parametrize("place", ["fetching", "unpacking"])
def test_what_a_kill_leaves_lies_in_one_hidden_folder_and_goes(server: Any, tmp_path: Path, place: str) -> None:
    facts = [server.url, str(len(BODY)), hashlib.sha256(BODY).hexdigest(), place]
    call = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), *facts], capture_output=True, text=True)
    assert call.returncode == 9, call.stderr
    whole = {"toy.archive"} if place == "unpacking" else set()
    assert {f.name for f in tmp_path.iterdir()} == {".toy.unpacking"} | whole
    assert any(f.is_file() for f in (tmp_path / ".toy.unpacking").rglob("*"))
    requests = server.requests
    check(tmp_path)
    assert server.requests == requests + (place == "fetching")  # the whole archive was known by its hash
    (tmp_path / ".toy.unpacking").mkdir()
    check(tmp_path)  # also where nothing is to do


def test_records_of_the_real_data_sets() -> None:
    for source in SOURCES.values():
        assert source.url.startswith("https://") and source.licence_url.startswith("https://") and source.citation
        assert re.fullmatch("[0-9a-f]{64}", source.sha256 or source.files[1])  # of one file, or file by file
        assert bool(source.size) == bool(source.sha256) and source.unpacked >= (source.size or 1)


def test_the_files_of_the_magnetic_tiles_have_the_recorded_hash() -> None:
    folder = Path(os.environ.get("ADLIB_DATA", Path(__file__).parents[2] / "../shared/data")) / "magnetic_tile"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: set ADLIB_DATA to the folder that holds magnetic_tile")
    assert hash_files(folder, SOURCES["magnetic_tile"].files[0]) == SOURCES["magnetic_tile"].files[1]


WAYS_OUT = ["../evil", "a/../../evil", "..\\evil", "C:/evil", "/nowhere/evil"]
LINKS_AND_DEVICES = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)


@pytest.mark.parametrize(("content", "said"), [
    *((make({name: b"x"}), "evil', which leads outside") for make in (make_tar, make_zip) for name in WAYS_OUT),
    *((make_tar({"out": b""}, kind=kind), "'out', a link or a device") for kind in LINKS_AND_DEVICES),
    *((make_zip({"out": b"../secret"}, kind), "'out', a link or a device") for kind in (stat.S_IFLNK, stat.S_IFCHR)),
    *((make({"a": bytes(10**6), "b": b"x"}), "unpacks to more than 1,000,000 bytes") for make in (make_tar, make_zip)),
    *((content[:len(content) // 2], "cannot be unpacked|is neither a tar nor a zip") for content in GOOD),
    (make_tar({"a": b"x", "a/b": b"x"}), "cannot be unpacked"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_evil_and_broken_archives(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "archive").write_bytes(content)
    (inside := tmp_path / "deep/out").mkdir(parents=True)
    with pytest.raises(DatasetError, match=f"archive: .*({said})"):
        unpack(tmp_path / "archive", inside, 10**6)
    assert not any(f.is_symlink() for f in inside.rglob("*")) and not Path("/nowhere").exists()
    outside = {f.relative_to(tmp_path).as_posix() for f in tmp_path.rglob("*") if inside not in f.parents}
    assert outside == {"archive", "secret", "deep", "deep/out"} and (tmp_path / "secret").read_text() == "secret"
