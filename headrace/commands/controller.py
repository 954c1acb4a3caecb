"""`headrace controller`: turns Datasets and runtimes into workloads, volumes, labels and status."""

import argparse
import os
import signal
import socket
import threading
import uuid
from pathlib import Path

SUMMARY = "Run the controller: binds Datasets to runtimes and keeps their workloads, volumes and status."
EXAMPLES = """examples:
  headrace controller --kubeconfig ~/.kube/config --image headrace:0.1.0 --no-leader-election
  kubectl -n fluid-system logs deployment/headrace-controller"""

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
LEASE = "headrace-controller"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kubeconfig", metavar="FILE", help="default: the pod's service account")
    parser.add_argument("--namespace", help="namespace of the controller itself; default: the pod's, else fluid-system")
    parser.add_argument(
        "--image",
        default=os.environ.get("HEADRACE_IMAGE", "headrace:0.1.0"),
        help="image of worker and fuse pods; default: $HEADRACE_IMAGE, else headrace:0.1.0",
    )
    parser.add_argument(
        "--image-pull-policy",
        default=os.environ.get("HEADRACE_IMAGE_PULL_POLICY", "IfNotPresent"),
        choices=["Always", "IfNotPresent", "Never"],
        help="default: $HEADRACE_IMAGE_PULL_POLICY, else IfNotPresent",
    )
    parser.add_argument("--image-pull-secret", action="append", default=[], help="may be given several times")
    parser.add_argument("--runtime-root", default="/runtime-mnt", help="where brokers mount; default: %(default)s")
    parser.add_argument("--workers", type=int, default=4, help="reconciles at once; default: %(default)s")
    parser.add_argument(
        "--report-period", type=float, default=10.0, metavar="SECONDS", help="between looks at workers' figures"
    )
    parser.add_argument("--no-critical-fuse", action="store_true", help="fuse pods without a priority class")
    parser.add_argument("--no-leader-election", action="store_true", help="for a single process, e.g. on a laptop")
    parser.add_argument("--health-port", type=int, default=29605, help="default: %(default)s; 0 takes a free one")


def run(args: argparse.Namespace) -> int:
    from controller.run import Controller, serve
    from controller.settings import Settings
    from kube.leases import Election
    from kube.transport import Transport
    from obs.health import HealthServer

    namespace = args.namespace or _own_namespace()
    settings = Settings(
        namespace=namespace,
        image=args.image,
        pull_policy=args.image_pull_policy,
        pull_secrets=tuple(args.image_pull_secret),
        runtime_root=args.runtime_root,
        critical_fuse=not args.no_critical_fuse,
        report_period_s=args.report_period,
    )
    transport = Transport.load(args.kubeconfig)
    identity = f"{socket.gethostname()}_{uuid.uuid4()}"
    election = None if args.no_leader_election else Election(transport, namespace, LEASE, identity)
    controller = Controller(
        transport,
        settings,
        workers=args.workers,
        is_leading=(lambda: True) if election is None else (lambda: election.is_held),
    )
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    health = HealthServer("", args.health_port, healthy=controller.unhealthy, ready=controller.caches.unlisted)
    try:
        return serve(controller, election, stopping)
    finally:
        health.close()


def _own_namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text().strip()
    except FileNotFoundError:
        return "fluid-system"
