"""`headrace load`: fill the cache ahead of its use."""

import argparse

SUMMARY = "Read files through a mount so that they are in its cache. What is there already is not read again."
EXAMPLES = """examples:
  headrace load /mnt/data
  headrace load /mnt/data/train /mnt/data/labels.json --rate 200MiB/s
  headrace load /mnt/data --quiet && train.py /mnt/data

Ctrl-C ends it; the same command goes on where it stopped. Loading leaves no copy in the page cache.
exit codes: 0 all is cached, 1 some files could not be read (they are listed), 2 wrong usage, 130 interrupted
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="+", metavar="MOUNTPOINT[/PATH]", help="a mount, or a folder or file in it")
    parser.add_argument("--rate", metavar="SIZE[/s]", help="read at most so much per second, e.g. 200MiB/s")
    parser.add_argument(
        "--parallel", type=int, default=8, metavar="N", help="files read at the same time (default: %(default)s)"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress; failures and errors are still told")


def run(arguments: argparse.Namespace) -> int:
    from datamodel.errors import UserError
    from datamodel.quantity import parse_bytes
    from fusemount.localcontrol import place_of
    from headrace.load.command import load

    if not 1 <= arguments.parallel <= 256:
        raise UserError(f"--parallel: {arguments.parallel} is not between 1 and 256")
    rate = parse_bytes("--rate", arguments.rate.removesuffix("/s")) if arguments.rate else 0
    if arguments.rate and rate <= 0:
        raise UserError(f"--rate: {arguments.rate!r} would never end; give e.g. 200MiB/s")
    places = [place_of(path) for path in arguments.path]
    return load(places, bytes_per_s=rate, parallel=arguments.parallel, is_quiet=arguments.quiet)
