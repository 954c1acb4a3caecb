"""The file that tells a fuse client or a worker what to serve: `client.json`, one ConfigMap key or one local file.

Written by the controller, `headrace mount` and `headrace csi --standalone`; read once at start. Values only.
"""

import json
from typing import Literal

import msgspec

from datamodel.errors import UserError

MIB = 1 << 20
SOURCE_SCHEMES = (
    *("http", "https", "local", "file", "s3", "gs", "az"),
    *("ftp", "sftp", "webhdfs", "hdfs", "smb", "hf", "github"),
)
"""Under file systems that can be read; `local` and `file` are a folder of the node."""


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One under file system, shown at *path* of the dataset."""

    name: str
    """Shown in status and metrics; unique in the dataset."""
    url: str
    """Of one of `SOURCE_SCHEMES`, without secrets."""
    path: str
    """Absolute path inside the dataset: `/<name>`, or `/` for the only source."""
    options: dict[str, str] = {}
    option_files: dict[str, str] = {}
    """Options whose values are kept out of here, secrets above all: option to the file that holds its value."""


class Workers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The workers that hold this dataset's blocks; none when *replicas* is 0."""

    replicas: int = 0
    host_pattern: str = ""
    """Host name of worker i, with `{i}` for its ordinal, e.g. `demo-worker-{i}.demo-worker.default.svc`."""
    port: int = 0


class Tier(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One storage medium of the cache. *high* and *low* are watermarks, fractions of *quota_bytes*."""

    path: str
    quota_bytes: int
    high: float = 0.95
    low: float = 0.7


class ClientConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that a client or worker process needs to know about its dataset."""

    dataset: str
    """`<namespace>/<name>`, for logs and metrics."""
    sources: tuple[Source, ...]
    tiers: tuple[Tier, ...]
    """Nearest first."""
    workers: Workers = Workers()
    token_file: str = ""
    """File with the runtime's token; empty when neither broker nor workers ask for one."""
    block_bytes: int = MIB
    listing_ttl_s: float = 300.0
    """How long a directory listing is believed before the source is asked again."""
    attribute_ttl_s: float = 300.0
    """How long the kernel may keep names and attributes of complete files and directories."""
    owner_uid: int = 0
    owner_gid: int = 0
    file_mode: int = 0o444
    """Permission bits of files; a file that the source calls executable shows x wherever this shows r."""
    folder_mode: int = 0o555
    processes: int = 2
    """Daemon processes on one mount."""
    profile: Literal["auto", "large-files", "small-files"] = "auto"
    """What the mount is tuned for: `large-files` reads complete files by passthrough, `small-files` opens and reads
    them without a message to the daemon; `auto` looks at the sizes known when the mount is made."""
    crawl: bool = True
    """List the whole dataset in the background, so that totals are true and names are there before they are asked."""

    @property
    def catalog_folder(self) -> str:
        """Where the catalog lives: with the last tier, which lasts longest. Memory forgets."""
        return self.tiers[-1].path


def decode_client_config(text: bytes | str, field: str = "client.json") -> ClientConfig:
    """Parse and check *text*.

    Raises:
        UserError: not JSON, an unknown field, a wrong type, two sources at one path, or no tier.
    """
    try:
        config = msgspec.json.decode(text, type=ClientConfig)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{field}: {error}") from error
    check_sources(config.sources)
    if not config.tiers:
        raise UserError(f"{field}: tiers: at least one is needed, e.g. a folder with a quota")
    return config


def encode_client_config(config: ClientConfig) -> str:
    """JSON of *config*, stable and readable, for a ConfigMap or a file."""
    return json.dumps(msgspec.to_builtins(config), indent=2, sort_keys=True) + "\n"


def check_sources(sources: tuple[Source, ...]) -> None:
    """Refuse paths that collide, that leave the dataset, or that hide each other.

    Raises:
        UserError: names the source and the cure.
    """
    seen: dict[str, str] = {}
    for source in sources:
        parts = source.path.split("/")[1:]
        if not source.path.startswith("/") or ".." in parts or "." in parts:
            raise UserError(f"source {source.name!r}: path {source.path!r} must be absolute and without '.' or '..'")
        if source.path in seen:
            raise UserError(f"sources {seen[source.path]!r} and {source.name!r}: both at path {source.path!r}")
        seen[source.path] = source.name
    if "/" in seen and len(seen) > 1:
        raise UserError(f"source {seen['/']!r}: path '/' leaves no room for the others; give it a name")
    if any("/" in path.strip("/") for path in seen):
        raise UserError(f"sources: paths of more than one level are not supported yet: {sorted(seen)}")
