"""What is measured: Headrace, its peers, and the limits. Each system is one command line that mounts a dataset.

A system without a command is read in place: the native file system. Options of the peers are the best known for
read-only data that does not change; what each does is in bench/README.md.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from data import Data
from machine import Meter
from origins import S3_KEY, S3_REGION, S3_SECRET, S3_URL, Origins
from reader import ReaderFailed

_MOUNT_DEADLINE_S = 60.0
_POLL_S = 0.001


@dataclass(frozen=True, slots=True)
class Place:
    """Where a system is to be mounted, from what, and where it may keep its cache."""

    origins: Origins
    dataset: str
    mountpoint: Path
    cache: Path
    tools: Path


@dataclass(frozen=True, slots=True)
class System:
    """*environment* is for secrets, and for what no option does."""

    name: str
    title: str
    command: Callable[[Place], list[str]] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    datasets: tuple[str, ...] = ("large", "small", "tree", "flat")


@dataclass(slots=True)
class Mounted:
    """A system that serves: *root* is the dataset."""

    root: Path
    pids: list[int]
    seconds: float

    def meter(self) -> Meter:
        return Meter(self.pids)


_AWS = {"AWS_ACCESS_KEY_ID": S3_KEY, "AWS_SECRET_ACCESS_KEY": S3_SECRET, "AWS_REGION": S3_REGION}


def _headrace(place: Place) -> list[str]:
    return [*_headrace_mount(place), place.origins.http_url(place.dataset), str(place.mountpoint)]


def _headrace_s3(place: Place) -> list[str]:
    options = [f"endpoint={S3_URL}", f"region={S3_REGION}"]
    words = [word for option in options for word in ("--option", option)]
    return [*_headrace_mount(place), *words, f"s3://{place.dataset}/", str(place.mountpoint)]


def _headrace_mount(place: Place) -> list[str]:
    program = Path(sys.executable).with_name("headrace")
    return [str(program), "mount", "--log-level", "error", "--cache-dir", str(place.cache)]


_RCLONE_OPTIONS = [
    "--read-only", "--allow-other", "--config", "/dev/null", "--vfs-cache-mode", "full", "--vfs-fast-fingerprint",
    "--no-checksum", "--dir-cache-time", "1h", "--attr-timeout", "1h", "--buffer-size", "32M",
    "--vfs-read-chunk-size", "16M", "--vfs-read-chunk-streams", "4",
]  # fmt: skip


def _rclone(place: Place) -> list[str]:
    return _rclone_mount(place, f":http,url='{place.origins.http_url(place.dataset)}':")


def _rclone_s3(place: Place) -> list[str]:
    remote = f":s3,provider=Other,env_auth=true,force_path_style=true,endpoint='{S3_URL}':{place.dataset}"
    return [*_rclone_mount(place, remote), "--use-server-modtime"]


def _rclone_mount(place: Place, remote: str) -> list[str]:
    program = str(place.tools / "rclone")
    return [program, "mount", remote, str(place.mountpoint), "--cache-dir", str(place.cache), *_RCLONE_OPTIONS]


def _juicefs(place: Place) -> list[str]:
    return [
        str(place.tools / "juicefs"), "mount", "--read-only", "--no-usage-report", "--no-bgjob", "--no-syslog",
        "--cache-dir", str(place.cache), "--cache-size", "100G", "--free-space-ratio", "0.01", "--buffer-size", "1G",
        "--attr-cache", "3600", "--entry-cache", "3600", "--dir-entry-cache", "3600", "--open-cache", "3600",
        "--readdir-cache", "--log", str(place.cache / "juicefs.log"), place.origins.redis_url(place.dataset),
        str(place.mountpoint),
    ]  # fmt: skip


def _s3fs(place: Place) -> list[str]:
    options = [
        "ro", "allow_other", "umask=0022", f"url={S3_URL}", f"endpoint={S3_REGION}", "use_path_request_style",
        f"use_cache={place.cache}", "kernel_cache", "max_stat_cache_size=2000000", "stat_cache_expire=3600",
        "parallel_count=8", "multireq_max=64", "complement_stat", "enable_noobj_cache",
    ]  # fmt: skip
    words = [word for option in options for word in ("-o", option)]
    return ["s3fs", place.dataset, str(place.mountpoint), "-f", *words]


SYSTEMS = {
    system.name: system
    for system in (
        System("headrace", "Headrace", _headrace),
        System("headrace-plain", "Headrace, no passthrough", _headrace, {"HEADRACE_DISABLE": "passthrough"}),
        System("headrace-s3", "Headrace, S3", _headrace_s3, _AWS),
        System("rclone", "rclone", _rclone),
        System("rclone-s3", "rclone, S3", _rclone_s3, _AWS),
        System("juicefs", "JuiceFS", _juicefs, {"ACCESS_KEY": S3_KEY, "SECRET_KEY": S3_SECRET}),
        System("s3fs", "s3fs", _s3fs, {"AWSACCESSKEYID": S3_KEY, "AWSSECRETACCESSKEY": S3_SECRET}),
        System("native", "native"),
        System("curl", "curl", datasets=("large", "small")),
        System("curl-s3", "curl, S3", datasets=("large", "small")),
    )
}
"""By the name that `--system` takes. `curl` and `curl-s3` mount nothing: they are the limits of the origins."""

PEERS = ("rclone", "rclone-s3", "juicefs", "s3fs")
LIMITS = ("curl", "curl-s3")


@contextmanager
def mounted(system: System, data: Data, place: Place, commands: dict[str, str]) -> Iterator[Mounted]:
    """*system* serving the dataset of *place*; notes its command line in *commands*.

    Raises:
        ReaderFailed: it did not come up; its output is in the message.
    """
    if system.command is None:
        yield Mounted(data.folder(place.dataset), [], 0.0)
        return
    command = system.command(place)
    shown = [*(f"{name}={value}" for name, value in system.environment.items() if value != S3_SECRET)]
    shown += [Path(command[0]).name, *command[1:]]
    commands.setdefault(f"{system.name} {place.dataset}", " ".join(shown))
    place.mountpoint.mkdir(exist_ok=True)
    place.cache.mkdir(exist_ok=True)
    output = place.mountpoint.with_name(f"{system.name}-{place.dataset}.out")
    start = time.monotonic()
    with output.open("wb") as log:
        process = subprocess.Popen(
            command, env=os.environ | dict(system.environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        _await_mount(process, place.mountpoint)
        yield Mounted(place.mountpoint, [process.pid], time.monotonic() - start)
    except ReaderFailed as error:
        raise ReaderFailed(f"{error}\n{output.read_text(errors='replace')[-1000:].strip()}") from error
    finally:
        _unmount(process, place.mountpoint)


def _await_mount(process: "subprocess.Popen[bytes]", mountpoint: Path) -> None:
    end = time.monotonic() + _MOUNT_DEADLINE_S
    while not is_mounted(mountpoint):
        if process.poll() is not None or time.monotonic() > end:
            raise ReaderFailed("not mounted")
        time.sleep(_POLL_S)
    os.scandir(mountpoint).close()


def is_mounted(mountpoint: Path) -> bool:
    """By the table of mounts: a look at a mountpoint may hang."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split()[4] == str(mountpoint) for line in lines)


def _unmount(process: "subprocess.Popen[bytes]", mountpoint: Path) -> None:
    """End the mount as its manual says, and if that fails, in any case: the next run must start from nothing."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    while is_mounted(mountpoint):
        subprocess.run(["umount", "--lazy", mountpoint], check=True)
    mountpoint.rmdir()  # nothing that could reach into a mount which is still there
