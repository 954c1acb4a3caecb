"""`headrace status`: what a mount serves and holds."""

import argparse

SUMMARY = "Show what a mount of `headrace mount` serves, holds and uses; without MOUNTPOINT, list your mounts."
EXAMPLES = """examples:
  headrace status
  headrace status /mnt/data
  headrace status /mnt/data -o json | jq .cache.cachedPercentage

The keys of -o json are an interface: docs/configuration.md has them.
exit codes: 0 shown, 1 not mounted, or its process is gone, 2 wrong usage
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", nargs="?")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="default: %(default)s")


def run(arguments: argparse.Namespace) -> int:
    import json

    from fusemount.localcontrol import mounts, read_status
    from fusemount.localstate import mountpoint_of
    from headrace import statustext

    if arguments.mountpoint is None:
        known = mounts()
        if arguments.output == "json":
            print(json.dumps([{"mountpoint": str(one.mountpoint), "pid": one.pid} for one in known], indent=2))
            return 0
        for one in known:
            print(f"{one.mountpoint}  {f'process {one.pid}' if one.pid else 'DEAD: mount it again, or umount it'}")
        return 0
    status = read_status(mountpoint_of(arguments.mountpoint))
    if arguments.output == "json":
        print(json.dumps(status, indent=2))
        return 0
    print("\n".join(statustext.lines(status)))
    return 0
