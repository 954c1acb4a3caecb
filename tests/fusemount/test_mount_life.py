"""How mounts of `headrace mount` begin and end: killed, interrupted, repeated, and what they leave."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import mountinfo
from fusemount.localcache import OWNER_NAME
from fusemount.localstate import state_of
from tests.fusemount.mounts import Mounted, content, digest, headrace, layers, mounted, until
from tests.ufs.servers import nginx

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("private_mounts")]

MIB = 1 << 20
_ENDS_WITHIN_S = 40


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    root.chmod(0o755)
    (root / "file").write_bytes(content(5 * MIB, 1))
    (root / "folder").mkdir()
    (root / "folder" / "small").write_bytes(b"small")
    return root


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """The URL of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


def started(*words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "headrace.main", *words]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, errors = process.communicate(timeout=_ENDS_WITHIN_S)
    return process.returncode, errors


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/exe").exists()


def leaves_nothing(mountpoint: Path) -> bool:
    return not state_of(mountpoint).exists() and layers(mountpoint) == 0


def mount_again(mount: Mounted, *words: str) -> "subprocess.CompletedProcess[str]":
    options = ("--background", "--cache-dir", str(mount.cache), "--log-file", str(mount.log))
    return headrace("mount", *options, *words, str(mount.path))


def test_mount_again_after_every_process_was_killed_goes_on_with_the_cache(tree: Path, tmp_path: Path) -> None:
    server = contextlib.ExitStack()
    url = server.enter_context(nginx(tree, tmp_path, "autoindex on;"))
    with server, mounted(tmp_path, url) as mount:
        wanted = digest(mount.path / "file")
        until(lambda: mount.status()["cache"]["cachedBytes"] >= 5 * MIB)
        for pid in [*mount.pids("broker"), *mount.pids("daemon")]:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(OSError, match=r"not connected|connection abort"):
            (mount.path / "file").stat()
        server.close()

        again = mount_again(mount, url)

        assert (again.returncode, layers(mount.path)) == (0, 1), again.stderr
        assert digest(mount.path / "file") == wanted == digest(tree / "file")


def test_mount_again_takes_the_place_of_daemons_that_hang(tree: Path, tmp_path: Path) -> None:
    with mounted(tmp_path, str(tree)) as mount:
        daemons = mount.pids("daemon")
        for pid in daemons:
            os.kill(pid, signal.SIGSTOP)
        os.kill(*mount.pids("broker"), signal.SIGKILL)

        again = mount_again(mount, str(tree))

        assert again.returncode == 0, again.stderr
        assert (mount.path / "folder" / "small").read_bytes() == b"small"
        assert not any(map(is_alive, daemons))


def test_living_mount_is_not_taken_over(tree: Path, tmp_path: Path) -> None:
    with mounted(tmp_path, str(tree)) as mount:
        pids = mount.pids("broker")

        again = mount_again(mount, str(tree))

        assert (again.returncode, f"process {pids[0]} serves" in again.stderr) == (1, True)
        assert mount.pids("broker") == pids


def test_mount_of_something_else_is_not_taken_over(tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "mnt"
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "mine", str(target)], check=True)
    try:
        result = headrace("mount", "--cache-dir", str(tmp_path / "cache"), str(tree), str(target))
    finally:
        subprocess.run(["umount", str(target)], check=True)

    assert (result.returncode, "mine is mounted on" in result.stderr) == (1, True)


def test_cache_of_a_living_mount_is_refused_to_another(tree: Path, tmp_path: Path) -> None:
    with mounted(tmp_path, str(tree)) as mount:
        other = tmp_path / "other"

        result = headrace("mount", "--cache-dir", str(mount.cache), str(tree), str(other))

        assert (result.returncode, f"the mount at '{mount.path}'" in result.stderr) == (1, True)
        assert leaves_nothing(other)
        assert not other.exists()


def test_folder_that_is_no_cache_is_refused_and_left_as_it_is(tree: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o755)
    (mine / "thesis").write_text("x")

    result = headrace("mount", "--cache-dir", str(mine), str(tree), str(tmp_path / "m"))

    assert (result.returncode, "is not empty, and no cache" in result.stderr) == (2, True)
    assert [path.name for path in mine.iterdir()] == ["thesis"]
    assert (mine.stat().st_uid, mine.stat().st_mode & 0o777) == (0, 0o755)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("where", ["foreground", "background"])
def test_signal_before_it_serves_ends_it_and_leaves_nothing(tmp_path: Path, number: signal.Signals, where: str) -> None:
    mountpoint = tmp_path / "mnt"
    options = ["--background", "--log-file", str(tmp_path / "log")] if where == "background" else []
    with silent_server() as url:
        process = started("mount", *options, "--cache-dir", str(tmp_path / "cache"), url, str(mountpoint))
        until(lambda: (state_of(mountpoint) / "lock").exists())
        process.send_signal(number)
        code, errors = ended(process)

    assert (code, "Traceback" in errors) == (130, False)
    assert leaves_nothing(mountpoint)
    assert not mountpoint.exists()


