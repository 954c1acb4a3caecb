"""The long tail: FTP and SFTP against real servers, and fsspec's file system in memory for what those cannot show."""

import itertools
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.ftp import FTPFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from datamodel.client import Source
from datamodel.errors import Corrupt, NotFound, PermissionRefused, Unavailable, UserError, VersionChanged
from tests.contract.check_under_file_system import CHECKS, NOT_UTF_8, TREE, Subject, plant
from tests.ufs.longtail_servers import PASSWORD, USER, rclone_ftp, rclone_sftp
from ufs.longtail import LongTailFileSystem
from ufs.longtail_options import SCHEMES
from ufs.registry import describe_options, open_source

# Lines end FTP commands, and rclone shows control characters as others.
LONG_TAIL_TREE = {path: content for path, content in TREE.items() if path != NOT_UTF_8 and "\n" not in path}


@dataclass(frozen=True)
class Server:
    """One that serves *folder*."""

    folder: Path
    url: str
    options: Mapping[str, str]

    def open(self, path: str, **more: str) -> LongTailFileSystem:
        return opened(self.url + path, **{**self.options, **more})


@pytest.fixture(scope="module", params=["ftp", "sftp"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, run = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("run")
    options = {"username": USER, "password": PASSWORD}
    if request.param == "ftp":
        with rclone_ftp(folder) as url:
            yield Server(folder, url, options)
    else:
        with rclone_sftp(folder, run) as (url, known):
            yield Server(folder, url, {**options, "known_hosts_file": str(known)})


@pytest.fixture
def subject(server: Server) -> Iterator[Subject]:
    name = f"tree-{len(list(server.folder.iterdir()))}"
    folder = server.folder / name
    folder.mkdir()
    plant(folder, LONG_TAIL_TREE)
    ufs = server.open(name)
    yield Subject(ufs, folder, LONG_TAIL_TREE)
    ufs.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_honours_the_contract(subject: Subject, check: Callable[[Subject], None]) -> None:
    check(subject)


def opened(url: str, **options: str) -> LongTailFileSystem:
    names = {name.replace("_", "-"): value for name, value in options.items()}
    ufs = open_source(Source(name="demo", url=url, path="/", options=names))
    assert isinstance(ufs, LongTailFileSystem)
    return ufs


def test_address_of_one_file_shows_it_alone(server: Server) -> None:
    (server.folder / "one").mkdir(exist_ok=True)
    (server.folder / "one" / "a b").write_bytes(b"single")
    (server.folder / "one" / "other").touch()
    ufs = server.open("one/a%20b")

    assert [(entry.name, entry.size) for entry in ufs.list("")] == [("a b", 6)]
    assert ufs.read_whole("a b", 10)[1] == b"single"
    with pytest.raises(NotFound):
        ufs.stat("other")

    ufs.close()


def test_wrong_password_is_refused_and_not_shown(server: Server) -> None:
    ufs = server.open("", password="wrong-one")

    with pytest.raises(PermissionRefused, match="check user") as caught:
        ufs.stat("")

    assert "wrong-one" not in str(caught.value)
    ufs.close()


def test_host_with_an_unknown_key_is_not_talked_to(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "empty").touch()
    with rclone_sftp(tmp_path / "tree", tmp_path) as (url, _):
        ufs = opened(url, username=USER, password=PASSWORD, known_hosts_file=str(tmp_path / "empty"))
        with pytest.raises(UserError, match="the key of this host is not known; put it into option 'known-hosts-file'"):
            ufs.stat("")
        ufs.close()

        trusting = opened(url, username=USER, password=PASSWORD, any_host_key="true")
        assert trusting.stat("").is_dir
        trusting.close()


def test_server_that_is_away_is_unavailable() -> None:
    ufs = opened("ftp://127.0.0.1:1/")

    with pytest.raises(Unavailable, match=r"ftp://127\.0\.0\.1:1/: the exchange with the source failed"):
        ufs.stat("")

    ufs.close()


def test_connection_that_broke_is_replaced(server: Server) -> None:
    (server.folder / "file").write_bytes(b"content")
    ufs = server.open("")
    ufs.stat("file")
    backend = ufs._idle.get()
    if isinstance(backend, FTPFileSystem):
        backend.ftp.sock.shutdown(socket.SHUT_RDWR)
    else:
        backend.client.get_transport().close()
    ufs._idle.put(backend)

    assert ufs.read_whole("file", 10)[1] == b"content"

    ufs.close()


@pytest.mark.parametrize("scheme", [name for name, kind in SCHEMES.items() if kind.package])
def test_missing_package_is_named_with_the_extra_that_brings_it(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = SCHEMES[scheme].package
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(UserError) as caught:
        opened(f"{scheme}://host/path")

    name = package.replace("_", "-")
    assert str(caught.value) == (
        f"source 'demo': {scheme}:// needs the package {name}: pip install 'headrace[{scheme}]'"
    )


def test_every_scheme_has_described_options() -> None:
    assert set(SCHEMES) <= set(describe_options())


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("ftp:///path", {}, "names no host; write ftp://HOST"),
        ("ftp://h:port/", {}, "cannot be read as an address"),
        ("ftp://h/", {"tls": "perhaps"}, "option 'tls': 'perhaps' is neither 'true' nor 'false'"),
        ("ftp://h/", {"key-file": "x"}, "option 'key-file' is not known for ftp sources; supported: encoding"),
        ("sftp://h/", {"key-file": "/no/such"}, "option 'key-file': '/no/such' cannot be read"),
        ("github://owner/path", {}, "write github://OWNER:REPOSITORY"),
    ],
)
def test_address_or_option_that_cannot_be_used_is_named(url: str, options: dict[str, str], words: str) -> None:
    pytest.importorskip("requests") if url.startswith("github") else None

    with pytest.raises(UserError) as caught:
        opened(url, **options)

    assert words in str(caught.value)


# ---- what a backend may be like ------------------------------------------------------------------------------------


class Backend(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """In memory, with what it tells of a file in the test's hands."""

    cachable = False
    told: Mapping[str, Any] = {}
    after_read: Callable[[], None] = staticmethod(lambda: None)

    def info(self, path: str, **kwargs: Any) -> Mapping[str, Any]:
        found = super().info(path, **kwargs)
        return {"name": found["name"], "size": found["size"], "type": found["type"], **self.told}

    def open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        stream = super().open(path, mode, **kwargs)
        if mode == "rb":
            type(self).after_read()
        return stream


@pytest.fixture
def backend() -> Iterator[type[Backend]]:
    made = type("Told", (Backend,), {})
    Backend.store.clear()
    Backend.pseudo_dirs[:] = [""]
    yield made
    Backend.store.clear()


def memory(backend: type[Backend]) -> LongTailFileSystem:
    return LongTailFileSystem(backend, "/", "memory://host")


def test_file_without_time_and_hash_is_told_apart_by_its_size_alone(backend: type[Backend]) -> None:
    backend().pipe_file("/file", b"abc")
    ufs = memory(backend)
    version = ufs.stat("file").version
    backend().pipe_file("/file", b"xyz")

    assert ufs.stat("file").version == version
    assert ufs.stat("file").mtime_ns == 0

    backend().pipe_file("/file", b"longer")
    with pytest.raises(VersionChanged):
        ufs.read_range("file", version, 0, memoryview(bytearray(3)))


def test_hash_tells_versions_apart_where_there_is_one(backend: type[Backend]) -> None:
    backend().pipe_file("/file", b"abc")
    backend.told = {"sha": "one", "mtime": 5.0}
    ufs = memory(backend)
    version = ufs.stat("file").version
    backend.told = {"sha": "two", "mtime": 5.0}

    with pytest.raises(VersionChanged, match="pinned 'sha:one;size:3', the source has 'sha:two;size:3'"):
        ufs.read_range("file", version, 0, memoryview(bytearray(3)))


def test_change_while_bytes_are_under_way_is_noticed(backend: type[Backend]) -> None:
    backend().pipe_file("/file", b"abc")
    backend.told = {"mtime": 1}
    ufs = memory(backend)
    version = ufs.stat("file").version

    def change() -> None:
        backend.told = {"mtime": 2}

    backend.after_read = staticmethod(change)

    with pytest.raises(VersionChanged):
        ufs.read_range("file", version, 0, memoryview(bytearray(3)))


def test_backend_that_brings_too_little_is_corrupt(backend: type[Backend]) -> None:
    backend().pipe_file("/file", b"abc")
    backend.told = {"size": 5}
    ufs = memory(backend)

    with pytest.raises(Corrupt, match="5 bytes promised at 0, 3 came"):
        ufs.read_range("file", ufs.stat("file").version, 0, memoryview(bytearray(5)))


def test_text_of_a_backends_error_is_not_passed_on(backend: type[Backend]) -> None:
    def fail() -> None:
        raise RuntimeError("http://host/?delegation=secret-token")

    backend().pipe_file("/file", b"abc")
    backend.after_read = staticmethod(fail)
    ufs = memory(backend)

    with pytest.raises(Unavailable) as caught:
        ufs.read_range("file", ufs.stat("file").version, 0, memoryview(bytearray(3)))

    assert str(caught.value) == "memory://host/file: the exchange with the source failed: RuntimeError"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_times_of_all_forms_are_understood(backend: type[Backend]) -> None:
    backend().pipe_file("/file", b"abc")
    second = 1_700_000_000
    moment = datetime.fromtimestamp(second, UTC)
    forms: list[dict[str, Any]] = [
        {"mtime": second},
        {"mtime": float(second)},
        {"modificationTime": second * 1000},
        {"modify": "20231114221320"},
        {"modify": "20231114221320.123"},
        {"last_modified": moment},
        {"modified": moment.replace(tzinfo=None)},
    ]

    for backend.told in forms:
        assert memory(backend).stat("file").mtime_ns == second * 10**9


def test_links_to_files_show_and_those_to_directories_do_not(backend: type[Backend]) -> None:
    class Linked(backend):  # type: ignore[misc, valid-type]
        def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
            return [{**row, "type": "link"} for row in super().ls(path, detail=True)]

    backend().pipe_file("/file", b"abc")
    backend().pipe_file("/dir/below", b"abc")

    assert [entry.name for entry in LongTailFileSystem(Linked, "/", "memory://host").list("")] == ["file"]


def test_calls_after_the_end_do_not_wait(backend: type[Backend]) -> None:
    backend().pipe_file("/file", b"abc")
    made = itertools.count()

    def connect() -> Backend:
        next(made)
        return backend()

    ufs = LongTailFileSystem(connect, "/", "memory://host")
    ufs.close()

    assert ufs.stat("file").size == 3
    assert ufs.stat("file").size == 3
    assert next(made) == 3  # one for the root, one for each question: none was kept
