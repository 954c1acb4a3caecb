"""Measure Headrace beside its peers and the limits, in one run, systems in turn. Root; see bench/README.md.

examples:
  bench/run.py --quick                                       # small datasets, once: does everything work?
  bench/run.py --json results.json --markdown docs/benchmarks.md
  bench/run.py --workload small --system headrace --system juicefs --runs 3
  bench/run.py --from data.json names.json --markdown docs/benchmarks.md
"""

import argparse
import datetime
import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import limits
import psutil
import report
from data import FULL, QUICK, Data
from machine import describe, drop_page_cache, file_system_of
from origins import Origins
from reader import Reader, ReaderFailed
from rows import ROWS, Table
from systems import LIMITS, SYSTEMS, Mounted, Place, System, mounted
from workloads import WORKLOADS, Bench

_HERE = Path(__file__).resolve().parent


class Run:
    """All turns of all systems; figures are in *table*, and *failures* says what gave none."""

    def __init__(self, data: Data, origins: Origins, tools: Path, scratch: Path) -> None:
        self._data, self._origins, self._tools, self._scratch = data, origins, tools, scratch
        self._reader = Reader(scratch)
        self.table: Table = {}
        self.failures: list[str] = []
        self.commands: dict[str, str] = {}

    def turn(self, system: System, workload: str, number: int) -> None:
        dataset, act = WORKLOADS[workload]
        if dataset not in system.datasets:
            return
        print(f"run {number}: {workload}: {system.name}", file=sys.stderr, flush=True)
        self._data.warm_origin(dataset)
        try:
            if system.name in LIMITS:
                limits.measure(system.name, workload, self._data, self._origins, self.table)
            else:
                self._mounted_turn(system, dataset, act)
        except (ReaderFailed, psutil.NoSuchProcess) as error:
            self.failures.append(f"run {number}, {workload}, {system.name}: {error}")
            print(f"  failed: {error}", file=sys.stderr, flush=True)

    def _mounted_turn(self, system: System, dataset: str, act: Any) -> None:
        cache = self._scratch / "cache"
        place = Place(self._origins, dataset, self._scratch / "mnt", cache, self._tools)
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, cache, ignore_errors=True)
            mounts = stack.enter_context(ExitStack())

            def mount() -> Mounted:
                mounts.close()
                return mounts.enter_context(mounted(system, self._data, place, self.commands))

            is_native = system.command is None
            act(Bench(self._data, self._reader, self.table, system.name, is_native, mount(), self._origins.pids, mount))


def main() -> int:
    arguments = _parse()
    if arguments.source:
        _publish(*report.merged([report.from_json(file) for file in arguments.source]), arguments)
        return 0
    _enter_own_mounts()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and mounts end with us
    arguments.data.mkdir(parents=True, exist_ok=True)
    tools = Path(_output(_HERE / "setup").splitlines()[-1])
    data = Data(arguments.data, QUICK if arguments.quick else FULL)
    with ExitStack() as stack:
        scratch = (
            arguments.data / "run"
        )  # always the same, so that the command lines are; two runs collide at the ports
        scratch.mkdir(exist_ok=True)
        origins = Origins(data, tools)
        stack.callback(origins.close)
        _make(data, origins, arguments)
        run = Run(data, origins, tools, scratch)
        run.commands["origins"] = "\n".join(" ".join(command) for command in origins.commands)
        facts = _facts(arguments, tools) | {"failures": run.failures, "commands": run.commands}
        drop_page_cache()
        for number in range(1, arguments.runs + 1):
            for workload in arguments.workload:
                for name in arguments.system:
                    run.turn(SYSTEMS[name], workload, number)
                    if arguments.json:  # after every turn: a run of hours may be cut short
                        arguments.json.write_text(report.to_json(run.table, facts))
    _publish(run.table, facts, arguments)
    return 1 if run.failures else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small datasets, and one run unless --runs says more")
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS), help="repeatable; default: all")
    parser.add_argument("--system", action="append", choices=list(SYSTEMS), help="repeatable; default: all")
    parser.add_argument("--runs", type=int, help="default: 5")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--markdown", type=Path, metavar="PAGE", nargs="?", const=Path("-"),
        help="print the tables as markdown, or put them between the markers of PAGE",
    )  # fmt: skip
    parser.add_argument(
        "--from", dest="source", type=Path, nargs="+", metavar="FILE",
        help="measure nothing, show these results as one table; where two have a row, the later one's counts",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=Path, default=Path("/var/tmp/headrace-bench"), metavar="DIR",
        help="datasets, kept between runs, and caches: 12 GB (default: %(default)s)",
    )  # fmt: skip
    arguments = parser.parse_args()
    arguments.workload = arguments.workload or list(WORKLOADS)
    arguments.system = arguments.system or list(SYSTEMS)
    arguments.runs = arguments.runs or (1 if arguments.quick else 5)
    return arguments


def _make(data: Data, origins: Origins, arguments: argparse.Namespace) -> None:
    for dataset in dict.fromkeys(WORKLOADS[workload][0] for workload in arguments.workload):
        print(f"data: {dataset}", file=sys.stderr, flush=True)
        data.make(dataset)
        if "juicefs" in arguments.system:
            origins.fill_juicefs(dataset)


def _facts(arguments: argparse.Namespace, tools: Path) -> dict[str, Any]:
    return {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["bench/run.py", *sys.argv[1:]]),
        "runs": arguments.runs,
        "machine": describe() | {"fileSystem": file_system_of(arguments.data)},
        "versions": _versions(tools),
        "rowTitles": {name: f"{row.title} ({row.unit})" for name, row in ROWS.items()},
    }


def _versions(tools: Path) -> dict[str, str]:
    commit = _output("git", "-C", _HERE, "rev-parse", "--short", "HEAD")
    return {
        "Headrace": f"at {commit}",
        "rclone": _output(tools / "rclone", "version").split()[1],
        "JuiceFS": _output(tools / "juicefs", "version").split()[-1],
        "s3fs": _output("dpkg-query", "--show", "--showformat=${Version}", "s3fs"),
        "nginx": _output("dpkg-query", "--show", "--showformat=${Version}", "nginx-light"),
        "versitygw": (_HERE / "setup").read_text().partition("versitygw@")[2].split()[0],
        "Redis": _output("redis-server", "--version").split()[2].removeprefix("v="),
    }


def _output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _publish(table: Table, facts: dict[str, Any], arguments: argparse.Namespace) -> None:
    text = report.to_markdown(table, facts)
    if arguments.markdown is None or arguments.markdown == Path("-"):
        print(text)
    else:
        report.publish(text, arguments.markdown)


def _enter_own_mounts() -> None:
    """Go on in a mount namespace of our own, so that nobody else sees or holds our mounts."""
    if os.environ.get("HEADRACE_BENCH_INSIDE"):
        return
    os.environ["HEADRACE_BENCH_INSIDE"] = "1"
    os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])


if __name__ == "__main__":
    sys.exit(main())
