"""Entry point of `headrace` and `kubectl headrace`.

Exit codes: 0 done; 1 failed for a reason outside (source down, mount busy, files not loaded); 2 wrong usage or
manifest; 130 interrupted before it was done.
"""

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence

from datamodel.errors import HeadraceError
from headrace import __version__

EXIT_INTERRUPTED = 130
COMMANDS = {
    "mount": "serve remote data as a folder on this machine",
    "load": "read files into the cache ahead of their use",
    "status": "show what a mount serves and holds, or list the mounts",
    "refresh": "ask the sources now what has changed",
    "umount": "end a mount made by `headrace mount`",
    "completion": "print completion for a shell",
    "demo": "show the whole path on this machine, without a cluster",
    "csi": "run the CSI node plugin (DaemonSet csi-nodeplugin-fluid)",
    "broker": "run the mount broker, the one privileged process of a node",
    "fuse": "serve one dataset's FUSE mount (fuse pods)",
    "worker": "serve cached blocks to fuse clients (worker pods)",
    "controller": "run the controller",
}
_EPILOG = """examples:
  headrace mount --background http://mirror.example/data/ /mnt/data
  headrace load /mnt/data/train
  headrace status /mnt/data
  headrace umount /mnt/data

`headrace COMMAND --help` shows what a command takes, with examples.
exit codes: 0 done, 1 failed for a reason outside, 2 wrong usage, 130 interrupted
"""


def full_parser() -> argparse.ArgumentParser:
    """The parser with the arguments of every command: for shell completion and for checks of the documentation."""
    parser, subparsers = _top_parser()
    for name in COMMANDS:
        _add_arguments(subparsers.choices[name], name)
    return parser


def command_parser(name: str) -> argparse.ArgumentParser:
    """The parser of one command alone: the others' modules are not even imported."""
    module = importlib.import_module(f"headrace.commands.{name}")
    parser = argparse.ArgumentParser(
        prog=f"headrace {name}",
        description=module.SUMMARY,
        epilog=module.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_arguments(parser, name)
    return parser


def _top_parser() -> "tuple[argparse.ArgumentParser, argparse._SubParsersAction[argparse.ArgumentParser]]":
    parser = argparse.ArgumentParser(
        prog="headrace",
        description="A dataset cache: the first read at the speed of the source, later ones at that of a local file.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"headrace {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        subparsers.add_parser(name, help=summary)
    return parser, subparsers


def _add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    module = importlib.import_module(f"headrace.commands.{name}")
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"], help="default: %(default)s"
    )
    module.add_arguments(parser)
    parser.set_defaults(run=module.run, command=name)


def _parsed(words: list[str]) -> argparse.Namespace:
    if not words or words[0] not in COMMANDS:
        return _top_parser()[0].parse_args(words)
    # Options may stand between the positional words: `mount SOURCE --background MOUNTPOINT`.
    return command_parser(words[0]).parse_intermixed_args(words[1:])


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parsed(list(sys.argv[1:] if argv is None else argv))
    from obs import logs

    logs.configure(arguments.log_level)
    try:
        return int(arguments.run(arguments))
    except HeadraceError as error:
        return _blame(arguments.command, error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BaseExceptionGroup as group:  # how trio's nurseries hand on what a task raised
        expected, unexpected = group.split(HeadraceError)
        if expected is None or unexpected is not None:
            raise
        return max(_blame(arguments.command, error) for error in _leaves(expected))


def _blame(command: str, error: HeadraceError) -> int:
    print(f"headrace {command}: {error}", file=sys.stderr)
    return error.exit_code


def _leaves(group: BaseExceptionGroup[HeadraceError]) -> Iterator[HeadraceError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


if __name__ == "__main__":
    sys.exit(main())
