"""A Dataset manifest becomes a PVC that pods read through the cache, and nothing is left when it is deleted."""

import hashlib
import time
from collections.abc import Callable

import pytest

from tests.cluster.conftest import MOUNTS, Origin
from tests.cluster.kube import (
    Phases,
    apply,
    get,
    in_pod,
    items,
    kubectl,
    node_labels,
    on_node,
    phase,
    wait,
)
from tests.cluster.manifests import API, cache_runtime, dataset, reader

Note = Callable[[str, str], None]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def bind(namespace: str, name: str, origin: Origin) -> float:
    with Phases("dataset", namespace) as phases:
        apply(dataset(namespace, name, origin), cache_runtime(namespace, name))
        return phases.seconds(name, "Bound", 60)


def start(namespace: str, pod: str, claim: str, node: str, *command: str) -> float:
    with Phases("pods", namespace) as phases:
        apply(reader(namespace, pod, claim, node, *command))
        return phases.seconds(pod, "Running", 90)


def sums(namespace: str, pod: str) -> dict[str, str]:
    output = in_pod(namespace, pod, "sh", "-c", "cd /data && find . -type f -exec sha256sum {} +")
    return {line[66:].removeprefix("./"): line[:64] for line in output.splitlines()}


def read_seconds(namespace: str, pod: str, path: str) -> float:
    script = (
        "import time,sys; t=time.monotonic(); f=open(sys.argv[1],'rb',0)\n"
        "while f.read(1<<20): pass\n"
        "print(time.monotonic()-t)"
    )
    return float(in_pod(namespace, pod, "python3", "-c", script, path))


def fuse_pods(namespace: str, node: str | None = None) -> list[str]:
    """Names of the fuse pods that are not on their way out."""
    return [
        pod["metadata"]["name"]
        for pod in items("pods", namespace)
        if (pod["metadata"].get("ownerReferences") or [{}])[0].get("kind") == "DaemonSet"
        and "deletionTimestamp" not in pod["metadata"]
        and node in (None, pod["spec"].get("nodeName"))
    ]


def fuse_pod(namespace: str, node: str) -> str:
    wait(f"one fuse pod on {node}", lambda: len(fuse_pods(namespace, node)) == 1, 30)
    return fuse_pods(namespace, node)[0]


def test_pods_read_right_bytes_cold_warm_and_with_the_origin_stopped(
    namespace: str, origin: Origin, note: Note
) -> None:
    bound_s = bind(namespace, "demo", origin)
    note("CacheRuntime: apply -> Bound", f"{bound_s:.2f} s")

    found = get("dataset", "demo", namespace)
    assert found is not None
    conditions = {c["type"]: c for c in found["status"]["conditions"]}
    assert conditions["Ready"]["status"] == "True"
    assert conditions["Ready"]["message"] == "The ddc runtime is ready."
    volume, claim = get("pv", f"{namespace}-demo"), get("pvc", "demo", namespace)
    assert volume is not None
    assert claim is not None
    attributes = volume["spec"]["csi"]["volumeAttributes"]
    assert attributes["fluid_path"] == f"/runtime-mnt/cache/{namespace}/demo/fuse"
    assert fuse_pods(namespace) == []

    note("pod create -> Running, cold node", f"{start(namespace, 'first', 'demo', 'n1'):.2f} s")
    key = attributes["mount_pod_node_selector_key"]
    assert node_labels("n1").get(key) == "true"
    assert key not in node_labels("n2")
    cold_s = read_seconds(namespace, "first", "/data/hadoop/big.bin")
    assert sums(namespace, "first") == origin.sums
    warm_s = read_seconds(namespace, "first", "/data/hadoop/big.bin")
    note("cold read of 48 MiB", f"{48 / cold_s:.0f} MiB/s")
    note("warm read of 48 MiB", f"{48 / warm_s:.0f} MiB/s")
    note("pod create -> Running, warm node", f"{start(namespace, 'second', 'demo', 'n1'):.2f} s")

    origin.stop()
    try:
        assert sums(namespace, "second") == origin.sums
        start(namespace, "elsewhere", "demo", "n2")
        worker_s = read_seconds(namespace, "elsewhere", "/data/spark/big.bin")
        assert sums(namespace, "elsewhere") == origin.sums
        note("first read on another node, origin stopped, 48 MiB", f"{48 / worker_s:.0f} MiB/s")
    finally:
        origin.start()


