"""Real mounts by a broker in this process: mount, serve, bind, unbind, unmount."""

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest

from broker import kernel, mountinfo
from broker.broker import Broker
from broker.client import BrokerSession
from datamodel.errors import (
    AlreadyDifferent,
    Conflict,
    DeadlineExceeded,
    NotFound,
    PermissionRefused,
    Unavailable,
    UserError,
)
from datamodel.names import RuntimeKey
from tests.broker.conftest import KEY, SOON_S, TOKEN, Node
from tests.broker.daemons import BUFFER_BYTES, CONTENT, SmallDaemon, small_daemon

pytestmark = pytest.mark.root


def layers(target: str) -> int:
    return len(mountinfo.at(mountinfo.read(), target))


def test_mount_is_there_before_any_daemon(node: Node) -> None:
    node.mount()

    (runtime,) = node.control.runtimes(SOON_S)
    assert (runtime.key, runtime.served, runtime.daemons, runtime.binds) == (KEY, False, 0, ())
    (mount,) = mountinfo.at(mountinfo.read(), str(node.paths().mount))
    assert (mount.kind, mount.source, mount.is_read_only) == ("fuse.headrace", "headrace:cache/default/demo", True)
    assert {"nosuid", "nodev"} <= mount.options


def test_mount_twice_does_nothing(node: Node) -> None:
    node.mount()
    before = mountinfo.at(mountinfo.read(), str(node.paths().mount))

    node.mount()

    assert mountinfo.at(mountinfo.read(), str(node.paths().mount)) == before


def test_folders_belong_to_who_needs_them(node: Node) -> None:
    node.mount()

    cache, run = os.stat(node.paths().cache), os.stat(node.paths().run)

    assert (cache.st_uid, cache.st_gid, cache.st_mode & 0o777) == (65534, 65534, 0o700)
    assert (run.st_uid, run.st_mode & 0o777) == (0, 0o755)


def test_another_token_replaces_the_one_of_a_runtime_that_nobody_serves(node: Node) -> None:
    node.mount(token="old")

    node.mount(token=TOKEN)

    with pytest.raises(PermissionRefused):
        BrokerSession(node.socket(), "old", blocking=False, deadline_s=SOON_S)
    with small_daemon(node.socket(), TOKEN):
        node.control.wait_served(KEY, SOON_S)


def test_another_token_is_refused_while_a_daemon_serves(node: Node) -> None:
    node.mount()
    with small_daemon(node.socket(), TOKEN), pytest.raises(PermissionRefused, match="another token"):
        node.mount(token="new")


def test_mount_of_a_dead_broker_is_replaced(node: Node) -> None:
    node.mount()
    runtime = node.server._broker.runtime(KEY)
    runtime.connection.close()
    with pytest.raises(OSError, match="not connected"):
        os.stat(node.paths().mount)
    successor = Broker(str(node.runtime_root), (str(node.pods),))

    successor.mount(KEY, TOKEN, 0)

    assert layers(str(node.paths().mount)) == 1
    successor.close()


def test_waiting_for_what_was_never_mounted_is_not_found(node: Node) -> None:
    with pytest.raises(NotFound, match="stage it first"):
        node.control.wait_served(KEY, SOON_S)


def test_waiting_ends_when_its_time_is_over(node: Node) -> None:
    node.mount()

    with pytest.raises(DeadlineExceeded, match="no daemon serves"):
        node.control.wait_served(KEY, 0.05)


def test_waiting_ends_the_moment_a_daemon_serves(node: Node) -> None:
    node.mount()
    daemon = SmallDaemon(node.socket(), TOKEN)
    waiter = threading.Thread(target=node.control.wait_served, args=(KEY, 30.0))
    waiter.start()

    daemon.serve()
    waiter.join(SOON_S)

    assert not waiter.is_alive()
    daemon.close()


def test_waiting_ends_when_the_mount_goes(node: Node) -> None:
    node.mount()
    runtime = node.server._broker.runtime(KEY)
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            runtime.wait_served(30)
        except Unavailable as error:
            raised.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    node.control.unmount(KEY, SOON_S)
    waiter.join(SOON_S)

    assert len(raised) == 1


