"""`headrace csi`: the CSI node plugin, in a cluster or alone on a machine."""

import argparse
import contextlib
from typing import TYPE_CHECKING

from datamodel.names import DRIVER, KUBELET_DIR, RUNTIME_ROOT

if TYPE_CHECKING:
    from csi.plugin import Plugin, Settings
    from csi.ports import DaemonStarter

SUMMARY = "Run the CSI node plugin. It needs no privilege of its own: what does is done by the mount broker."
EXAMPLES = """examples:
  headrace csi --endpoint unix:///csi/csi.sock --node-name n1 \\
      --plugin-path /var/lib/kubelet/csi-plugins/fuse.csi.fluid.io/csi.sock
  headrace csi --endpoint unix:///run/headrace/csi.sock --node-name here --standalone --datasets /etc/headrace/datasets

With --standalone there is no API server: labels are kept in a file, a mount broker runs inside the process unless
--broker-socket names one, and fuse daemons are started here for each dataset DIR/<namespace>/<name>/client.json.
"""

BROKER_SOCKET = "/run/headrace-broker/control.sock"
CLUSTER_RESYNC_S = 300.0
STANDALONE_RESYNC_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoint", required=True, metavar="URL", help="unix:///….sock to serve CSI on")
    parser.add_argument("--node-name", required=True, metavar="NAME", help="our Node object's name")
    parser.add_argument("--driver-name", default=DRIVER, metavar="NAME", help="default: %(default)s")
    parser.add_argument(
        "--runtime-root", default=RUNTIME_ROOT, metavar="DIR", help="where mounts are made (default: %(default)s)"
    )
    parser.add_argument(
        "--kubelet-dir",
        default=KUBELET_DIR,
        metavar="DIR",
        help="targets must be below its pods folder (default: %(default)s)",
    )
    parser.add_argument(
        "--target-root", action="append", metavar="DIR", help="trust this folder for targets instead; repeatable"
    )
    parser.add_argument(
        "--registration-dir", metavar="DIR", help="kubelet's plugin folder (default: /registration; standalone: none)"
    )
    parser.add_argument(
        "--plugin-path", metavar="PATH", help="the CSI socket as kubelet sees it (default: the path of --endpoint)"
    )
    parser.add_argument(
        "--broker-socket", metavar="PATH", help=f"the broker's control socket (default: {BROKER_SOCKET})"
    )
    parser.add_argument(
        "--state-dir", default="/var/lib/headrace/csi", metavar="DIR", help="records (default: %(default)s)"
    )
    parser.add_argument("--kubeconfig", metavar="FILE", help="default: the pod's service account")
    parser.add_argument("--health-port", type=int, default=29604, help="/metrics and probes (default: %(default)s)")
    alone = parser.add_argument_group("without a cluster")
    alone.add_argument("--standalone", action="store_true", help="use no API server")
    alone.add_argument(
        "--datasets", metavar="DIR", default="/etc/headrace/datasets", help="what to serve (default: %(default)s)"
    )
    alone.add_argument(
        "--daemon-uid", type=int, metavar="UID", help="user of the daemons (default: nobody, if it may run our Python)"
    )


def run(arguments: argparse.Namespace) -> int:
    import os

    # Our children exec at once, so gRPC need not prepare for them, which it does with threads stopped.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    settings = _settings(arguments)
    with contextlib.ExitStack() as closing:
        plugin = (_standalone if arguments.standalone else _in_cluster)(arguments, settings, closing)
        _end_on_signal(plugin)
        closing.callback(plugin.close)
        plugin.start()
        plugin.stop.wait()
    return plugin.exit_code


def _settings(arguments: argparse.Namespace) -> "Settings":
    from pathlib import Path

    from csi.plugin import Settings
    from csi.sockets import path_of_endpoint
    from headrace import __version__

    socket = path_of_endpoint(arguments.endpoint)
    registration_dir = arguments.registration_dir or ("" if arguments.standalone else "/registration")
    return Settings(
        driver=arguments.driver_name,
        version=__version__,
        node=arguments.node_name,
        socket=socket,
        plugin_path=arguments.plugin_path or str(socket),
        registration_dir=Path(registration_dir) if registration_dir else None,
        runtime_root=arguments.runtime_root.rstrip("/"),
        kubelet_dir=Path(arguments.kubelet_dir),
        target_roots=tuple(arguments.target_root or [f"{arguments.kubelet_dir}/pods"]),
        state_dir=Path(arguments.state_dir),
        resync_s=STANDALONE_RESYNC_S if arguments.standalone else CLUSTER_RESYNC_S,
        health_port=arguments.health_port,
    )


def _in_cluster(arguments: argparse.Namespace, settings: "Settings", closing: contextlib.ExitStack) -> "Plugin":
    from broker.client import BrokerControl
    from csi.daemons import DaemonSetStarter
    from csi.labels import KubernetesNodeLabels
    from csi.plugin import Plugin
    from kube.transport import Transport

    labels = KubernetesNodeLabels(Transport.load(arguments.kubeconfig), settings.node)
    broker = BrokerControl(arguments.broker_socket or BROKER_SOCKET)
    return Plugin(settings, broker, labels, DaemonSetStarter(), watched=labels)


def _standalone(arguments: argparse.Namespace, settings: "Settings", closing: contextlib.ExitStack) -> "Plugin":
    from broker.client import BrokerControl
    from csi.labels import FileNodeLabels
    from csi.plugin import Plugin

    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    control = arguments.broker_socket or _own_broker(settings, closing)
    labels = FileNodeLabels(settings.state_dir / "labels.json")
    return Plugin(settings, BrokerControl(control), labels, _local_starter(arguments, settings, closing))


def _own_broker(settings: "Settings", closing: contextlib.ExitStack) -> str:
    from broker.broker import Broker
    from broker.server import BrokerServer

    control = str(settings.state_dir / "broker.sock")
    server = BrokerServer(Broker(settings.runtime_root, settings.target_roots), control)
    closing.callback(server.close)
    return control


def _local_starter(
    arguments: argparse.Namespace, settings: "Settings", closing: contextlib.ExitStack
) -> "DaemonStarter":
    from pathlib import Path, PurePosixPath

    from csi.daemons import LocalStarter
    from datamodel.client import ClientConfig
    from datamodel.names import DAEMON_UID
    from fusemount.privileges import can_run_as
    from fusemount.supervisor import Supervisor

    uid = arguments.daemon_uid
    if uid is None:
        uid = DAEMON_UID if can_run_as(DAEMON_UID) else 0

    def supervise(config: ClientConfig, file: Path, socket: PurePosixPath) -> Supervisor:
        return Supervisor(config.dataset, str(file), str(socket), config.processes, uid)

    # The daemons read their files as another user, and the records' folder is ours alone.
    state = Path(f"{settings.state_dir}-daemons")
    starter = LocalStarter(Path(arguments.datasets), state, settings.runtime_root, uid, supervise)
    closing.callback(starter.close)
    return starter


def _end_on_signal(plugin: "Plugin") -> None:
    import signal

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: plugin.stop.set())
