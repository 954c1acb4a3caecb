"""Options of sources, as `headrace mount` takes them: words, files and the environment. Secrets never in words.

A value from a file or from the environment is written to a file that only the daemons may read, and the source is told
the file's name (`Source.option_files`); so it is in no process list, no log and no status. Variables of the vendors'
own tools (AWS_SECRET_ACCESS_KEY and the like) count where nothing else gives the option.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from datamodel.client import Source
from datamodel.errors import UserError
from ufs.registry import SECRET_OPTIONS, describe_options, options_from_environment

ENVIRONMENT_PREFIX = "HEADRACE_OPTION_"
_WORD = re.compile(r"(?:([A-Za-z0-9][A-Za-z0-9._-]*):)?([A-Za-z0-9][A-Za-z0-9_.-]*)=(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Option:
    """*key* of the source *source*, or of every source that takes it where that is empty. *origin* is for errors."""

    origin: str
    source: str
    key: str
    value: str = field(repr=False)
    is_hidden: bool = True
    """Whether the source gets it in a file."""

    @property
    def is_secret(self) -> bool:
        return self.key.lower().replace("_", "-") in SECRET_OPTIONS


def from_words(words: Sequence[str]) -> list[Option]:
    """`[NAME:]KEY=VALUE` of --option.

    Raises:
        UserError: another form, or a secret.
    """
    found = [_parse("--option", word) for word in words]
    for option in found:
        if option.is_secret:
            raise UserError(
                f"--option {option.key}: a secret does not belong on the command line, where every process can see it; "
                f"write it to a file and give --option-file {option.key}=FILE, or set {variable(option.key)}"
            )
    return found


def from_files(words: Sequence[str]) -> list[Option]:
    """`[NAME:]KEY=FILE` of --option-file, with the files' content; newlines at its end are not part of it.

    Raises:
        UserError: another form, or a file that cannot be read.
    """
    return [_read(_parse("--option-file", word)) for word in words]


def from_environment(environment: Mapping[str, str]) -> list[Option]:
    """`HEADRACE_OPTION_<KEY>`: upper case, with `_` for `-`."""
    found = []
    for name, value in environment.items():
        if name.startswith(ENVIRONMENT_PREFIX):
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("_", "-")
            found.append(Option(name, "", key, value))
    return found


def variable(key: str) -> str:
    """The environment variable for *key*."""
    return ENVIRONMENT_PREFIX + key.upper().replace("-", "_")


def from_vendors(sources: Sequence[Source], environment: Mapping[str, str]) -> list[Option]:
    """What the variables of vendors' tools say of those *sources* that are not to be read anonymously."""
    return [
        Option("the environment", source.name, key, value, is_hidden=key in SECRET_OPTIONS)
        for source in sources
        if source.options.get("anonymous") != "true"
        for key, value in options_from_environment(source.url, environment).items()
        if key not in source.options and key not in source.option_files
    ]


def applied(
    sources: Sequence[Source], given: Sequence[Option], folder: Path
) -> tuple[tuple[Source, ...], dict[str, str]]:
    """*sources* with their options, and the files below *folder* that must be there: path to value.

    Of two values for one option, that for a named source wins, then the later one.

    Raises:
        UserError: an option is for a source that is not there.
    """
    options = {source.name: dict(source.options) for source in sources}
    files = {source.name: dict(source.option_files) for source in sources}
    values: dict[str, str] = {}
    for option in sorted(given, key=_is_named):
        for source in _targets(option, sources):
            options[source.name].pop(option.key, None)
            files[source.name].pop(option.key, None)
            if option.is_hidden:
                path = str(folder / f"{source.name}-{option.key}")
                files[source.name][option.key] = path
                values[path] = option.value
            else:
                options[source.name][option.key] = option.value
    done = tuple(
        msgspec.structs.replace(source, options=options[source.name], option_files=files[source.name])
        for source in sources
    )
    return done, values


def _is_named(option: Option) -> bool:
    return bool(option.source)


def _targets(option: Option, sources: Sequence[Source]) -> Sequence[Source]:
    """The sources that *option* is for. Whether a source takes it is checked when it is opened."""
    if option.source:
        named = [source for source in sources if source.name == option.source]
        if not named:
            known = ", ".join(source.name for source in sources)
            raise UserError(f"{option.origin} {option.source}:{option.key}: no source has that name; there is {known}")
        return named
    described = describe_options()
    takers = [source for source in sources if option.key in described.get(_scheme(source), {})]
    if takers:
        return takers
    if option.origin.startswith(ENVIRONMENT_PREFIX) and any(option.key in keys for keys in described.values()):
        return ()  # what a user keeps in the environment for other mounts is no mistake in this one
    return sources  # an alias, or unknown: who opens the source knows, and says what there is


def _scheme(source: Source) -> str:
    return source.url.partition("://")[0].lower()


def _parse(field_name: str, word: str) -> Option:
    match = _WORD.fullmatch(word)
    if match is None:
        shown = word.partition("=")[0]
        value = "FILE" if field_name == "--option-file" else "VALUE"
        raise UserError(f"{field_name}: {shown!r} is not of the form [NAME:]KEY={value}")
    return Option(field_name, match[1] or "", match[2], match[3], is_hidden=field_name != "--option")


def _read(option: Option) -> Option:
    try:
        value = Path(option.value).read_text().rstrip("\r\n")
    except OSError as error:
        raise UserError(f"--option-file {option.key}: {option.value!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--option-file {option.key}: {option.value!r} is not text") from error
    return Option(option.origin, option.source, option.key, value)
