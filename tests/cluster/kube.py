"""kubectl and the nodes of the test cluster, as a person would use them."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import yaml


def kubectl(*words: str, text: str | None = None, check: bool = True, timeout_s: float = 60) -> str:
    done = subprocess.run(
        ["kubectl", *words], input=text, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if check and done.returncode:
        raise AssertionError(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout if check else done.stdout + done.stderr


def apply(*objects: dict[str, Any]) -> None:
    kubectl("apply", "-f", "-", text=yaml.safe_dump_all(objects))


def get(kind: str, name: str, namespace: str | None = None) -> dict[str, Any] | None:
    """The object, or None where there is none."""
    scope = ["-n", namespace] if namespace else []
    output = kubectl("get", kind, name, *scope, "-o", "json", "--ignore-not-found")
    found: dict[str, Any] | None = json.loads(output) if output.strip() else None
    return found


def items(kind: str, namespace: str, selector: str = "") -> list[dict[str, Any]]:
    output = kubectl("get", kind, "-n", namespace, "-o", "json", *(["-l", selector] if selector else []))
    found: list[dict[str, Any]] = json.loads(output)["items"]
    return found


def wait(what: str, condition: Callable[[], Any], seconds: float = 60) -> float:
    """Seconds until *condition* holds."""
    start = time.monotonic()
    while not condition():
        waited = time.monotonic() - start
        assert waited < seconds, f"no {what} after {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - start


class Phases:
    """Phases of objects of one kind as the API server tells them, for figures that no polling blurs.

    Figures count from construction, so what kubectl needs to start and to apply a manifest is part of them.
    """

    def __init__(self, kind: str, namespace: str) -> None:
        self._start = time.monotonic()
        line = 'jsonpath={.metadata.name}{" "}{.status.phase}{"\\n"}'
        command = ["kubectl", "get", kind, "-n", namespace, "--watch", "-o", line]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._seen: list[tuple[float, str, str]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> "Phases":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def seconds(self, name: str, phase: str, limit_s: float) -> float:
        """Until the object was in *phase* for the first time."""
        wait(f"{name} in phase {phase}", lambda: self._first(name, phase) is not None, limit_s)
        reached = self._first(name, phase)
        assert reached is not None
        return reached - self._start

    def _first(self, name: str, phase: str) -> float | None:
        return next((at for at, *what in list(self._seen) if what == [name, phase]), None)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            name, _, phase = line.rstrip("\n").partition(" ")
            self._seen.append((time.monotonic(), name, phase))


def in_pod(namespace: str, pod: str, *command: str, timeout_s: float = 120) -> str:
    return kubectl("exec", "-n", namespace, pod, "--", *command, timeout_s=timeout_s)


def on_node(node: str, *command: str) -> str:
    return subprocess.run(
        [os.environ["CLUSTER"], "exec", node, *command], capture_output=True, text=True, timeout=60, check=False
    ).stdout


def phase(kind: str, name: str, namespace: str) -> str:
    found = get(kind, name, namespace)
    return str((found or {}).get("status", {}).get("phase", ""))


def node_labels(node: str) -> dict[str, str]:
    found = get("node", node)
    assert found is not None
    return dict(found["metadata"]["labels"])


def describe(namespace: str) -> str:
    """What a person would look at when something went wrong."""
    parts = [
        kubectl(
            "get", "dataset,alluxioruntime,cacheruntime,pods,pvc,ds,sts", "-n", namespace, "-o", "wide", check=False
        ),
        kubectl("get", "events", "-n", namespace, "--sort-by=.lastTimestamp", check=False),
        kubectl("get", "dataset", "-n", namespace, "-o", "yaml", check=False),
        kubectl("logs", "-n", "fluid-system", "deploy/headrace-controller", "--tail=40", check=False),
        kubectl(
            "logs", "-n", "fluid-system", "-l", "app=csi-nodeplugin-fluid", "--all-containers", "--tail=30", check=False
        ),
    ]
    return "\n".join(parts)
