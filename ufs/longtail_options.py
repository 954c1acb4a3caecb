"""From the URL and the options of a long-tail source to its file system: a class of fsspec and its arguments."""

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from datamodel.errors import UserError
from ufs.longtail import LongTailFileSystem
from ufs.options import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, flag, readable_file, seconds

Arguments = dict[str, Any]
Options = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Kind:
    """How to make one scheme's file system."""

    module: str
    class_name: str
    arguments: Callable[[SplitResult, Options], Arguments]
    package: str = ""
    """What must be installed besides fsspec, and is the extra of the same name as the scheme."""
    has_plain_paths: bool = True
    """The class's own cleaning of paths takes '#', '?' and ':' for parts of a URL; ours leaves them alone."""
    has_ranges: bool = True


def open_longtail(url: str, options: Options) -> LongTailFileSystem:
    """The source at *url*, of one of `SCHEMES`; *options* are those of its table in `ufs.options`.

    Raises:
        UserError: a package is missing, or the address or an option cannot be used.
    """
    scheme = url.partition(":")[0].lower()
    kind = SCHEMES[scheme]
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port  # the property checks it
    except ValueError as error:
        raise UserError(f"source url: cannot be read as an address; write {scheme}://HOST[:PORT]/PATH") from error
    if not host:
        raise UserError(f"source url: names no host; write {scheme}://HOST[:PORT]/PATH")
    made = _class_of(scheme, kind)
    arguments = {**kind.arguments(parts, options), "skip_instance_cache": True, "use_listings_cache": False}
    root, address = _places(scheme, parts)
    return LongTailFileSystem(functools.partial(made, **arguments), root, address, has_ranges=kind.has_ranges)


def _places(scheme: str, parts: SplitResult) -> tuple[str, str]:
    """Where the source's root is for the backend, and how to show it."""
    if scheme == "hf":
        return f"{parts.netloc}{parts.path}", f"hf://{parts.netloc}{parts.path}"
    if scheme == "github":
        return parts.path.strip("/"), f"github://{parts.netloc}{parts.path}"
    return unquote(parts.path) or "/", f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _class_of(scheme: str, kind: _Kind) -> Callable[..., Any]:
    if kind.package:
        try:
            importlib.import_module(kind.package)
        except ImportError as error:
            name = kind.package.replace("_", "-")
            raise UserError(f"{scheme}:// needs the package {name}: pip install 'headrace[{scheme}]'") from error
    found = getattr(importlib.import_module(kind.module), kind.class_name)
    if not kind.has_plain_paths:
        return found  # type: ignore[no-any-return]  # fsspec has no types
    return type(kind.class_name, (found,), {"_strip_protocol": classmethod(_plain_path)})


def _plain_path(cls: type, path: str) -> str:
    return "/" + path.strip("/")


def _user(parts: SplitResult, options: Options) -> tuple[str, str]:
    """User and password; options win over those in the URL."""
    return (
        options.get("username") or unquote(parts.username or ""),
        options.get("password") or unquote(parts.password or ""),
    )


def _ftp(parts: SplitResult, options: Options) -> Arguments:
    user, password = _user(parts, options)
    return {
        "host": parts.hostname,
        "port": parts.port or 21,
        "username": user,
        "password": password,
        "timeout": seconds(options, "read-timeout", READ_TIMEOUT_S),
        "encoding": options.get("encoding") or "utf-8",
        "tls": flag(options, "tls", False),
    }


def _sftp(parts: SplitResult, options: Options) -> Arguments:
    user, password = _user(parts, options)
    connect_timeout_s = seconds(options, "connect-timeout", CONNECT_TIMEOUT_S)
    return {
        "host": parts.hostname,
        "port": parts.port or 22,
        "username": user or None,
        "password": password or None,
        "key_filename": readable_file(options, "key-file"),
        "passphrase": options.get("passphrase") or None,
        "known_hosts_file": readable_file(options, "known-hosts-file"),
        "has_any_host_key": flag(options, "any-host-key", False),
        "read_timeout_s": seconds(options, "read-timeout", READ_TIMEOUT_S),
        "timeout": connect_timeout_s,
        "banner_timeout": connect_timeout_s,
        "auth_timeout": connect_timeout_s,
    }


def _webhdfs(parts: SplitResult, options: Options) -> Arguments:
    user, _ = _user(parts, options)
    return {
        "host": parts.hostname,
        "port": parts.port or 9870,
        "user": user or None,
        "token": options.get("token") or None,
        "kerberos": flag(options, "kerberos", False),
        "use_https": flag(options, "tls", False),
    }


def _hdfs(parts: SplitResult, options: Options) -> Arguments:
    user, _ = _user(parts, options)
    return {
        "host": parts.hostname,
        "port": parts.port or 8020,
        "user": user or None,
        "kerb_ticket": readable_file(options, "kerberos-ticket"),
    }


def _smb(parts: SplitResult, options: Options) -> Arguments:
    user, password = _user(parts, options)
    return {"host": parts.hostname, "port": parts.port, "username": user or None, "password": password or None}


def _hf(parts: SplitResult, options: Options) -> Arguments:
    return {"token": options.get("token") or False, "endpoint": options.get("endpoint") or None}


def _github(parts: SplitResult, options: Options) -> Arguments:
    place, _, commit = parts.netloc.partition("@")
    owner, colon, repository = place.partition(":")
    if not (owner and colon and repository):
        raise UserError("source url: write github://OWNER:REPOSITORY[@COMMIT]/PATH")
    user, token = options.get("username", ""), options.get("token", "")
    if bool(user) != bool(token):
        raise UserError("options 'username' and 'token': are given together or not at all")
    return {"org": owner, "repo": repository, "sha": commit or None, "username": user or None, "token": token or None}


SCHEMES: Mapping[str, _Kind] = {
    "ftp": _Kind("ufs.longtail_ftp", "RangedFTPFileSystem", _ftp),
    "sftp": _Kind("ufs.longtail_sftp", "CheckedSFTPFileSystem", _sftp, "paramiko"),
    "webhdfs": _Kind("fsspec.implementations.webhdfs", "WebHDFS", _webhdfs, "requests"),
    "hdfs": _Kind("fsspec.implementations.arrow", "HadoopFileSystem", _hdfs, "pyarrow"),
    "smb": _Kind("fsspec.implementations.smb", "SMBFileSystem", _smb, "smbprotocol"),
    "hf": _Kind("huggingface_hub", "HfFileSystem", _hf, "huggingface_hub", has_plain_paths=False),
    "github": _Kind(
        "fsspec.implementations.github",
        "GithubFileSystem",
        _github,
        "requests",
        has_plain_paths=False,
        has_ranges=False,
    ),
}
