"""`headrace umount`: end a mount of `headrace mount`."""

import argparse

SUMMARY = "End a mount made by `headrace mount`, also one whose process was killed. The cache stays."
EXAMPLES = """examples:
  headrace umount /mnt/data
  headrace umount --lazy /mnt/data     # although somebody still reads: they get errors

exit codes: 0 unmounted, 1 in use (it says by whom), not mounted, or not ended in time, 2 wrong usage
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")
    parser.add_argument("--lazy", action="store_true", help="do not ask who still uses it")
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="SECONDS", help="for its process to end (default: %(default)g)"
    )


def run(arguments: argparse.Namespace) -> int:
    from fusemount.localcontrol import unmount
    from fusemount.localstate import mountpoint_of

    unmount(mountpoint_of(arguments.mountpoint), lazy=arguments.lazy, deadline_s=arguments.timeout)
    return 0