def test_attached_daemon_that_is_not_ready_does_not_serve(node: Node) -> None:
    node.mount()
    daemon = SmallDaemon(node.socket(), TOKEN)

    (runtime,) = node.control.runtimes(SOON_S)

    assert (runtime.served, runtime.daemons) == (False, 0)
    daemon.close()


def test_blocking_device_is_for_a_daemon_alone(node: Node) -> None:
    node.mount()
    with (
        small_daemon(node.socket(), TOKEN),
        pytest.raises(Conflict, match="must be the only one"),
    ):
        BrokerSession(node.socket(), TOKEN, blocking=True, deadline_s=SOON_S)


def session(node: Node, *, blocking: bool = False) -> BrokerSession:
    return BrokerSession(node.socket(), TOKEN, blocking=blocking, deadline_s=SOON_S)


def test_attached_daemon_is_told_what_its_connection_can_do(node: Node) -> None:
    node.mount()
    daemon = session(node)
    origin = mountinfo.at(mountinfo.read(), str(node.paths().mount))[-1]

    assert daemon.attached.passthrough
    assert daemon.attached.resend
    assert (daemon.attached.read_ahead_kib, daemon.attached.read_ahead_problem) == (4096, "")
    assert Path(f"/sys/class/bdi/{origin.device}/read_ahead_kb").read_text() == "4096\n"
    daemon.close()


def test_read_ahead_that_cannot_be_set_is_told_with_its_reason(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, text: str) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", refuse)
        node.mount()
    daemon = session(node)

    assert daemon.attached.read_ahead_kib == 0
    assert "read_ahead_kb: Operation not permitted" in daemon.attached.read_ahead_problem
    daemon.close()


def test_how_files_are_opened_is_settled_by_the_first_daemon_for_all(node: Node) -> None:
    node.mount()
    first, second = session(node), session(node)

    assert (first.attached.no_open, second.attached.no_open) == (None, None)
    assert [first.settle(no_open=True), second.settle(no_open=False), first.settle(no_open=False)] == [True] * 3
    first.close()
    second.close()
    later = session(node)
    assert later.attached.no_open is True
    assert later.settle(no_open=False) is True
    later.close()


def test_daemon_that_needs_open_messages_is_refused_where_there_are_none(node: Node) -> None:
    node.mount()
    first = session(node)
    first.settle(no_open=True)
    first.close()

    with pytest.raises(Conflict, match="takes the FUSE shim"):
        session(node, blocking=True)


def test_served_mount_is_read(node: Node) -> None:
    node.mount()
    with small_daemon(node.socket(), TOKEN):
        assert Path(node.paths().mount, "file").read_bytes() == CONTENT


def test_next_daemon_answers_what_its_predecessor_took_along(node: Node) -> None:
    node.mount()
    first = SmallDaemon(node.socket(), TOKEN)
    first.ready()
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(Path(node.paths().mount, "file").read_bytes()))
    reader.start()
    assert os.read(_when_readable(first), BUFFER_BYTES)  # a request is read now, and never answered

    first.close()
    with small_daemon(node.socket(), TOKEN):
        reader.join(SOON_S)

    assert found == [CONTENT]


def test_second_daemon_answers_at_once_what_the_dead_one_took_along(node: Node) -> None:
    node.mount()
    idle, first = SmallDaemon(node.socket(), TOKEN), SmallDaemon(node.socket(), TOKEN)
    first.ready()
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(Path(node.paths().mount, "file").read_bytes()))
    reader.start()
    assert os.read(_when_readable(first), BUFFER_BYTES)
    idle.serve()

    first.close()
    reader.join(SOON_S)

    assert found == [CONTENT]
    idle.close()


def test_bind_shows_the_mount(node: Node) -> None:
    node.mount()
    with small_daemon(node.socket(), TOKEN):
        node.bind(node.target())

        assert Path(node.target(), "file").read_bytes() == CONTENT
        assert node.control.runtimes(SOON_S)[0].binds == (node.target(),)


