"""`headrace fuse`: the fuse pod's command."""

import argparse

SUMMARY = "Serve one dataset's FUSE mount through the node's broker. Needs no privilege; runs in fuse pods."
EXAMPLES = """example:
  headrace fuse --config /etc/headrace/client.json --broker-socket /run/headrace/broker.sock
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="client.json: sources, tiers, workers")
    parser.add_argument("--broker-socket", required=True, help="the broker's socket of this runtime")
    parser.add_argument("--health-port", type=int, default=29602, help="/metrics and probes (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    from prometheus_client import REGISTRY

    from blockcache.assemble import read_config
    from fusemount.report import MountCollector, status_json
    from fusemount.supervisor import Supervisor
    from headrace.processes import wait_for_end
    from obs.health import HealthServer

    config = read_config(arguments.config)
    supervisor = Supervisor(
        config.dataset, arguments.config, arguments.broker_socket, config.processes, log_level=arguments.log_level
    )
    REGISTRY.register(MountCollector(supervisor.status))
    health = HealthServer(
        "",
        arguments.health_port,
        ready=lambda: "" if supervisor.is_ready else "no daemon serves yet",
        views={"/status": lambda: status_json(supervisor.status())},
    )
    supervisor.start()
    try:
        wait_for_end()
    finally:
        supervisor.stop()
        health.close()
    return 0
