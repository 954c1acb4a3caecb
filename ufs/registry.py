"""From a dataset's source to the file system that reads it. The only place that knows every scheme and option.

What a scheme needs is imported when its first source is opened: most processes use one, and some packages are large.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from datamodel.client import Source
from datamodel.errors import UserError
from ufs import options as tables
from ufs.base import UnderFileSystem
from ufs.options import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, Option, canonical, readable_file, seconds

_WITHOUT_QUERIES = ("s3", "gs", "az", "local", "file")  # a '?' is a letter of the name like any other


def open_source(source: Source) -> UnderFileSystem:
    """The file system of *source*. Does not ask the source anything yet, but reads its `option_files`.

    Raises:
        UserError: unknown scheme or option, a value of the wrong form, or a file that cannot be read; names the field
            and what to do.
    """
    field = f"source {source.name!r}"
    name = _scheme_of(source.url)
    scheme = _SCHEMES.get(name)
    if scheme is None:
        raise UserError(f"{field}: url scheme {name!r} is not supported; use one of {', '.join(sorted(_SCHEMES))}")
    try:
        both = source.options.keys() & source.option_files.keys()
        if both:
            raise UserError(f"option {min(both)!r}: given as a value and as a file; leave one out")
        given = source.options | {option: _content(option, path) for option, path in source.option_files.items()}
        return scheme.open(source.url, canonical(name, given, scheme.options))
    except UserError as error:
        raise UserError(f"{field}: {error}") from error


def describe_options() -> Mapping[str, Mapping[str, str]]:
    """Scheme to option to its meaning, unit and default."""
    return {
        name: {option: row.doc for option, row in scheme.options.items()} for name, scheme in sorted(_SCHEMES.items())
    }


def options_from_environment(url: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Options of a source at *url* that stand in the variables of its vendor's own tools, such as AWS_REGION.

    For a command that a person runs; the values may be secrets.
    """
    scheme = _SCHEMES.get(_scheme_of(url))
    found = {}
    for name, option in scheme.options.items() if scheme else ():
        values = [environment[variable] for variable in option.environment if environment.get(variable)]
        if values:
            found[name] = values[0]
    return found


def show_source_url(url: str) -> str:
    """*url* as it may stand in status and logs: without user, password and query."""
    head, separator, rest = url.partition("://")
    if not separator or head.lower() in ("local", "file"):
        return url
    if head.lower() not in _WITHOUT_QUERIES:
        rest = rest.partition("?")[0].partition("#")[0]
    place, slash, path = rest.partition("/")
    if head.lower() != "github":  # there the '@' precedes a commit
        place = place.rpartition("@")[2]
    return f"{head}://{place}{slash}{path}"


def _scheme_of(url: str) -> str:
    return url.partition(":")[0].lower() if "://" in url else ""


def _content(option: str, path: str) -> str:
    try:
        return Path(path).read_text().rstrip("\r\n")
    except OSError as error:
        raise UserError(f"option {option!r}: its file {path!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"option {option!r}: its file {path!r} is not text") from error


# ---- one opener per kind of source ---------------------------------------------------------------------------------


def _open_http(url: str, options: Mapping[str, str]) -> UnderFileSystem:
    from ufs.http import HttpFileSystem, HttpSettings
    from ufs.http_socket import Limits

    for name in ("username", "password", "bearer-token"):
        if not options.get(name, "").isprintable():
            raise UserError(f"option {name!r}: has a control character, perhaps a newline at its end")
    if not options.get("bearer-token", "").isascii():
        raise UserError("option 'bearer-token': has characters that are not ASCII")
    settings = HttpSettings(
        username=options.get("username", ""),
        password=options.get("password", ""),
        bearer_token=options.get("bearer-token", ""),
        ca_file=readable_file(options, "ca-file"),
        limits=Limits(
            connect_timeout_s=seconds(options, "connect-timeout", CONNECT_TIMEOUT_S),
            read_timeout_s=seconds(options, "read-timeout", READ_TIMEOUT_S),
        ),
    )
    return HttpFileSystem(url, settings)


def _open_local(url: str, options: Mapping[str, str]) -> UnderFileSystem:
    from ufs.local import LocalFileSystem

    # As in Fluid, what follows local:// is the path itself; nothing is unescaped.
    return LocalFileSystem(url.partition("://")[2])


def _open_file(url: str, options: Mapping[str, str]) -> UnderFileSystem:
    from ufs.local import LocalFileSystem

    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise UserError(f"source url: {url!r} names host {parts.netloc!r}; write file:///PATH")
    return LocalFileSystem(unquote(parts.path, "utf-8", "surrogateescape"))


def _open_s3(url: str, options: Mapping[str, str]) -> UnderFileSystem:
    from ufs.s3_options import open_s3

    return open_s3(url, options)


def _open_gs(url: str, options: Mapping[str, str]) -> UnderFileSystem:
    from ufs.cloud import open_gs

    return open_gs(url, options)


def _open_az(url: str, options: Mapping[str, str]) -> UnderFileSystem:
    from ufs.cloud import open_az

    return open_az(url, options)


def _open_longtail(url: str, options: Mapping[str, str]) -> UnderFileSystem:
    from ufs.longtail_options import open_longtail

    return open_longtail(url, options)


@dataclass(frozen=True, slots=True)
class _Scheme:
    open: Callable[[str, Mapping[str, str]], UnderFileSystem]
    options: Mapping[str, Option]


_SCHEMES: Mapping[str, _Scheme] = {
    "http": _Scheme(_open_http, tables.HTTP),
    "https": _Scheme(_open_http, tables.HTTP),
    "local": _Scheme(_open_local, {}),
    "file": _Scheme(_open_file, {}),
    "s3": _Scheme(_open_s3, tables.S3),
    "gs": _Scheme(_open_gs, tables.GS),
    "az": _Scheme(_open_az, tables.AZ),
    "ftp": _Scheme(_open_longtail, tables.FTP),
    "sftp": _Scheme(_open_longtail, tables.SFTP),
    "webhdfs": _Scheme(_open_longtail, tables.WEBHDFS),
    "hdfs": _Scheme(_open_longtail, tables.HDFS),
    "smb": _Scheme(_open_longtail, tables.SMB),
    "hf": _Scheme(_open_longtail, tables.HUGGING_FACE),
    "github": _Scheme(_open_longtail, tables.GITHUB),
}

SECRET_OPTIONS: frozenset[str] = frozenset(
    name
    for scheme in _SCHEMES.values()
    for option, row in scheme.options.items()
    if row.is_secret
    for name in (option, *row.aliases)
)
"""Options that must not stand on a command line, under all their names."""
