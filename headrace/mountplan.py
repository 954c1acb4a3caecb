"""From the words of `headrace mount` to the plan that `fusemount.local` carries out. Reads files, changes nothing."""

import argparse
import grp
import hashlib
import os
import pwd
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datamodel.client import ClientConfig, Source, Tier
from datamodel.errors import UserError
from datamodel.names import DAEMON_UID
from datamodel.quantity import parse_bytes
from fusemount.local import MountPlan
from fusemount.localstate import mountpoint_of, state_of
from fusemount.privileges import can_run_as
from headrace import options
from headrace.manifest import Manifest, read_manifest
from headrace.sources import LOCAL_SCHEMES, local_path, parse_sources

DEFAULT_CACHE_SIZE = "20GiB"
DEFAULT_FILE_MODE, DEFAULT_FOLDER_MODE = "0444", "0555"


@dataclass(frozen=True, slots=True)
class Served:
    """What is mounted, from words or from a manifest."""

    dataset: str
    sources: tuple[Source, ...]
    manifest: Manifest | None = None


def plan_of(arguments: argparse.Namespace, environment: Mapping[str, str]) -> MountPlan:
    """What *arguments* ask for.

    Raises:
        UserError: an argument, a manifest or an option file is wrong; names it, its value and the cure.
    """
    mountpoint = mountpoint_of(arguments.mountpoint)
    state = state_of(mountpoint)
    served = _served(arguments)
    given = [
        *options.from_environment(environment),
        *options.from_words(arguments.option),
        *options.from_files(arguments.option_file),
    ]
    sources, values = options.applied(served.sources, given, state / "options")
    sources, more = options.applied(sources, options.from_vendors(sources, environment), state / "options")
    if served.manifest is not None:
        _check_secrets(served.manifest, sources)
    is_root = os.geteuid() == 0
    tiers, memory_bytes = _tiers(arguments, served)
    for path in (mountpoint, *(Path(tier.path).resolve() for tier in tiers)):
        _check_outside(path, sources)
    uid, gid = _owner(arguments.owner, served.manifest)
    config = ClientConfig(
        dataset=served.dataset,
        sources=sources,
        tiers=tiers,
        listing_ttl_s=_positive("--ttl", arguments.ttl),
        processes=_processes(arguments.processes) if is_root else 1,
        owner_uid=uid,
        owner_gid=gid,
        file_mode=_mode("--file-mode", arguments.file_mode),
        folder_mode=_mode("--folder-mode", arguments.folder_mode),
        profile=arguments.profile,
        crawl=not arguments.no_crawl,
    )
    return MountPlan(
        config=config,
        mountpoint=mountpoint,
        uid=_user(arguments.user, sources) if is_root else os.geteuid(),
        allow_other=arguments.allow_other,
        log_level=arguments.log_level,
        log_file=str(_log_file(arguments, mountpoint)) if arguments.background or arguments.log_file else "",
        memory_bytes=memory_bytes,
        option_values=values | more,
    )


def _served(arguments: argparse.Namespace) -> Served:
    if not arguments.file:
        if arguments.dataset:
            raise UserError("--dataset: chooses one of the Datasets of -f FILE, which is missing")
        return Served(f"local/{Path(arguments.mountpoint).name}", parse_sources(arguments.source))
    if arguments.source:
        raise UserError(f"SOURCE: {arguments.source[0]!r} beside -f {arguments.file}; give one of them")
    manifest = read_manifest(arguments.file, arguments.dataset or "")
    return Served(f"{manifest.namespace}/{manifest.name}", manifest.sources, manifest)


def _check_secrets(manifest: Manifest, sources: tuple[Source, ...]) -> None:
    """Values that a cluster keeps in Secrets have to come from files here."""
    known = {(source.name, key) for source in sources for key in (*source.options, *source.option_files)}
    for name, key in manifest.missing:
        if (name, key) not in known:
            raise UserError(
                f"Dataset {manifest.name!r}: encryptOptions {key!r} of source {name!r} is kept in a Secret, which "
                f"cannot be read here; give --option-file {name}:{key}=FILE or {options.variable(key)}"
            )