READER = """
import hashlib, sys, time
stop, worst, sums = time.monotonic() + float(sys.argv[1]), 0.0, set()
while time.monotonic() < stop or not sums:
    digest = hashlib.sha256()
    for mount in ("hadoop", "spark", "hbase"):
        with open(f"/data/{mount}/big.bin", "rb", buffering=0) as file:
            while True:
                start = time.monotonic()
                piece = file.read(1 << 17)
                worst = max(worst, time.monotonic() - start)
                if not piece:
                    break
                digest.update(piece)
    sums.add(digest.hexdigest())
print(worst, *sums)
"""


@pytest.mark.parametrize("speed", ["cold", "warm"])
def test_readers_see_no_error_while_the_fuse_pod_dies(namespace: str, origin: Origin, note: Note, speed: str) -> None:
    apply(
        dataset(namespace, "demo", origin, below="slow/" if speed == "cold" else ""), cache_runtime(namespace, "demo")
    )
    wait("Bound dataset", lambda: phase("dataset", "demo", namespace) == "Bound", 60)
    start(namespace, "loop", "demo", "n1", "python3", "-c", READER, "15")
    check_is_unprivileged(namespace, fuse_pod(namespace, "n1"))

    time.sleep(1)
    kill_on_node("n1", "fusemount.daemon")
    time.sleep(3)
    kill_on_node("n1", "headrace fuse")
    time.sleep(3)
    kubectl("delete", "pod", "-n", namespace, fuse_pod(namespace, "n1"), "--wait=false")

    wait("end of the reader", lambda: phase("pod", "loop", namespace) in ("Succeeded", "Failed"), 90)
    output = kubectl("logs", "-n", namespace, "loop").split()
    assert phase("pod", "loop", namespace) == "Succeeded", output
    wanted = hashlib.sha256()
    for mount in MOUNTS:
        wanted.update((origin.root / "www" / mount / "big.bin").read_bytes())
    assert output[1:] == [wanted.hexdigest()]
    note(f"longest {speed} read while daemons, container and pod are killed", f"{float(output[0]):.2f} s")


def test_a_new_node_plugin_disturbs_no_reader_and_serves_new_pods(namespace: str, origin: Origin, note: Note) -> None:
    apply(dataset(namespace, "demo", origin, below="slow/"), cache_runtime(namespace, "demo"))
    wait("Bound dataset", lambda: phase("dataset", "demo", namespace) == "Bound", 60)
    start(namespace, "loop", "demo", "n1", "python3", "-c", READER, "15")

    kubectl("rollout", "restart", "-n", "fluid-system", "daemonset/csi-nodeplugin-fluid")
    kubectl("rollout", "status", "-n", "fluid-system", "daemonset/csi-nodeplugin-fluid", "--timeout=60s", timeout_s=70)
    started_s = start(namespace, "later", "demo", "n1")

    assert sums(namespace, "later") == origin.sums
    wait("end of the reader", lambda: phase("pod", "loop", namespace) in ("Succeeded", "Failed"), 90)
    assert phase("pod", "loop", namespace) == "Succeeded", kubectl("logs", "-n", namespace, "loop")
    note("pod create -> Running after the node plugin was replaced", f"{started_s:.2f} s")


