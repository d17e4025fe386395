"""Downloads against a local server that breaks off, lies and resumes, and archives that want to get out."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from adlib.datasets import fetch
from adlib.datasets.download import download, hash_files
from adlib.datasets.sources import SOURCES, Source
from adlib.datasets.unpack import unpack
from adlib.samples import DatasetError

FILES = {"part/train/good/000.png": np.random.default_rng(3).bytes(300_000), "part/readme.txt": b"made for a test"}


def make_tar(files: dict[str, bytes], mode: str = "w:xz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def make_zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as pack:
        for name, content in files.items():
            pack.writestr(name, content)
    return buffer.getvalue()


BODY = make_tar(FILES)
CHUNK = 1 << 14
THIRD = len(BODY) // 3 // CHUNK * CHUNK  # where the server breaks off; the client keeps whole chunks


class Server:
    """Answers each request as the next of `acts` says, and well when there are none left."""

    def __init__(self) -> None:
        self.body, self.tag, self.acts = BODY, '"one"', []
        self.requests: list[dict[str, str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                server.requests.append(dict(self.headers))
                server.answer(self, server.acts.pop(0) if server.acts else "")

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/toy.tar.xz"

    def answer(self, to: BaseHTTPRequestHandler, act: str) -> None:
        if act.isdecimal():
            to.send_error(int(act))
            return
        if act == "file changes":
            self.body, self.tag = make_tar(FILES | {"part/new.txt": b"new"}), '"two"'
        body, start = self.body, 0
        asked = re.fullmatch(r"bytes=(\d+)-", to.headers.get("Range", ""))
        if asked and act != "ignore range" and to.headers.get("If-Range", self.tag) == self.tag:
            start = int(asked[1])
            claimed = start - 7 if act == "lie about the start" else start
            total = len(body) + 1 if act == "lie about the size" else len(body)
            to.send_response(206)
            to.send_header("Content-Range", f"bytes {claimed}-{total - 1}/{total}")
        else:
            to.send_response(200)
        rest = body[start:]
        if act == "web page":
            rest = b"<html>This link has expired</html>"
            to.send_header("Content-Type", "text/html; charset=utf-8")
        if act == "other bytes":
            rest = bytes(len(rest))
        if act != "break off silently":
            to.send_header("Content-Length", str(len(rest) + 5 * (act == "longer")))
        if self.tag:
            to.send_header("ETag", self.tag)
        to.end_headers()
        sent = 2 * CHUNK if act == "a bit" else THIRD if act.startswith("break off") else len(rest)
        to.wfile.write(rest[:sent])
        to.close_connection = True

    def asked_for(self) -> list[str]:
        return [headers.get("Range", "all") for headers in self.requests]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    source = Source("Toy", server.url, len(BODY), hashlib.sha256(BODY).hexdigest(), 400_000, "part/train/good",
                    "CC0 for tests", "http://licence.invalid/", "nobody (2020)", "http://home.invalid/",
                    unverified="the author")
    monkeypatch.setitem(SOURCES, "toy", source)
    monkeypatch.setattr(fetch, "WAIT", 0.001)
    monkeypatch.setattr(fetch, "CHUNK", CHUNK)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


def change(monkeypatch: pytest.MonkeyPatch, **fields: object) -> None:
    monkeypatch.setitem(SOURCES, "toy", replace(SOURCES["toy"], **fields))


def check(folder: Path, root: Path) -> None:
    """The data set is whole, and nothing else is left."""
    assert folder == root / "toy"
    found = {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    assert found == FILES
    assert [f.name for f in root.iterdir()] == ["toy"]


def test_download(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(download("toy", tmp_path / "new/data", accept_licence=True), tmp_path / "new/data")
    printed = capsys.readouterr().out
    for said in ("Toy", "CC0 for tests", "http://licence.invalid/", "nobody (2020)", "not verified: the author"):
        assert said in printed
    assert server.asked_for() == ["all"]
    # A second call finds it, without consent and without a request.
    assert download("toy", tmp_path / "new/data") == tmp_path / "new/data/toy"
    assert len(server.requests) == 1 and "already" in capsys.readouterr().out


def test_nothing_happens_without_consent(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"(?s)CC0 for tests.*licence\.invalid.*accept_licence=True"):
        download("toy", tmp_path / "data")
    (tmp_path / "toy.tar.xz").write_bytes(BODY)
    with pytest.raises(DatasetError, match="accept_licence=True"):
        download("toy", tmp_path / "data", archive=tmp_path / "toy.tar.xz")
    assert server.requests == [] and not (tmp_path / "data").exists()


def test_a_download_that_breaks_off_goes_on(server: Server, tmp_path: Path) -> None:
    server.acts = ["break off", "503", "break off"]
    check(download("toy", tmp_path, accept_licence=True), tmp_path)
    assert server.asked_for() == ["all", f"bytes={THIRD}-", f"bytes={THIRD}-", f"bytes={2 * THIRD}-"]
    assert [headers.get("If-Range") for headers in server.requests] == [None] + ['"one"'] * 3


def test_only_failures_without_progress_count(server: Server, tmp_path: Path) -> None:
    server.acts = ["a bit"] * (fetch.ATTEMPTS + 2)
    check(download("toy", tmp_path, accept_licence=True), tmp_path)
    assert server.asked_for() == ["all", *(f"bytes={2 * CHUNK * i}-" for i in range(1, fetch.ATTEMPTS + 3))]


def test_a_file_that_ends_early_without_a_word_is_not_taken_for_whole(server: Server, tmp_path: Path) -> None:
    """Without Content-Length the end of the connection looks like the end of the file."""
    server.acts = ["break off silently"]
    check(download("toy", tmp_path, accept_licence=True), tmp_path)
    assert server.asked_for() == ["all", f"bytes={THIRD}-"]


def test_a_later_call_goes_on(server: Server, tmp_path: Path) -> None:
    server.acts = ["break off"] + ["503"] * fetch.ATTEMPTS
    with pytest.raises(DatasetError, match=rf"status 503.*{THIRD:,} bytes are kept in .*toy\.part, call again"):
        download("toy", tmp_path, accept_licence=True)
    # The break counts as the first failure.
    assert len(server.requests) == fetch.ATTEMPTS and (tmp_path / "toy.part").read_bytes() == BODY[:THIRD]
    server.acts.clear()
    check(download("toy", tmp_path, accept_licence=True), tmp_path)
    assert server.asked_for()[-1] == f"bytes={THIRD}-"


@pytest.mark.parametrize("tag", ['W/"weak"', ""])
def test_without_a_strong_validator_the_hash_allows_to_go_on(server: Server, tmp_path: Path, tag: str) -> None:
    server.tag, server.acts = tag, ["break off"]
    check(download("toy", tmp_path, accept_licence=True), tmp_path)
    assert server.asked_for() == ["all", f"bytes={THIRD}-"] and "If-Range" not in server.requests[1]


@pytest.mark.parametrize(
    ("act", "requests"),
    [("ignore range", 2), ("lie about the start", 3), ("lie about the size", 3), ("416", 3)],
)
def test_a_server_that_ignores_or_lies_about_the_range(server: Server, tmp_path: Path, act: str, requests: int) -> None:
    server.acts = ["break off", act]
    check(download("toy", tmp_path, accept_licence=True), tmp_path)
    assert server.asked_for() == ["all", f"bytes={THIRD}-", "all"][:requests]


def test_a_file_that_changes_between_attempts_is_fetched_anew(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = make_tar(FILES | {"part/new.txt": b"new"})
    change(monkeypatch, size=len(changed), sha256=hashlib.sha256(changed).hexdigest())
    server.body = bytes(len(changed))  # at first another file of the same size
    server.acts = ["break off", "file changes"]
    folder = download("toy", tmp_path, accept_licence=True)
    assert (folder / "part/new.txt").read_bytes() == b"new"
    assert server.requests[1]["If-Range"] == '"one"' and len(server.requests) == 2


def test_a_web_page_is_not_kept_as_the_beginning_of_the_archive(server: Server, tmp_path: Path) -> None:
    server.acts = ["web page"]
    with pytest.raises(DatasetError, match="answered with a web page, expected the archive of Toy"):
        download("toy", tmp_path, accept_licence=True)
    assert download("toy", tmp_path, accept_licence=True).is_dir()
    assert server.asked_for() == ["all", "all"]


def test_what_was_fetched_outlives_an_interrupted_check_of_the_hash(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **options: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pooch.core.hash_matches", interrupted)
        with pytest.raises(KeyboardInterrupt):
            download("toy", tmp_path, accept_licence=True)
    assert download("toy", tmp_path, accept_licence=True).is_dir()
    assert len(server.requests) == 1  # nothing was fetched again
    assert sorted(f.name for f in tmp_path.iterdir()) == ["toy"]


def test_a_wrong_file_is_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    server.acts = ["other bytes"]
    with pytest.raises(DatasetError, match=r"sent something else than Toy .*SHA256.*http://home\.invalid/"):
        download("toy", tmp_path, accept_licence=True)
    assert list(tmp_path.iterdir()) == []
    # The wrong bytes may also come in the middle; the whole is what is checked.
    server.acts = ["break off", "other bytes"]
    with pytest.raises(DatasetError, match="sent something else"):
        download("toy", tmp_path, accept_licence=True)
    assert list(tmp_path.iterdir()) == []
    check(download("toy", tmp_path, accept_licence=True), tmp_path)


def test_a_file_of_another_size_is_refused_before_it_is_fetched(server: Server, tmp_path: Path) -> None:
    server.acts = ["longer"]
    with pytest.raises(DatasetError, match=rf"offers {len(BODY) + 5:,} bytes, expected {len(BODY):,}"):
        download("toy", tmp_path, accept_licence=True)
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_is_gone(server: Server, tmp_path: Path) -> None:
    server.acts = ["404"]
    with pytest.raises(DatasetError, match=r"status 404.*http://home\.invalid/ and pass url=.*archive="):
        download("toy", tmp_path, accept_licence=True)
    assert len(server.requests) == 1
    server.acts = ["503"]
    check(download("toy", tmp_path, accept_licence=True), tmp_path)
    assert len(server.requests) == 3


def test_another_address_and_an_archive_at_hand(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, url="http://127.0.0.1:9/closed")
    check(download("toy", tmp_path / "a", accept_licence=True, url=server.url), tmp_path / "a")
    with pytest.raises(DatasetError, match=r"ftp://x: is not an address"):
        download("toy", tmp_path / "b", accept_licence=True, url="ftp://x")
    archive = tmp_path / "by_hand"
    for content, said in ((BODY[:-1], f"has {len(BODY) - 1:,} bytes"), (bytes(len(BODY)), "has the SHA-256")):
        archive.write_bytes(content)
        with pytest.raises(DatasetError, match=f"by_hand: {said}"):
            download("toy", tmp_path / "b", accept_licence=True, archive=archive)
    with pytest.raises(DatasetError, match="nowhere: is not a file"):
        download("toy", tmp_path / "b", accept_licence=True, archive=tmp_path / "nowhere")
    archive.write_bytes(BODY)
    check(download("toy", tmp_path / "b", accept_licence=True, archive=archive), tmp_path / "b")
    assert archive.exists() and len(server.requests) == 1


def test_an_archive_that_is_packed_anew_is_judged_by_its_files(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on GitHub: one folder around all, no known size, no known hash of the archive."""
    server.body = make_zip({f"toy-1.0/{name}": content for name, content in FILES.items()})
    lines = [f"{hashlib.sha256(FILES[name]).hexdigest()}  {name}\n" for name in sorted(FILES)]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    change(monkeypatch, size=None, sha256=None, files=("part/**/*.*", expected))
    (tmp_path / "toy.archive").write_bytes(b"of an earlier call")
    folder = download("toy", tmp_path, accept_licence=True)
    check(folder, tmp_path)
    assert hash_files(folder, "part/**/*.*") == expected
    shutil.rmtree(folder)
    server.body = make_zip({f"toy-1.0/{name}": content + b"!" for name, content in FILES.items()})
    with pytest.raises(DatasetError, match="its files have the SHA-256"):
        download("toy", tmp_path, accept_licence=True)
    server.body = bytes(500_000)
    with pytest.raises(DatasetError, match="sends more than 400,000 bytes"):
        download("toy", tmp_path, accept_licence=True)
    assert not folder.exists() and not (tmp_path / "toy.part").exists()


