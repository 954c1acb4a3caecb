"""`headrace worker`: a worker pod's command, and the two chores around host folders of its tiers."""

import argparse

SUMMARY = "Serve cached blocks of one dataset to fuse clients, over HTTP with the runtime's token."
EXAMPLES = """examples:
  headrace worker --config /etc/headrace/worker.json --port 29600
  headrace worker --prepare-tier /var/cache/headrace/tier-0    # init container: give the folder to the worker's user
  headrace worker --remove-tier /tier/default/demo             # clean-up pod: remove a deleted runtime's folder
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", help="worker.json: sources and tiers")
    parser.add_argument("--port", type=int, default=29600, help="for blocks (default: %(default)s)")
    parser.add_argument("--health-port", type=int, default=29601, help="/metrics and probes (default: %(default)s)")
    parser.add_argument("--prepare-tier", nargs="+", metavar="DIR", help="hand folders to the worker's user, then end")
    parser.add_argument("--remove-tier", nargs="+", metavar="DIR", help="remove folders of a deleted runtime, then end")


def run(arguments: argparse.Namespace) -> int:
    from datamodel.errors import UserError

    if arguments.prepare_tier or arguments.remove_tier:
        return _chores(arguments)
    if not arguments.config:
        raise UserError("--config: missing; name the worker's client.json")
    return _serve(arguments)


def _chores(arguments: argparse.Namespace) -> int:
    import contextlib
    import os
    import shutil
    from pathlib import Path

    from datamodel.names import DAEMON_UID

    for folder in arguments.prepare_tier or ():
        os.chown(folder, DAEMON_UID, DAEMON_UID)
    for folder in arguments.remove_tier or ():
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # other runtimes of the namespace have folders there
            Path(folder).parent.rmdir()
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    import trio

    from blockcache.assemble import read_config, read_token
    from blockcache.limits import raise_open_files
    from blockcache.worker import Worker
    from obs.health import HealthServer

    raise_open_files()
    config = read_config(arguments.config)
    worker = Worker(config, read_token(config))
    health = HealthServer(
        "",
        arguments.health_port,
        ready=lambda: "" if worker.is_ready else "not serving yet",
        views={"/status": worker.status},
    )
    try:
        trio.run(worker.run, arguments.port)
    finally:
        health.close()
    return 0
