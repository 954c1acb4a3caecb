"""Binding a runtime's mount into pods, by file descriptor from trusted roots.

So there is no symlink race, and the bind is never writable, not even for a moment.
"""

import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path, PurePosixPath

from broker import kernel, mountinfo
from broker.mountinfo import Mount
from broker.wire import VolumeStatistics
from datamodel.errors import AlreadyDifferent, Conflict, DeadlineExceeded, NotFound, Unavailable, UserError

_PROBE = Path(__file__).with_name("probe.py")
_MAX_LAYERS = 64
_ATTRIBUTES = {"ro": kernel.MOUNT_ATTR_RDONLY, "noexec": kernel.MOUNT_ATTR_NOEXEC}
"""What a caller may ask for, by its name in mountinfo."""


def check_target(target: str, roots: tuple[str, ...]) -> tuple[str, str]:
    """Split *target* into (trusted root, path beneath it).

    Raises:
        UserError: not absolute, not normalised, or outside every root.
    """
    if not target.startswith("/") or str(PurePosixPath(target)) != target or ".." in target.split("/"):
        raise UserError(f"target_path: {target!r} must be absolute and without '.', '..' or doubled slashes")
    for root in roots:
        prefix = root.rstrip("/") + "/"
        if target.startswith(prefix):
            return root, target.removeprefix(prefix)
    raise UserError(f"target_path: {target!r} is outside the trusted folders {', '.join(roots)}")


def check_sub_path(sub_path: str) -> str:
    """*sub_path* as an absolute path in the dataset.

    Raises:
        UserError: it could lead out of the dataset.
    """
    parts = sub_path.strip("/").split("/")
    if parts != [""] and any(part in ("", ".", "..") for part in parts):
        raise UserError(f"fluid_sub_path: {sub_path!r} must not have '.', '..' or empty parts")
    return "/" + "/".join(parts)


class Folder:
    """The parent of a target, opened beneath its trusted root; use as a context manager.

    Raises:
        FileNotFoundError: the parent does not exist.
        UserError: a symbolic link stands on the way.
    """

    def __init__(self, target: str, roots: tuple[str, ...]) -> None:
        root, beneath = check_target(target, roots)
        parent, _, self.name = beneath.rpartition("/")
        root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.fd = kernel.open_beneath(root_fd, parent, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EXDEV):
                raise UserError(f"target_path: {target!r} passes through a symbolic link") from error
            raise
        finally:
            os.close(root_fd)

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    @property
    def target(self) -> str:
        """The target as the mount table writes it, also where a link leads to the trusted root."""
        return f"{os.readlink(f'/proc/self/fd/{self.fd}')}/{self.name}"

    @property
    def child(self) -> str:
        """A path to the target that cannot be redirected by renaming its parents."""
        return f"/proc/self/fd/{self.fd}/{self.name}"


def bind(
    origin: Mount,
    target: str,
    sub_path: str,
    *,
    read_only: bool,
    no_exec: bool = False,
    roots: tuple[str, ...],
    live: frozenset[str],
    deadline_s: float,
) -> None:
    """Show *sub_path* of the FUSE mount *origin* at *target*; a second call with the same arguments does nothing.

    The target folder is made if its parent exists. Layers of our file system type whose device is not in *live*
    belong to a connection that nobody keeps, so they are dead; they are taken off first.

    Raises:
        AlreadyDifferent: something else, or the same with another mode, is mounted there.
        NotFound: the target's parent, or *sub_path*, does not exist.
        DeadlineExceeded: *sub_path* could not be opened in *deadline_s* seconds.
    """
    source_root = check_sub_path(sub_path)
    wanted = _restrictions(origin, read_only=read_only, no_exec=no_exec)
    try:
        folder = Folder(target, roots)
    except FileNotFoundError as error:
        raise NotFound(f"target_path: the parent folder of {target!r} does not exist") from error
    with folder:
        if _is_bound_already(origin, target, source_root, wanted, live, folder):
            return
        tree_fd = _clone_of(origin, source_root, deadline_s)
        try:
            attributes = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
            for option in wanted:
                attributes |= _ATTRIBUTES[option]
            kernel.set_mount_attributes(tree_fd, attributes)
            _attach(tree_fd, folder)
        finally:
            os.close(tree_fd)