def test_disk_space_is_checked_before(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch, unpacked=10**18)
    with pytest.raises(DatasetError, match=r"GB are free, expected at least 1000000000\.\d GB"):
        download("toy", tmp_path, accept_licence=True)
    assert server.requests == []


def test_what_lies_in_the_way_is_not_touched(server: Server, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    check(download("toy", tmp_path, accept_licence=True), tmp_path)  # an empty folder is no obstacle
    shutil.rmtree(tmp_path / "toy")
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/mine.txt").write_text("mine")
    with pytest.raises(DatasetError, match=r"toy: is there but has no part/train/good"):
        download("toy", tmp_path, accept_licence=True)
    assert (tmp_path / "toy/mine.txt").read_text() == "mine" and len(server.requests) == 1
    with pytest.raises(DatasetError, match="'cifar': .*expected mvtec_ad, mvtec_loco, visa, btad, magnetic_tile"):
        download("cifar", tmp_path)


def test_a_failed_unpacking_leaves_nothing_and_keeps_the_archive(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, unpacked=200_000)
    with pytest.raises(DatasetError, match="unpacks to more than 200,000 bytes"):
        download("toy", tmp_path, accept_licence=True)
    assert [f.name for f in tmp_path.iterdir()] == ["toy.archive"]
    change(monkeypatch, unpacked=400_000, marker="other")
    with pytest.raises(DatasetError, match="holds part, expected Toy with other"):
        download("toy", tmp_path, accept_licence=True)
    change(monkeypatch, marker="part/train/good")
    check(download("toy", tmp_path, accept_licence=True), tmp_path)
    assert len(server.requests) == 1  # the archive was fetched once


def test_records_of_the_real_data_sets() -> None:
    assert list(SOURCES) == ["mvtec_ad", "mvtec_loco", "visa", "btad", "magnetic_tile"]
    for source in SOURCES.values():
        assert source.url.startswith("https://") and source.licence_url.startswith("https://") and source.citation
        # What arrives can be checked: as one file, or file by file.
        hashes = [source.sha256] if source.sha256 else [source.files[1]] if source.files else []
        assert all(re.fullmatch("[0-9a-f]{64}", text) for text in hashes) and hashes
        assert bool(source.size) == bool(source.sha256) and source.unpacked >= (source.size or 1)


def test_the_files_of_the_magnetic_tiles_have_the_recorded_hash() -> None:
    data = Path(os.environ.get("ADLIB_DATA", Path(__file__).parents[2] / "../shared/data"))
    if not (data / "magnetic_tile").is_dir():
        pytest.skip(f"magnetic_tile is not in {data}: set ADLIB_DATA to the folder that holds it")
    files = SOURCES["magnetic_tile"].files
    assert files is not None and hash_files(data / "magnetic_tile", files[0]) == files[1]


# --- archives that nobody should unpack ---------------------------------------------------------------------------


def tar_of(*members: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def zip_link(name: str, target: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as pack:
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = 3, 0o120777 << 16
        pack.writestr(info, target)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (make_tar({"../evil": b"x"}), "leads outside"),
        (make_tar({"a/../../evil": b"x"}), "leads outside"),
        (make_tar({"..\\evil": b"x"}), "leads outside"),
        (make_tar({"C:/evil": b"x"}), "leads outside"),
        (make_zip({"../evil": b"x"}), "leads outside"),
        (make_zip({"..\\evil": b"x"}), "leads outside"),
        (tar_of(member("../evil", tarfile.DIRTYPE)), "leads outside"),
        (tar_of(member("out", tarfile.SYMTYPE, "..")), "a link or a device"),
        (tar_of(member("out", tarfile.SYMTYPE, "/etc/passwd")), "a link or a device"),
        (tar_of(member("a", size=3), member("b", tarfile.LNKTYPE, "a")), "a link or a device"),
        (tar_of(member("out", tarfile.LNKTYPE, "../secret")), "a link or a device"),
        (tar_of(member("null", tarfile.CHRTYPE)), "a link or a device"),
        (tar_of(member("disk", tarfile.BLKTYPE)), "a link or a device"),
        (tar_of(member("pipe", tarfile.FIFOTYPE)), "a link or a device"),
        (zip_link("out", "/etc/passwd"), "a link or a device"),
        (tar_of(member("a", size=3), member("a", size=3)), "holds 'a' twice"),
        (tar_of(member("a", size=3), member("a/b", size=3)), "as a file and as a folder"),
        (make_tar({"a": bytes(1001)}), "unpacks to more than 1,000 bytes"),
        (make_tar({"a": bytes(600), "b": bytes(600)}), "unpacks to more than 1,000 bytes"),
        (make_zip({"a": bytes(1001)}), "unpacks to more than 1,000 bytes"),
        (b"no archive", "is neither a tar nor a zip"),
        (BODY[: len(BODY) // 2], "is broken|unpacks to more"),
        (tar_of(*(member(f"{i}") for i in range(12))), "more than 10 members"),
    ],
)
def test_evil_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, said: str) -> None:
    monkeypatch.setattr("adlib.datasets.unpack.MAX_MEMBERS", 10)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "archive").write_bytes(content)
    (tmp_path / "deep/out").mkdir(parents=True)
    with pytest.raises(DatasetError, match=said):
        unpack(tmp_path / "archive", tmp_path / "deep/out", 1000)
    inside = tmp_path / "deep/out"
    assert not any(f.is_symlink() for f in inside.rglob("*"))
    assert sum(f.stat().st_size for f in inside.rglob("*") if f.is_file()) <= 1000
    outside = {f.relative_to(tmp_path).as_posix() for f in tmp_path.rglob("*") if inside not in f.parents}
    assert outside == {"archive", "secret", "deep", "deep/out"}
    assert (tmp_path / "secret").read_text() == "secret"


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_absolute_names(tmp_path: Path, make: Callable[[dict[str, bytes]], bytes]) -> None:
    (tmp_path / "archive").write_bytes(make({str(tmp_path / "evil"): b"x"}))
    (tmp_path / "out").mkdir()
    with pytest.raises(DatasetError, match="evil', which leads outside"):
        unpack(tmp_path / "archive", tmp_path / "out", 1000)
    assert sorted(f.name for f in tmp_path.rglob("*")) == ["archive", "out"]


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_archives_that_are_cut_off(tmp_path: Path, make: Callable[[dict[str, bytes]], bytes], cut: float) -> None:
    content = make(FILES)
    (tmp_path / "archive").write_bytes(content[: int(cut * len(content))])
    (tmp_path / "out").mkdir()
    with pytest.raises(DatasetError, match=r"archive: is (broken|neither)"):
        unpack(tmp_path / "archive", tmp_path / "out", 10**6)


def test_a_zip_with_a_wrong_byte(tmp_path: Path) -> None:
    """A tar has no checksum over its files: there the archive's hash has to tell."""
    content = bytearray(make_zip(FILES))
    content[len(content) // 2] ^= 255
    (tmp_path / "archive").write_bytes(content)
    (tmp_path / "out").mkdir()
    with pytest.raises(DatasetError, match="archive: is broken"):
        unpack(tmp_path / "archive", tmp_path / "out", 10**6)


@pytest.mark.parametrize("content", [BODY, make_tar(FILES, "w"), make_tar(FILES, "w:gz"), make_zip(FILES)])
def test_good_archives(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "archive").write_bytes(content)
    (tmp_path / "out").mkdir()
    unpack(tmp_path / "archive", tmp_path / "out", 400_000)
    assert {f.relative_to(tmp_path / "out").as_posix(): f.read_bytes()
            for f in (tmp_path / "out").rglob("*") if f.is_file()} == FILES
