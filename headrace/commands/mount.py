"""`headrace mount`: remote data as a local folder."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datamodel.client import Source
    from fusemount.local import MountPlan

SUMMARY = "Serve remote data as a folder: read once from the source, then from the cache on this machine."
EXAMPLES = """examples:
  headrace mount http://mirror.example/datasets/ /mnt/data
  headrace mount train=http://a.example/train/ test=http://b.example/test/ /mnt/sets
  headrace mount --background /net/slow/archive /mnt/fast --cache-size 50GiB
  headrace umount /mnt/data

As root the mount survives the death of its daemons, and complete files are read by the kernel itself. As a normal
user (with fusermount3) one plain process serves it. The cache stays after the mount ends; the same sources find it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="+", metavar="SOURCE", help="[NAME=]URL, or a local path")
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", help="an empty folder; made if missing")
    parser.add_argument(
        "--cache-dir", metavar="DIR", help="default: a folder per set of sources below /var/cache/headrace"
    )
    parser.add_argument(
        "--cache-size", default="20GiB", metavar="SIZE", help="quota of the cache (default: %(default)s)"
    )
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="daemon processes (default: %(default)s)")
    parser.add_argument(
        "--ttl", type=float, default=300.0, metavar="SECONDS", help="believe a listing so long (default: %(default)s)"
    )
    parser.add_argument(
        "--user",
        metavar="NAME",
        help="the daemons' user (default: who called sudo; else nobody, or root for local sources)",
    )
    parser.add_argument("--background", action="store_true", help="return as soon as the mount serves")
    parser.add_argument("--allow-other", action="store_true", help="without root: let other users read, too")


def run(arguments: argparse.Namespace) -> int:
    import os

    from datamodel.errors import HeadraceError

    plan = _plan(arguments)
    if not arguments.background:
        return _serve(plan, -1)
    reader, writer = os.pipe()
    if not os.fork():
        os.setsid()
        os.close(reader)
        os._exit(_serve(plan, writer))
    os.close(writer)
    with os.fdopen(reader) as pipe:
        problem = pipe.read()
    if problem != "serving":
        raise HeadraceError(problem or "the mount ended before it served; see its log")
    return 0


def _plan(arguments: argparse.Namespace) -> "MountPlan":
    import hashlib
    import os
    from pathlib import Path

    from datamodel.client import ClientConfig, Tier
    from datamodel.errors import UserError
    from datamodel.quantity import parse_bytes
    from fusemount.local import MountPlan, mountpoint_of
    from headrace.sources import parse_sources

    sources = parse_sources(arguments.source)
    if arguments.processes < 1:
        raise UserError(f"--processes: {arguments.processes} is not a positive number")
    is_root = os.geteuid() == 0
    home = Path("/var/cache") if is_root else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.blake2b(repr([(s.path, s.url) for s in sources]).encode(), digest_size=6).hexdigest()
    cache_dir = Path(arguments.cache_dir).absolute() if arguments.cache_dir else home / "headrace" / digest
    config = ClientConfig(
        dataset=f"local/{Path(arguments.mountpoint).name}",
        sources=sources,
        tiers=(Tier(path=str(cache_dir), quota_bytes=parse_bytes("--cache-size", arguments.cache_size)),),
        listing_ttl_s=arguments.ttl,
        processes=arguments.processes if is_root else 1,
    )
    uid = _user(arguments.user, sources) if is_root else os.geteuid()
    mountpoint = mountpoint_of(arguments.mountpoint)
    return MountPlan(config, mountpoint, uid, arguments.allow_other, arguments.log_level)


def _user(name: str | None, sources: "tuple[Source, ...]") -> int:
    import os
    import pwd

    from datamodel.errors import UserError
    from datamodel.names import DAEMON_UID
    from fusemount.privileges import can_run_as

    if name:
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError as error:
            raise UserError(f"--user: {name!r} does not exist") from error
    if any(source.url.startswith(("local:", "file:")) for source in sources):
        return 0
    uid = int(os.environ.get("SUDO_UID", DAEMON_UID))
    return uid if can_run_as(uid) else 0  # a Python below /root; the daemon drops its capabilities in any case


def _serve(plan: "MountPlan", notify_fd: int) -> int:
    import os
    import signal
    import threading

    from datamodel.errors import HeadraceError
    from fusemount.local import LocalMount, check_sources_answer

    mount = LocalMount(plan)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: mount.stop.set())

    def notify() -> None:
        mount.serving.wait()
        os.write(notify_fd, b"serving")
        os.close(notify_fd)

    if notify_fd >= 0:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        threading.Thread(target=notify, daemon=True).start()
    try:
        check_sources_answer(plan.config)
        return mount.run()
    except HeadraceError as error:
        if notify_fd < 0 or mount.serving.is_set():
            raise
        os.write(notify_fd, str(error).encode())
        return error.exit_code