def unbind(target: str, roots: tuple[str, ...], *, keep_folder: bool = False) -> None:
    """Take every layer off *target* and remove the empty folder, unless *keep_folder*; done already is fine.

    No file content is touched.

    Raises:
        Conflict: the folder beneath the mounts holds files; they are kept.
    """
    try:
        folder = Folder(target, roots)
    except FileNotFoundError:
        return
    with folder:
        _peel(folder)
        if keep_folder:
            return
        try:
            os.rmdir(folder.name, dir_fd=folder.fd)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            os.unlink(folder.name, dir_fd=folder.fd)  # a symbolic link, as other publish methods leave it
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            raise Conflict(f"target_path: {target!r} holds files beneath the mount; move them away") from error


def statistics(origin: Mount, deadline_s: float) -> VolumeStatistics:
    """statfs of the mount, asked by a child that is given up after *deadline_s* seconds."""
    root_fd = os.open(origin.target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        words = _ask(["statfs", str(root_fd)], (root_fd,), deadline_s).split()
    except DeadlineExceeded:
        return VolumeStatistics(abnormal=True, message=f"the file system did not answer within {deadline_s:g} s")
    except OSError as error:
        return VolumeStatistics(abnormal=True, message=f"the file system is dead: {error.strerror}")
    finally:
        os.close(root_fd)
    total, free, available, inodes, free_inodes = (int(word) for word in words)
    return VolumeStatistics(total, total - free, available, inodes, inodes - free_inodes)


def _restrictions(origin: Mount, *, read_only: bool, no_exec: bool) -> frozenset[str]:
    """Options of a bind of *origin*: those asked for, and those of *origin*, which a clone inherits."""
    asked = {"ro": read_only, "noexec": no_exec}
    return frozenset(option for option, is_asked in asked.items() if is_asked or option in origin.options)


def _is_bound_already(
    origin: Mount, target: str, source_root: str, wanted: frozenset[str], live: frozenset[str], folder: Folder
) -> bool:
    layers = mountinfo.at(mountinfo.read(), folder.target)
    if not layers:
        return False
    top = layers[-1]
    if top.device == origin.device and top.root == source_root:
        if (given := top.options & _ATTRIBUTES.keys()) != wanted:
            raise AlreadyDifferent(
                f"target_path: {target!r} is published with options {sorted(given)} already, not {sorted(wanted)}; "
                "unpublish it first"
            )
        return True
    if top.kind != "fuse.headrace" or top.device in live:
        raise AlreadyDifferent(f"target_path: {target!r} shows {top.source}{top.root} already; unpublish it first")
    _peel(folder)
    return False


def _clone_of(origin: Mount, source_root: str, deadline_s: float) -> int:
    root_fd = os.open(origin.target, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if source_root == "/":
            return kernel.clone_tree(root_fd)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            words = ["open", str(root_fd), source_root.strip("/"), str(theirs.fileno())]
            _ask(words, (root_fd, theirs.fileno()), deadline_s)
            _, fds, _, _ = socket.recv_fds(ours, 16, 1)
        try:
            return kernel.clone_tree(fds[0])
        finally:
            os.close(fds[0])
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise NotFound(f"fluid_sub_path: {source_root!r} is no folder of the dataset") from error
        raise
    finally:
        os.close(root_fd)


def _attach(tree_fd: int, folder: Folder) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder.name, 0o750, dir_fd=folder.fd)
    target_fd = os.open(folder.name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder.fd)
    try:
        kernel.attach_tree(tree_fd, target_fd)
    finally:
        os.close(target_fd)


def _peel(folder: Folder) -> None:
    for _ in range(_MAX_LAYERS):
        if not mountinfo.at(mountinfo.read(), folder.target):
            return
        try:
            kernel.umount(folder.child)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTCONN):
                raise
            kernel.umount(folder.child, kernel.MNT_DETACH)
    raise Unavailable(f"target_path: {folder.target!r} has more than {_MAX_LAYERS} layers of mounts")


def _ask(words: list[str], fds: tuple[int, ...], deadline_s: float) -> str:
    command = [sys.executable, "-I", "-S", str(_PROBE), *words]
    child = subprocess.Popen(command, pass_fds=fds, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    try:
        output, _ = child.communicate(timeout=max(0.05, deadline_s))
    except subprocess.TimeoutExpired as error:
        # In D state it dies only once the daemon answers or the mount ends, so nobody here waits for that.
        child.kill()
        threading.Thread(target=child.communicate, name="reap probe", daemon=True).start()
        raise DeadlineExceeded("a call into the FUSE mount did not return in time") from error
    if child.returncode == 3:
        code = int(output)
        raise OSError(code, os.strerror(code))
    if child.returncode:
        raise Unavailable(f"the probe ended with code {child.returncode}")
    return output
