"""Entry point of `headrace` and `kubectl headrace`.

Exit codes: 0 done; 1 failed for a reason outside (source down, mount busy); 2 wrong usage or manifest; 130 interrupted.
"""

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence

from datamodel.errors import HeadraceError
from headrace import __version__

COMMANDS = {
    "mount": "serve remote data as a folder on this machine",
    "umount": "end a mount made by `headrace mount`",
    "status": "show what a mount serves and holds",
    "csi": "run the CSI node plugin (DaemonSet csi-nodeplugin-fluid)",
    "broker": "run the mount broker, the one privileged process of a node",
    "fuse": "serve one dataset's FUSE mount (fuse pods)",
    "worker": "serve cached blocks to fuse clients (worker pods)",
    "controller": "run the controller",
    "demo": "show the whole path on this machine, without a cluster",
}


def parser_of(command: str | None) -> argparse.ArgumentParser:
    """The parser, with the arguments of *command* only: the others' modules are not even imported."""
    parser = argparse.ArgumentParser(
        prog="headrace",
        description="A dataset cache: the first read at the speed of the source, later ones at that of a local file.",
        epilog="Try: headrace mount http://mirror.example/data/ /mnt/data      More: headrace COMMAND --help",
    )
    parser.add_argument("--version", action="version", version=f"headrace {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        if name != command:
            subparsers.add_parser(name, help=summary)
            continue
        module = importlib.import_module(f"headrace.commands.{name}")
        subparser = subparsers.add_parser(
            name,
            help=summary,
            description=module.SUMMARY,
            epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        subparser.add_argument(
            "--log-level", default="info", choices=["debug", "info", "warning", "error"], help="default: %(default)s"
        )
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in words if not word.startswith("-")), None)
    arguments = parser_of(command if command in COMMANDS else None).parse_args(words)
    from obs import logs

    logs.configure(arguments.log_level)
    try:
        return int(arguments.run(arguments))
    except HeadraceError as error:
        return _blame(arguments.command, error)
    except KeyboardInterrupt:
        return 130
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
