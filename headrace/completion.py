"""Shell completion out of the parsers, by shtab; here it learns which words are folders and which are files."""

import argparse

_FOLDER_METAVARS = ("DIR", "MOUNTPOINT", "SOURCE")
_FILE_METAVARS = ("FILE", "PATH", "MOUNTPOINT[/PATH]")


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The completion script of *shell* (bash, zsh or fish) for *parser*; ends with a newline."""
    import shtab

    _tell_kinds(parser)
    return str(shtab.complete(parser, shell)).rstrip() + "\n"


def _tell_kinds(parser: argparse.ArgumentParser) -> None:
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _tell_kinds(inner)
        elif action.metavar in _FOLDER_METAVARS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]  # where shtab looks for it
        elif action.metavar in _FILE_METAVARS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # the same