def test_bind_is_read_only_for_root_too(node: Node) -> None:
    node.mount()
    with small_daemon(node.socket(), TOKEN):
        node.bind(node.target(), read_only=True)

        for attempt in (
            lambda: Path(node.target(), "new").write_bytes(b"x"),
            lambda: Path(node.target(), "file").write_bytes(b"x"),
            lambda: Path(node.target(), "file").unlink(),
            lambda: Path(node.target(), "file").chmod(0o777),
            lambda: Path(node.target(), "folder").mkdir(),
        ):
            with pytest.raises(OSError, match="Read-only file system"):
                attempt()
    (mount,) = mountinfo.at(mountinfo.read(), node.target())
    assert {"ro", "nosuid", "nodev"} <= mount.options


def test_bind_again_does_nothing(node: Node) -> None:
    node.mount()
    node.bind(node.target())
    before = mountinfo.at(mountinfo.read(), node.target())

    node.bind(node.target())

    assert mountinfo.at(mountinfo.read(), node.target()) == before


def test_bind_into_an_existing_folder_works(node: Node) -> None:
    node.mount()
    Path(node.target()).mkdir()

    node.bind(node.target())

    assert layers(node.target()) == 1


def test_target_that_shows_another_runtime_is_already_different(node: Node) -> None:
    other = RuntimeKey("cache", "default", "other")
    node.mount()
    node.mount(other)
    node.bind(node.target())

    with pytest.raises(AlreadyDifferent, match="unpublish it first"):
        node.bind(node.target(), key=other)


def test_target_that_shows_another_folder_is_already_different(node: Node) -> None:
    node.mount()
    with small_daemon(node.socket(), TOKEN):
        node.bind(node.target())

        with pytest.raises(AlreadyDifferent):
            node.bind(node.target(), sub_path="dir")


def test_target_that_shows_a_foreign_mount_is_already_different(node: Node) -> None:
    node.mount()
    Path(node.target()).mkdir()
    kernel.mount("none", node.target(), "tmpfs", 0, "")

    with pytest.raises(AlreadyDifferent, match="none/"):
        node.bind(node.target())


@pytest.mark.parametrize("sub_path", ["dir", "/dir/", "dir/with space"])
def test_bind_of_a_folder_in_the_dataset(node: Node, sub_path: str) -> None:
    node.mount()
    with small_daemon(node.socket(), TOKEN):
        node.bind(node.target(), sub_path=sub_path)
        node.bind(node.target(), sub_path=sub_path)

        (mount,) = mountinfo.at(mountinfo.read(), node.target())
        assert mount.root == "/" + sub_path.strip("/")


@pytest.mark.parametrize("sub_path", ["none", "file", "dir/none", "file/below"])
def test_sub_path_that_is_no_folder_is_not_found(node: Node, sub_path: str) -> None:
    node.mount()
    with small_daemon(node.socket(), TOKEN), pytest.raises(NotFound, match="no folder of the dataset"):
        node.bind(node.target(), sub_path=sub_path)

    assert not Path(node.target()).exists()


@pytest.mark.parametrize("sub_path", ["..", "../..", "dir/../../..", "dir/..", ".", "dir//with space"])
def test_sub_path_never_leads_out_of_the_dataset(node: Node, sub_path: str) -> None:
    node.mount()
    with small_daemon(node.socket(), TOKEN), pytest.raises(UserError, match="fluid_sub_path"):
        node.bind(node.target(), sub_path=sub_path)

    assert layers(node.target()) == 0


def test_sub_path_on_a_daemon_that_hangs_costs_no_more_than_the_deadline(node: Node) -> None:
    node.mount()
    hanging = SmallDaemon(node.socket(), TOKEN)
    hanging.ready()

    with pytest.raises(DeadlineExceeded):
        node.control.bind(KEY, node.target(), sub_path="dir", read_only=True, deadline_s=0.3)

    hanging.close()


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out", "./a", "a//b", "a/", "", "a/./b"])
def test_target_outside_the_trusted_folders_is_refused(node: Node, name: str) -> None:
    node.mount()
    target = name if name.startswith("/") else f"{node.pods}/{name}"

    with pytest.raises(UserError, match="target_path"):
        node.bind(target)
    with pytest.raises(UserError, match="target_path"):
        node.control.unbind(target, SOON_S)


