"""`headrace demo`: see the whole path of a node work, on this machine."""

import argparse

SUMMARY = """Run an HTTP origin, the CSI plugin, the mount broker and the fuse daemons, stage and publish a volume as
kubelet would, and read it as an unprivileged process: cold, warm, and with every daemon killed half way."""
EXAMPLES = """examples:
  headrace demo
  headrace demo --size 1GiB --origin-speed 500MiB

Needs root and /dev/fuse. Works in a mount namespace and a folder of its own; nothing is left behind.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", default="256MiB", help="of the large file (default: %(default)s)")
    parser.add_argument("--origin-speed", default="100MiB", help="per second (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    import os
    import signal
    import sys

    from datamodel.errors import PermissionRefused, Precondition
    from datamodel.quantity import parse_bytes

    if os.geteuid() != 0:
        raise PermissionRefused(
            "needs root: it mounts as the broker of a node does. Run `sudo scripts/demo`, or see your data as a normal "
            "user with `headrace mount SOURCE MOUNTPOINT`, which takes fusermount3 only"
        )
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise Precondition("/dev/fuse cannot be opened; load the kernel's module with `modprobe fuse`")
    from headrace.demo.walk import Demo

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    print("Headrace demo: origin -> cache -> FUSE -> CSI volume -> reader", flush=True)
    Demo(parse_bytes("--size", arguments.size), parse_bytes("--origin-speed", arguments.origin_speed)).run()
    return 0