def check_is_unprivileged(namespace: str, pod: str) -> None:
    status = in_pod(namespace, pod, "cat", "/proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == ["65534"] * 4
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"


def kill_on_node(node: str, command: str) -> None:
    processes = on_node(node, "pgrep", "-f", command).split()
    assert processes, f"no process {command!r} on {node}"
    on_node(node, "kill", "-9", *processes)


def test_deletion_waits_for_pods_and_leaves_nothing(namespace: str, origin: Origin, note: Note) -> None:
    bind(namespace, "demo", origin)
    start(namespace, "user", "demo", "n1")
    sums(namespace, "user")
    kubectl("delete", "dataset", "demo", "-n", namespace, "--wait=false")
    wait(
        "event that names the pod",
        lambda: "because Pod user in Namespace" in kubectl("get", "events", "-n", namespace, "-o", "json"),
        30,
    )
    assert phase("dataset", "demo", namespace) == "Bound"

    kubectl("delete", "pod", "user", "-n", namespace)
    gone_s = wait("end of the dataset", lambda: get("dataset", "demo", namespace) is None, 60)
    gone_s += wait("end of the runtime", lambda: get("cacheruntime", "demo", namespace) is None, 60)
    note("deletion of the last pod -> Dataset and Runtime gone", f"{gone_s:.2f} s")

    assert get("pv", f"{namespace}-demo") is None
    assert get("pvc", "demo", namespace) is None
    wait("end of all pods", lambda: items("pods", namespace) == [], 60)
    for kind in ("statefulsets", "daemonsets", "services", "secrets"):
        assert items(kind, namespace) == [], kind
    assert [c["metadata"]["name"] for c in items("configmaps", namespace)] == ["kube-root-ca.crt"]
    for node in ("n1", "n2"):
        wait(f"no label on {node}", lambda node=node: not any(namespace in key for key in node_labels(node)), 30)  # type: ignore[misc]
        wait(
            f"no folder on {node}", lambda node=node: on_node(node, "find", "/runtime-mnt", "-mindepth", "1") == "", 30
        )  # type: ignore[misc]
        assert namespace not in on_node(node, "findmnt", "-rn")
        assert on_node(node, "find", "/var/lib/headrace/e2e-tier", "-path", f"*{namespace}*") == ""


def test_alluxio_runtime_as_in_the_first_demo_is_served(namespace: str, origin: Origin, note: Note) -> None:
    affinity = {
        "required": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "e2e/gpu", "operator": "In", "values": ["v100"]}]}]
        }
    }
    kubectl("label", "node", "n1", "e2e/gpu=v100", "--overwrite")
    tiers = [
        {"mediumtype": "MEM", "path": "/dev/shm", "quota": "256Mi", "high": "0.95", "low": "0.7"},
        {"mediumtype": "SSD", "path": "/var/lib/headrace/e2e-ssd", "quota": "1Gi", "high": "0.95", "low": "0.7"},
    ]
    runtime = {
        "apiVersion": API,
        "kind": "AlluxioRuntime",
        "metadata": {"name": "cifar10", "namespace": namespace},
        "spec": {
            "replicas": 2,
            "tieredstore": {"levels": tiers},
            "properties": {"alluxio.user.file.writetype.default": "MUST_CACHE"},
            "master": {"replicas": 1, "jvmOptions": ["-Xmx4G"]},
            "fuse": {"args": ["fuse", "--fuse-opts=ro,max_read=131072,attr_timeout=7200,entry_timeout=7200"]},
        },
    }
    try:
        apply(dataset(namespace, "cifar10", origin, nodeAffinity=affinity))
        wait("NotBound dataset", lambda: phase("dataset", "cifar10", namespace) == "NotBound", 20)
        with Phases("dataset", namespace) as phases:
            apply(runtime)
            note("AlluxioRuntime: apply -> Bound", f"{phases.seconds('cifar10', 'Bound', 60):.2f} s")
        found = get("alluxioruntime", "cifar10", namespace)
        assert found is not None
        assert found["status"]["masterPhase"] == "Ready"
        assert found["status"]["workerPhase"] == "PartialReady"
        start(namespace, "reader", "cifar10", "n2")
        assert sorted(in_pod(namespace, "reader", "ls", "/data").split()) == sorted(MOUNTS)
        assert sums(namespace, "reader") == origin.sums

        kubectl("label", "node", "n2", "e2e/gpu=v100", "--overwrite")

        def is_ready() -> bool:
            status = (get("alluxioruntime", "cifar10", namespace) or {}).get("status", {})
            return bool(status.get("workerPhase") == "Ready")

        wait("second worker", is_ready, 60)
        wait(
            "doubled capacity",
            lambda: (get("dataset", "cifar10", namespace) or {})["status"]["cacheStates"]["cacheCapacity"] == "2.50GiB",
            30,
        )
    finally:
        kubectl("label", "node", "n1", "n2", "e2e/gpu-")