def test_relative_target_is_refused(node: Node) -> None:
    node.mount()

    with pytest.raises(UserError, match="absolute"):
        node.bind("pods/target")


def test_target_behind_a_symbolic_link_is_refused(node: Node, tmp_path: Path) -> None:
    node.mount()
    (tmp_path / "elsewhere").mkdir()
    (node.pods / "link").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(UserError, match="symbolic link"):
        node.bind(f"{node.pods}/link/target")

    assert not (tmp_path / "elsewhere" / "target").exists()
    (node.pods / "link").unlink()


def test_target_that_is_a_symbolic_link_is_not_followed(node: Node, tmp_path: Path) -> None:
    node.mount()
    (tmp_path / "elsewhere").mkdir()
    Path(node.target()).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(Unavailable):
        node.bind(node.target())

    assert layers(str(tmp_path / "elsewhere")) == 0


def test_target_without_a_parent_is_not_found(node: Node) -> None:
    node.mount()

    with pytest.raises(NotFound, match="parent folder"):
        node.bind(f"{node.pods}/none/target")


def test_trusted_folder_reached_by_a_link_is_used_like_any_other(node: Node, tmp_path: Path) -> None:
    (tmp_path / "by-link").symlink_to(node.pods)
    broker = Broker(str(tmp_path / "rt2"), (str(tmp_path / "by-link"),))
    broker.mount(KEY, TOKEN, 0)
    target = f"{tmp_path}/by-link/target"
    broker.bind(KEY, target, "", read_only=True, deadline_s=SOON_S)

    broker.bind(KEY, target, "", read_only=True, deadline_s=SOON_S)
    assert layers(node.target()) == 1
    broker.unbind(target)

    assert not Path(node.target()).exists()
    broker.close()


def test_dead_layer_is_taken_off_before_the_target_is_bound_again(node: Node) -> None:
    node.mount()
    node.bind(node.target())
    node.restart()
    node.mount()

    node.bind(node.target())

    assert layers(node.target()) == 1
    with small_daemon(node.socket(), TOKEN):
        assert Path(node.target(), "file").read_bytes() == CONTENT


def test_unbind_of_what_is_not_there_is_fine(node: Node) -> None:
    node.control.unbind(node.target(), SOON_S)
    node.control.unbind(f"{node.pods}/none/target", SOON_S)
    Path(node.target()).mkdir()

    node.control.unbind(node.target(), SOON_S)

    assert not Path(node.target()).exists()


def test_unbind_takes_every_layer_off(node: Node) -> None:
    node.mount()
    node.bind(node.target())
    kernel.mount("none", node.target(), "tmpfs", 0, "")

    node.control.unbind(node.target(), SOON_S)

    assert layers(node.target()) == 0
    assert not Path(node.target()).exists()


def test_unbind_of_a_dead_target_works(node: Node) -> None:
    node.mount()
    node.bind(node.target())
    node.server._broker.runtime(KEY).connection.close()

    node.control.unbind(node.target(), SOON_S)

    assert not Path(node.target()).exists()


def test_unbind_of_a_target_in_use_works(node: Node) -> None:
    node.mount()
    with small_daemon(node.socket(), TOKEN):
        node.bind(node.target())
        with Path(node.target(), "file").open("rb", buffering=0) as used:
            node.control.unbind(node.target(), SOON_S)

            assert not Path(node.target()).exists()
            assert used.read() == CONTENT


def test_unbind_of_a_target_on_a_daemon_that_hangs_works(node: Node) -> None:
    node.mount()
    node.bind(node.target())
    hanging = SmallDaemon(node.socket(), TOKEN)
    hanging.ready()

    node.control.unbind(node.target(), SOON_S)

    assert not Path(node.target()).exists()
    hanging.close()


