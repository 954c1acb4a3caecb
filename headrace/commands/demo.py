"""`headrace demo`: see it work, on this machine, with real mounts."""

import argparse

SUMMARY = """Run an HTTP origin of limited speed, mount it, read it cold and warm, load, refresh, kill every process and
mount again, all with the commands a person types. As root also what kubelet does for a pod: the CSI plugin, the mount
broker and the fuse daemons."""
EXAMPLES = """examples:
  headrace demo
  headrace demo --size 1GiB --origin-speed 500MiB

Needs /dev/fuse, and root or fusermount3. Works in a folder of its own, and as root in a mount namespace of its own;
nothing is left behind, also after Ctrl-C.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", default="256MiB", help="of the large files (default: %(default)s)")
    parser.add_argument("--origin-speed", default="100MiB", help="per second (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    import os
    import signal
    import sys

    from datamodel.errors import Precondition, UserError
    from datamodel.quantity import parse_bytes
    from headrace.demo.machine import Machine
    from headrace.demo.stage import Stage, enter_private_mounts

    size, speed = parse_bytes("--size", arguments.size), parse_bytes("--origin-speed", arguments.origin_speed)
    if size < 1 << 20 or speed < 1 << 20:
        raise UserError("--size, --origin-speed: give at least 1MiB")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise Precondition("/dev/fuse cannot be opened; load the kernel's module with `modprobe fuse`")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    is_root = os.geteuid() == 0
    if is_root:
        enter_private_mounts()
    print("On one machine: origin -> cache -> headrace mount -> reader", flush=True)
    with Stage(size, speed) as stage:
        Machine(stage).walk()
    if not is_root:
        print("Not shown without root: survival of kill -9, passthrough, and the CSI volume of a pod.")
        return 0
    from headrace.demo.node import Node

    print("On a node of a cluster: origin -> cache -> FUSE -> CSI volume -> reader", flush=True)
    with Stage(size, speed) as stage:
        Node(stage).walk()
    return 0
