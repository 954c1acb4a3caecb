"""`headrace refresh`: notice now what has changed at the sources."""

import argparse

SUMMARY = "Have the sources asked again for all names seen so far, or those below a path, without waiting for --ttl."
EXAMPLES = """examples:
  headrace refresh /mnt/data
  headrace refresh /mnt/data/train /mnt/data/test
  headrace refresh --timeout 0 /mnt/data      # ask for it, and do not wait

Returns when it is done: new names, changed and removed files show within a second after that. Files that are open go
on with the version they have.
exit codes: 0 done, 1 not a mount of headrace, or not done in time, 2 wrong usage
"""
_TICK_S = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="+", metavar="MOUNTPOINT[/PATH]", help="a mount, or a folder in it")
    parser.add_argument(
        "--timeout", type=float, default=300.0, metavar="SECONDS", help="0 does not wait (default: %(default)g)"
    )


def run(arguments: argparse.Namespace) -> int:
    import time

    from datamodel.errors import DeadlineExceeded
    from fusemount.localcontrol import place_of, request_refresh

    places = [place_of(path) for path in arguments.path]  # all of them are checked first
    pending = [(place, request_refresh(place)) for place in places]
    end = time.monotonic() + arguments.timeout
    for place, is_pending in pending if arguments.timeout > 0 else ():
        while is_pending():
            if time.monotonic() > end:
                raise DeadlineExceeded(
                    f"{place.mountpoint}/{place.inside}: asked for, but not done after {arguments.timeout:g} s"
                )
            time.sleep(_TICK_S)
    return 0
