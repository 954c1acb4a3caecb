"""Checks of single request fields. Pure; each raises UserError with field, value and cure, and never shows a secret."""

import re
from collections.abc import Iterable, Mapping

from datamodel.errors import UserError

STRING_BYTES = 128
MAP_BYTES = 4096
PATH_BYTES = 4095
NAME_BYTES = 255

ALLOWED_FLAGS = frozenset({"ro", "nosuid", "nodev", "noexec", "noatime"})
"""Mount flags that binds honour: nosuid and nodev always hold, and FUSE never writes access times."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SECRET_KEY = re.compile(r"[A-Za-z0-9._-]+")
_SHOWN = 80


def show(value: str) -> str:
    """*value* for a message: escaped, and cut where it is long."""
    return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "…")


def check_string(field: str, value: str, limit: int = STRING_BYTES) -> str:
    """Refuse control characters, and more than *limit* bytes of UTF-8."""
    if _CONTROL.search(value):
        raise UserError(f"{field}: {show(value)} holds a control character")
    if len(value.encode()) > limit:
        raise UserError(f"{field}: {show(value)} is longer than {limit} bytes")
    return value


def check_path(field: str, value: str) -> str:
    """Accept only an absolute path in its shortest spelling, so that two names of one folder cannot differ."""
    check_string(field, value, PATH_BYTES)
    parts = value.split("/")[1:]
    if not value.startswith("/") or not all(parts) or {".", ".."} & set(parts):
        raise UserError(f"{field}: {show(value)} must be absolute, without '.', '..', '//' or a slash at the end")
    if any(len(part.encode()) > NAME_BYTES for part in parts):
        raise UserError(f"{field}: {show(value)} has a component of more than {NAME_BYTES} bytes")
    return value


def check_beneath(field: str, path: str, roots: Iterable[str]) -> str:
    """Accept *path* only strictly beneath one of *roots*."""
    if not any(path.startswith(root.rstrip("/") + "/") for root in roots):
        raise UserError(f"{field}: {show(path)} is outside the trusted folders {', '.join(roots)}")
    return path


def check_sub_path(field: str, value: str) -> str:
    """Accept a relative path that stays inside, or nothing."""
    if not value:
        return value
    check_string(field, value, PATH_BYTES)
    parts = value.split("/")
    if not all(parts) or {".", ".."} & set(parts):
        raise UserError(f"{field}: {show(value)} must be relative, without '.', '..' or '//'")
    return value


def check_map(field: str, values: Mapping[str, str]) -> Mapping[str, str]:
    """Refuse more than 4 KiB of keys and values together."""
    size = sum(len(key.encode()) + len(value.encode()) for key, value in values.items())
    if size > MAP_BYTES:
        raise UserError(f"{field}: {size} bytes of keys and values; at most {MAP_BYTES} are allowed")
    return values


def check_secrets(values: Mapping[str, str]) -> Mapping[str, str]:
    """Refuse too many, and keys of another form than CSI's; values are never shown."""
    check_map("secrets", values)
    if not all(_SECRET_KEY.fullmatch(key) for key in values):
        raise UserError("secrets: a key holds other characters than letters, digits, '-', '_' and '.'")
    return values


def check_flags(flags: Iterable[str]) -> tuple[str, ...]:
    """The mount flags, sorted and without repetition.

    What stands behind a '=' may be a password, so it is not shown.
    """
    unique = sorted(set(flags))
    for flag in unique:
        if flag not in ALLOWED_FLAGS:
            raise UserError(
                f"mount_flags: {show(flag.partition('=')[0])} is not allowed; use {', '.join(sorted(ALLOWED_FLAGS))}"
            )
    return tuple(unique)