def test_unbind_keeps_files_that_lie_beneath_the_mount(node: Node) -> None:
    node.mount()
    Path(node.target()).mkdir()
    Path(node.target(), "precious").write_bytes(b"x")
    node.bind(node.target())

    with pytest.raises(Conflict, match="move them away"):
        node.control.unbind(node.target(), SOON_S)

    assert Path(node.target(), "precious").read_bytes() == b"x"
    shutil.rmtree(node.target())


def test_unmount_is_refused_while_a_target_shows_the_runtime(node: Node) -> None:
    node.mount()
    node.bind(node.target())

    with pytest.raises(Conflict, match=r"still bound to .*/target"):
        node.control.unmount(KEY, SOON_S)

    assert len(node.control.runtimes(SOON_S)) == 1


def test_unmount_leaves_nothing_behind(node: Node) -> None:
    node.mount()
    Path(node.paths().cache, "blocks").mkdir()
    Path(node.paths().cache, "blocks", "1").write_bytes(b"x")

    node.control.unmount(KEY, SOON_S)

    assert node.control.runtimes(SOON_S) == []
    assert layers(str(node.paths().mount)) == 0
    assert list(node.runtime_root.iterdir()) == []


def test_unmount_leaves_other_runtimes_alone(node: Node) -> None:
    other = RuntimeKey("cache", "default", "other")
    node.mount()
    node.mount(other)

    node.control.unmount(KEY, SOON_S)

    assert [runtime.key for runtime in node.control.runtimes(SOON_S)] == [other]
    assert layers(str(node.paths(other).mount)) == 1


def test_unmount_again_or_of_the_unknown_is_fine(node: Node) -> None:
    node.control.unmount(KEY, SOON_S)
    node.mount()
    node.control.unmount(KEY, SOON_S)
    node.control.unmount(KEY, SOON_S)


def test_unmount_of_a_runtime_whose_daemon_hangs_works(node: Node) -> None:
    node.mount()
    hanging = SmallDaemon(node.socket(), TOKEN)
    hanging.ready()

    node.control.unmount(KEY, SOON_S)

    assert node.control.runtimes(SOON_S) == []
    hanging.close()


def test_mount_after_unmount_is_a_new_one(node: Node) -> None:
    node.mount()
    node.control.unmount(KEY, SOON_S)

    node.mount(token="new")

    with small_daemon(node.socket(), "new"):
        assert Path(node.paths().mount, "file").read_bytes() == CONTENT


def test_mount_that_somebody_took_away_is_said_so(node: Node) -> None:
    node.mount()
    kernel.umount(str(node.paths().mount), kernel.MNT_DETACH)

    with pytest.raises(Unavailable, match="somebody unmounted"):
        node.bind(node.target())


def test_statistics_are_those_of_the_file_system(node: Node) -> None:
    node.mount()
    with small_daemon(node.socket(), TOKEN):
        found = node.control.statistics(KEY, SOON_S)

    assert (found.total_bytes, found.used_bytes, found.available_bytes) == (4096_000, 900 * 4096, 50 * 4096)
    assert (found.total_inodes, found.used_inodes, found.abnormal) == (20, 15, False)


def test_statistics_of_a_mount_without_a_daemon_are_abnormal(node: Node) -> None:
    node.mount()

    found = node.control.statistics(KEY, SOON_S)

    assert (found.abnormal, found.message) == (True, "no daemon serves the mount")


def test_statistics_of_a_daemon_that_hangs_are_abnormal_in_time(node: Node) -> None:
    node.mount()
    hanging = SmallDaemon(node.socket(), TOKEN)
    hanging.ready()

    found = node.control.statistics(KEY, 0.3)

    assert found.abnormal
    assert "did not answer within 0.3 s" in found.message
    hanging.close()


def test_statistics_of_the_unknown_are_not_found(node: Node) -> None:
    with pytest.raises(NotFound):
        node.control.statistics(KEY, SOON_S)


def _when_readable(daemon: SmallDaemon) -> int:
    import select

    device = daemon._session.fuse_fd
    assert select.select([device], [], [], SOON_S)[0]
    return device
