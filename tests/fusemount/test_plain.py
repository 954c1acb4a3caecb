"""`headrace mount` by a user without privileges, through fusermount3."""

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fusemount.mounts import content, headrace, layers, until
from tests.fusemount.ordinary import UID, Ordinary, ordinary_user
from tests.ufs.servers import nginx

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("private_mounts")]

MIB = 1 << 20
SUM = hashlib.sha256(content(3 * MIB, 1)).hexdigest()


@pytest.fixture(scope="module")
def user(private_mounts: None) -> Iterator[Ordinary]:
    with ordinary_user() as made:
        yield made


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    tree, run = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("nginx")
    (tree / "folder").mkdir()
    (tree / "folder" / "file").write_bytes(content(3 * MIB, 1))
    with nginx(tree, run, "autoindex on;") as address:
        yield address


@pytest.fixture
def mountpoint(user: Ordinary) -> Iterator[Path]:
    path = user.home / "mnt"
    yield path
    user.headrace("umount", "--lazy", str(path))
    assert layers(path) == 0


def test_mount_load_status_and_umount_need_no_privilege(user: Ordinary, url: str, mountpoint: Path) -> None:
    mounted = user.headrace("mount", "--background", "--memory-size", "16MiB", url, str(mountpoint))
    assert mounted.returncode == 0, mounted.stderr

    loaded = user.headrace("load", str(mountpoint))
    until(lambda: "3.00MiB, 100.0%" in user.headrace("status", str(mountpoint)).stdout)
    status = user.headrace("status", str(mountpoint))
    summed = user.run("sha256sum", f"{mountpoint}/folder/file")
    listed = user.headrace("status")
    ended = user.headrace("umount", str(mountpoint))

    assert (loaded.returncode, "1 files, 3.00MiB loaded" in loaded.stderr) == (0, True), loaded.stderr
    assert "passthrough no" in status.stdout
    assert "survives kill -9 no" in status.stdout
    assert summed.stdout.startswith(SUM)
    assert str(mountpoint) in listed.stdout
    assert ended.returncode == 0, ended.stderr
    assert layers(mountpoint) == 0
    assert not list(Path("/dev/shm").glob(f"headrace-{UID}-*"))
    assert (user.home / ".cache" / "headrace").is_dir()


def test_mount_again_after_a_kill_goes_on(user: Ordinary, url: str, mountpoint: Path) -> None:
    words = ("mount", "--background", url, str(mountpoint))
    assert user.headrace(*words).returncode == 0
    assert user.run("sha256sum", f"{mountpoint}/folder/file").stdout.startswith(SUM)
    (lock,) = (user.home / "run" / "headrace").glob("*/lock")
    os.kill(int(lock.read_text()), signal.SIGKILL)
    until(lambda: "DEAD" in user.headrace("status").stdout)

    again = user.headrace(*words)

    assert again.returncode == 0, again.stderr
    assert layers(mountpoint) == 1
    assert user.run("sha256sum", f"{mountpoint}/folder/file").stdout.startswith(SUM)


def test_daemon_that_is_killed_ends_the_mount_and_a_new_one_takes_its_place(
    user: Ordinary, url: str, mountpoint: Path
) -> None:
    words = ("mount", "--background", url, str(mountpoint))
    assert user.headrace(*words).returncode == 0
    until(lambda: "daemon" in user.headrace("status", str(mountpoint)).stdout)
    (line,) = [
        line for line in user.headrace("status", str(mountpoint)).stdout.splitlines() if line.startswith("process")
    ]
    os.kill(int(line.split()[2].strip(",")), signal.SIGKILL)
    until(lambda: user.headrace("status").stdout == "")

    again = user.headrace(*words)

    assert again.returncode == 0, again.stderr
    assert user.run("sha256sum", f"{mountpoint}/folder/file").stdout.startswith(SUM)


def test_sharing_that_the_machine_does_not_allow_is_said_so(user: Ordinary, url: str, mountpoint: Path) -> None:
    if any(line.strip() == "user_allow_other" for line in Path("/etc/fuse.conf").read_text().splitlines()):
        pytest.skip("this machine's /etc/fuse.conf allows it")

    refused = user.headrace("mount", "--allow-other", url, str(mountpoint))

    assert (refused.returncode, "user_allow_other" in refused.stderr) == (1, True)
    assert layers(mountpoint) == 0


def test_mount_of_another_user_is_not_ours_to_end(user: Ordinary, url: str, mountpoint: Path) -> None:
    assert user.headrace("mount", "--background", url, str(mountpoint)).returncode == 0

    status, umount = headrace("status", str(mountpoint)), headrace("umount", str(mountpoint))
    mount = headrace("mount", url, str(mountpoint))

    assert (status.returncode, umount.returncode, mount.returncode) == (1, 1, 1)
    assert "another user" in status.stderr
    assert "another user" in umount.stderr
    assert "mounted on" in mount.stderr
