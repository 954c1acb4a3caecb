"""`headrace broker`: the one privileged process of a node."""

import argparse

from datamodel.names import KUBELET_DIR, RUNTIME_ROOT

SUMMARY = "Run the mount broker. It needs CAP_SYS_ADMIN and /dev/fuse; nothing else of Headrace does."
EXAMPLES = """example:
  headrace broker --control-socket /run/headrace-broker/control.sock
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--control-socket", required=True, help="unix socket for the CSI plugin; root only")
    parser.add_argument("--runtime-root", default=RUNTIME_ROOT, help="where mounts are made (default: %(default)s)")
    parser.add_argument(
        "--kubelet-dir", default=KUBELET_DIR, help="targets must be below its pods folder (default: %(default)s)"
    )
    parser.add_argument("--target-root", action="append", help="trust this folder for targets instead; repeatable")
    parser.add_argument("--health-port", type=int, default=29603, help="/metrics and probes (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    from broker.broker import Broker
    from broker.server import BrokerServer
    from headrace.processes import wait_for_end
    from obs.health import HealthServer

    roots = tuple(arguments.target_root or [f"{arguments.kubelet_dir}/pods"])
    server = BrokerServer(Broker(arguments.runtime_root, roots), arguments.control_socket)
    health = HealthServer("", arguments.health_port, healthy=server.problem)
    try:
        wait_for_end()
    finally:
        health.close()
        server.close()
    return 0
