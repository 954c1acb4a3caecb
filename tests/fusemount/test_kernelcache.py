"""What the kernel is told unasked: contents ahead of their readers, and names that lead elsewhere by now."""

import errno
import os
import socket
import struct
from pathlib import Path

import pytest

from fusemount import kernelcache
from fusemount.kernelcache import KernelCache
from tests.fusemount.mounts import Mounted, content, headrace, mounted, until

FILES, SIZE = 400, 20_000


class Device:
    """A socket in place of the kernel's device: what was written to it, message by message."""

    def __init__(self) -> None:
        self.ours, self.kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.kernels.settimeout(5)

    def message(self) -> tuple[int, bytes]:
        """The next one: its kind, and what follows the header."""
        packet = self.kernels.recv(1 << 20)
        length, kind, unique = struct.unpack_from("<IiQ", packet)
        assert (length, unique) == (len(packet), 0)
        return kind, packet[16:]

    def close(self) -> None:
        self.ours.close()
        self.kernels.close()


@pytest.fixture
def device() -> "Device":
    return Device()


def test_messages_have_the_form_that_the_kernel_takes(device: Device) -> None:
    cache = KernelCache(device.ours.fileno())

    cache.drop_name(7, "näme")
    assert device.message() == (3, struct.pack("<QII", 7, 5, 0) + "näme\0".encode())
    cache.drop_listing(7)
    assert device.message() == (2, struct.pack("<Qqq", 7, 0, 0))
    assert cache.offer(9, memoryview(b"content"))
    assert device.message() == (4, struct.pack("<QQII", 9, 0, 7, 0) + b"content")
    until(lambda: cache.stored_bytes == 7)

    cache.close()
    device.close()


def test_name_that_waits_already_is_told_once(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KernelCache, "_drop_for_ever", lambda self: None)  # a kernel that takes nothing now
    cache = KernelCache(device.ours.fileno())

    for _ in range(3):
        cache.drop_name(7, "same")

    assert list(cache._names) == [(7, b"same")]
    cache.close()
    device.close()


def test_too_many_names_are_told_by_their_folder(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KernelCache, "_drop_for_ever", lambda self: None)
    monkeypatch.setattr(kernelcache, "_MOST_NAMES", 2)
    cache = KernelCache(device.ours.fileno())

    for name in "abcd":
        cache.drop_name(7, name)

    assert (list(cache._names), list(cache._folders)) == ([(7, b"a"), (7, b"b")], [7])
    cache.close()
    device.close()


def test_content_for_which_there_is_no_room_is_refused(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KernelCache, "_store_for_ever", lambda self: None)
    monkeypatch.setattr(kernelcache, "_MOST_BYTES_WAITING", 10)
    cache = KernelCache(device.ours.fileno())

    assert [cache.offer(1, memoryview(b"123456")), cache.offer(2, memoryview(b"123456"))] == [True, False]
    cache.close()
    assert not cache.offer(3, memoryview(b"1"))
    device.close()


def test_nothing_is_pushed_where_memory_is_scarce(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernelcache, "_available_share", lambda: 0.1)
    cache = KernelCache(device.ours.fileno())

    assert cache.offer(1, memoryview(b"123456"))
    until(lambda: cache._bytes_waiting == 0)

    assert cache.stored_bytes == 0
    cache.close()
    device.close()


def test_connection_that_has_ended_ends_nothing_else(device: Device) -> None:
    device.kernels.close()
    cache = KernelCache(device.ours.fileno())

    cache.drop_name(7, "name")
    cache.offer(1, memoryview(b"x"))

    until(lambda: cache._bytes_waiting == 0 and not cache._names)
    cache.close()
    device.ours.close()


def test_share_of_memory_is_one() -> None:
    assert 0 < kernelcache._available_share() < 1


def test_process_without_a_mount_has_no_device() -> None:
    with pytest.raises(FileNotFoundError):
        kernelcache.own_device()


# ---- with a kernel --------------------------------------------------------------------------------------------------


def reads(mount: Mounted) -> int:
    counted = mount.status()["reads"]
    return int(counted["hits"] + counted["misses"])


@pytest.mark.root
@pytest.mark.usefixtures("private_mounts")
def test_contents_fetched_ahead_are_read_without_a_message(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(FILES):
        (source / f"{number:03}").write_bytes(content(SIZE, number))
    with mounted(tmp_path, "--profile", "small-files", str(source)) as mount:
        names = os.listdir(mount.path)  # now the kernel knows them

        def is_right(name: str) -> bool:
            return (mount.path / name).read_bytes() == content(SIZE, int(name))

        assert all(is_right(name) for name in names[:4])  # one of the processes saw two of them, which shows the way
        until(lambda: mount.status()["reads"]["pushedBytes"] >= 12 * SIZE)
        before = reads(mount)

        assert all(is_right(name) for name in names[4:16])

        status = mount.status()
        assert status["features"]["profile"] == "small-files"
        assert reads(mount) - before < 6  # most were there
        assert all(is_right(name) for name in names)


@pytest.mark.root
@pytest.mark.usefixtures("private_mounts")
@pytest.mark.parametrize("profile", ["small-files", "large-files"])
def test_change_that_a_refresh_finds_is_seen_at_once_in_spite_of_long_times(tmp_path: Path, profile: str) -> None:
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    for name in ("changed", "removed", "kept"):
        (source / "d" / name).write_bytes(b"old")
    with mounted(tmp_path, "--ttl", "3600", "--profile", profile, str(source)) as mount:
        for _ in range(2):
            assert sorted(os.listdir(mount.path / "d")) == ["changed", "kept", "removed"]
            assert (mount.path / "d" / "changed").read_bytes() == b"old"
        assert not (mount.path / "d" / "added").exists()

        (source / "d" / "new").write_bytes(b"new content")
        (source / "d" / "new").rename(source / "d" / "changed")
        (source / "d" / "removed").unlink()
        (source / "d" / "added").write_bytes(b"added")
        assert headrace("refresh", str(mount.path)).returncode == 0

        until(lambda: sorted(os.listdir(mount.path / "d")) == ["added", "changed", "kept"])
        until(lambda: (mount.path / "d" / "changed").read_bytes() == b"new content")
        assert (mount.path / "d" / "added").read_bytes() == b"added"
        with pytest.raises(FileNotFoundError):
            (mount.path / "d" / "removed").stat()


@pytest.mark.root
@pytest.mark.usefixtures("private_mounts")
def test_reader_of_a_file_that_changed_gets_old_bytes_or_a_stale_handle(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    old, new = content(3 << 20, 1), content(3 << 20, 2)
    (source / "f").write_bytes(old)
    with mounted(tmp_path, "--ttl", "0", "--profile", "small-files", str(source)) as mount:
        with (mount.path / "f").open("rb", buffering=0) as file:
            assert os.pread(file.fileno(), 1000, 0) == old[:1000]
            (source / "new").write_bytes(new)
            (source / "new").rename(source / "f")
            for offset in range(0, 3 << 20, 1 << 18):
                assert _pread_or_stale(file.fileno(), 1000, offset) in (old[offset : offset + 1000], None)

        until(lambda: (mount.path / "f").read_bytes() == new)


def _pread_or_stale(fd: int, size: int, offset: int) -> bytes | None:
    try:
        return os.pread(fd, size, offset)
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return None