def test_signal_while_it_is_read_ends_it_and_leaves_nothing(tree: Path, tmp_path: Path) -> None:
    with nginx(tree, tmp_path, "autoindex on; limit_rate 1m;") as url, mounted(tmp_path, url) as mount:
        reader = subprocess.Popen(["cat", str(mount.path / "file")], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert reader.stdout is not None
        reader.stdout.read(1)
        pids = [*mount.pids("broker"), *mount.pids("daemon")]

        os.kill(pids[0], signal.SIGTERM)

        until(lambda: not any(map(is_alive, pids)))
        reader.communicate(timeout=_ENDS_WITHIN_S)
        assert reader.returncode == 1  # it was told; it did not take the part for the whole
    assert leaves_nothing(mount.path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_signal_of_a_terminal_unmounts_and_is_a_success(tree: Path, tmp_path: Path, number: signal.Signals) -> None:
    mountpoint = tmp_path / "mnt"
    words = ("--cache-dir", str(tmp_path / "cache"), str(tree), str(mountpoint))
    process = started("mount", *words)
    until(lambda: layers(mountpoint) == 1 and (state_of(mountpoint) / "status.json").exists())

    os.killpg(process.pid, number)

    code, errors = ended(process)
    assert (code, "Traceback" in errors) == (0, False), errors
    assert leaves_nothing(mountpoint)


def test_memory_comes_first_and_goes_with_the_mount(tree: Path, tmp_path: Path) -> None:
    with mounted(tmp_path, "--memory-size", "64MiB", str(tree)) as mount:
        memory = Path(mount.status()["memoryDir"])
        (found,) = mountinfo.at(mountinfo.read(), str(memory))
        digest(mount.path / "file")
        until(lambda: any(path.is_file() and path.stat().st_size >= 5 * MIB for path in memory.rglob("*")))

        assert found.kind == "tmpfs"
        assert mount.status()["cache"]["quotaBytes"] == (20 << 30) + (64 << 20)
    assert mountinfo.at(mountinfo.read(), str(memory)) == []
    assert leaves_nothing(mount.path)


def test_more_memory_than_there_is_is_refused(tree: Path, tmp_path: Path) -> None:
    words = ("--cache-dir", str(tmp_path / "cache"), "--memory-size", "1024TiB", str(tree), str(tmp_path / "m"))

    result = headrace("mount", *words)

    assert (result.returncode, "--memory-size: " in result.stderr) == (2, True)
    assert leaves_nothing(tmp_path / "m")


def test_manifest_is_mounted_as_a_cluster_would(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "dataset.yaml").write_text(
        "apiVersion: data.fluid.io/v1alpha1\nkind: Dataset\nmetadata: {name: demo}\n"
        f"spec: {{owner: {{uid: 7, gid: 8, user: u, group: g}}, mounts: [{{name: t, mountPoint: 'local://{tree}'}}]}}\n"
    )

    with mounted(tmp_path, "-f", str(tmp_path / "dataset.yaml")) as mount:
        shown = mount.path / "t" / "folder" / "small"

        assert shown.read_bytes() == b"small"
        assert (shown.stat().st_uid, shown.stat().st_gid) == (7, 8)
        assert mount.status()["dataset"] == "default/demo"


def test_secret_of_the_environment_opens_the_source_and_is_seen_nowhere(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users").write_text("me:{PLAIN}hunter2-hunter2\n")
    options = f'autoindex on; auth_basic "x"; auth_basic_user_file {tmp_path}/users;'
    monkeypatch.setenv("HEADRACE_OPTION_PASSWORD", "hunter2-hunter2")
    with nginx(tree, tmp_path, options) as url, mounted(tmp_path, "--option", "username=me", url) as mount:
        assert (mount.path / "folder" / "small").read_bytes() == b"small"

        state = state_of(mount.path)
        pids = [*mount.pids("broker"), *mount.pids("daemon")]
        seen = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]
        seen += [Path(f"/proc/{pid}/environ").read_bytes() for pid in mount.pids("daemon")]
        seen += [path.read_bytes() for path in state.glob("*.json")]
        seen += [mount.log.read_bytes(), (mount.cache / OWNER_NAME).read_bytes(), str(mount.status()).encode()]
        (secret,) = (state / "options").iterdir()

        assert not any(b"hunter2" in text for text in seen)
        assert secret.read_text() == "hunter2-hunter2"
        assert secret.stat().st_mode & 0o777 == 0o600
    assert leaves_nothing(mount.path)


def test_wrong_password_is_refused_when_mounting(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "users").write_text("me:{PLAIN}right\n")
    (tmp_path / "password").write_text("wrong\n")
    options = f'autoindex on; auth_basic "x"; auth_basic_user_file {tmp_path}/users;'
    words = ("--option", "username=me", "--option-file", f"password={tmp_path}/password")
    with nginx(tree, tmp_path, options) as url:
        result = headrace("mount", "--cache-dir", str(tmp_path / "cache"), *words, url, str(tmp_path / "mnt"))

    assert (result.returncode, "source 'source': " in result.stderr, "401" in result.stderr) == (1, True, True)
    assert "wrong" not in result.stderr
    assert leaves_nothing(tmp_path / "mnt")


def test_web_server_that_lists_nothing_is_mounted_with_a_warning_for_its_files(tree: Path, tmp_path: Path) -> None:
    mountpoint = tmp_path / "mnt"
    words = ("--background", "--log-file", str(tmp_path / "log"), "--cache-dir", str(tmp_path / "cache"))
    with nginx(tree, tmp_path, "autoindex off;") as url:
        result = headrace("mount", *words, url, str(mountpoint))
        try:
            assert (result.returncode, "cannot be listed" in result.stderr) == (0, True)
            assert (mountpoint / "file").read_bytes() == content(5 * MIB, 1)
        finally:
            headrace("umount", "--lazy", str(mountpoint))