def _tiers(arguments: argparse.Namespace, served: Served) -> tuple[tuple[Tier, ...], int]:
    """Tiers on disk, and bytes of memory in front of them. The command line wins over a manifest."""
    manifest = served.manifest
    default = Path(arguments.cache_dir).absolute() if arguments.cache_dir else _default_folder(served)
    memory_bytes = parse_bytes("--memory-size", arguments.memory_size) if arguments.memory_size else 0
    if manifest and not arguments.memory_size:
        memory_bytes = manifest.memory_bytes
    if manifest and manifest.tiers and not (arguments.cache_dir or arguments.cache_size):
        tiers = tuple(
            Tier(
                path=tier.folder or str(default / f"tier-{index}"),
                quota_bytes=tier.quota_bytes,
                high=tier.high,
                low=tier.low,
            )
            for index, tier in enumerate(manifest.tiers)
        )
        return tiers, memory_bytes
    quota = parse_bytes("--cache-size", arguments.cache_size or DEFAULT_CACHE_SIZE)
    if quota <= 0:
        raise UserError(f"--cache-size: {arguments.cache_size!r} leaves no room; give e.g. {DEFAULT_CACHE_SIZE}")
    return (Tier(path=str(default), quota_bytes=quota),), memory_bytes


def _default_folder(served: Served) -> Path:
    is_root = os.geteuid() == 0
    home = Path("/var/cache") if is_root else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    named = repr([(source.path, source.url) for source in served.sources])
    return home / "headrace" / hashlib.blake2b(named.encode(), digest_size=6).hexdigest()


def _check_outside(path: Path, sources: tuple[Source, ...]) -> None:
    """A mount or a cache inside a source would be listed as part of it, and wait for itself.

    *path* has no links in it, and is not looked at: it may be a mount that hangs.
    """
    for source in sources:
        folder = local_path(source)
        if folder is not None and path.is_relative_to(folder.resolve()):
            raise UserError(f"{str(path)!r}: is inside the source {str(folder)!r}; choose a folder outside of it")


def _processes(count: int) -> int:
    if count < 1:
        raise UserError(f"--processes: {count} is not a positive number")
    return count


def _positive(field: str, value: float) -> float:
    if not value >= 0:
        raise UserError(f"{field}: {value:g} is not a number of seconds; give 0 or more")
    return value


def _mode(field: str, text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise UserError(f"{field}: {text!r} is not a mode; write octal permission bits such as 0440")
    return mode


def _owner(text: str | None, manifest: Manifest | None) -> tuple[int, int]:
    if text is None:
        return manifest.owner if manifest and manifest.owner else (0, 0)
    user, _, group = text.partition(":")
    uid, own_group = _passwd("--owner", user)
    if not group:
        return uid, own_group
    if group.isdigit():
        return uid, int(group)
    try:
        return uid, grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise UserError(f"--owner: group {group!r} does not exist") from error


def _passwd(field: str, name: str) -> tuple[int, int]:
    """User and group ids of *name*, or of the number it is."""
    if name.isdigit():
        return int(name), int(name)
    try:
        entry = pwd.getpwnam(name)
    except KeyError as error:
        raise UserError(f"{field}: {name!r} does not exist") from error
    return entry.pw_uid, entry.pw_gid


def _user(name: str | None, sources: tuple[Source, ...]) -> int:
    if name:
        chosen = _passwd("--user", name)[0]
        if not can_run_as(chosen):
            raise UserError(f"--user: {name!r} may not run {sys.executable}; install headrace where everybody can read")
        return chosen
    if any(source.url.partition("://")[0] in LOCAL_SCHEMES for source in sources):
        return 0
    uid = int(os.environ.get("SUDO_UID", DAEMON_UID))
    return uid if can_run_as(uid) else 0  # a Python below /root; the daemon drops its capabilities in any case


def _log_file(arguments: argparse.Namespace, mountpoint: Path) -> Path:
    if arguments.log_file:
        return Path(arguments.log_file).absolute()
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    folder = Path("/var/log/headrace") if os.geteuid() == 0 else Path(home, "headrace")
    return folder / (str(mountpoint).strip("/").replace("/", "-") + ".log")
