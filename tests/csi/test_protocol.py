"""The plugin on its real socket, spoken to with real gRPC."""

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY

from protos import csi_pb2
from tests.csi.plugin_scene import CALL_S, PluginScene, refusal
from tests.csi.scene import (
    KEY,
    LABEL,
    OTHER_TARGET,
    STAGING,
    TARGET,
    VOLUME,
    publish_message,
    stage_message,
)


def test_identity_tells_name_version_and_no_controller(scene: PluginScene) -> None:
    info = scene.identity.GetPluginInfo(csi_pb2.GetPluginInfoRequest(), timeout=CALL_S)
    offered = scene.identity.GetPluginCapabilities(csi_pb2.GetPluginCapabilitiesRequest(), timeout=CALL_S)

    assert (info.name, info.vendor_version) == ("fuse.csi.fluid.io", "1.2.3")
    assert not offered.capabilities


def test_probe_is_ready_while_the_broker_answers(scene: PluginScene) -> None:
    assert scene.identity.Probe(csi_pb2.ProbeRequest(), timeout=CALL_S).ready.value

    scene.broker.is_away = True

    assert not scene.identity.Probe(csi_pb2.ProbeRequest(), timeout=CALL_S).ready.value


def test_node_tells_its_name_and_four_capabilities(scene: PluginScene) -> None:
    info = scene.node.NodeGetInfo(csi_pb2.NodeGetInfoRequest(), timeout=CALL_S)
    offered = scene.node.NodeGetCapabilities(csi_pb2.NodeGetCapabilitiesRequest(), timeout=CALL_S)

    assert info.node_id == "n1"
    assert [item.rpc.type for item in offered.capabilities] == [1, 2, 4, 5]


def test_volume_goes_through_its_whole_life(scene: PluginScene) -> None:
    node = scene.node
    node.NodeStageVolume(stage_message(), timeout=CALL_S)
    node.NodePublishVolume(publish_message(), timeout=CALL_S)
    assert scene.labels.present() == {LABEL}
    assert scene.broker.bound(KEY) == {TARGET: ("", True, False)}

    stats = node.NodeGetVolumeStats(
        csi_pb2.NodeGetVolumeStatsRequest(volume_id=VOLUME, volume_path=TARGET), timeout=CALL_S
    )
    assert [(usage.unit, usage.total, usage.used, usage.available) for usage in stats.usage] == [
        (csi_pb2.VolumeUsage.BYTES, 100, 40, 60),
        (csi_pb2.VolumeUsage.INODES, 0, 0, 0),
    ]
    assert not stats.volume_condition.abnormal
    assert stats.volume_condition.message

    node.NodeUnpublishVolume(csi_pb2.NodeUnpublishVolumeRequest(volume_id=VOLUME, target_path=TARGET), timeout=CALL_S)
    node.NodeUnstageVolume(
        csi_pb2.NodeUnstageVolumeRequest(volume_id=VOLUME, staging_target_path=STAGING), timeout=CALL_S
    )
    assert scene.broker.bound(KEY) == {}
    assert scene.broker.mounted() == {KEY}


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda s: s.node.NodePublishVolume(publish_message(volume_id="")), "INVALID_ARGUMENT"),
        (lambda s: s.node.NodePublishVolume(publish_message()), "FAILED_PRECONDITION"),
        (lambda s: s.node.NodeStageVolume(stage_message(secrets={})), "INVALID_ARGUMENT"),
        (lambda s: s.node.NodeExpandVolume(csi_pb2.NodeExpandVolumeRequest()), "UNIMPLEMENTED"),
        (
            lambda s: s.node.NodeGetVolumeStats(
                csi_pb2.NodeGetVolumeStatsRequest(volume_id="x", volume_path="some/path")
            ),
            "NOT_FOUND",
        ),
    ],
)
def test_refusals_have_a_code_and_words(scene: PluginScene, call: Callable[[PluginScene], object], code: str) -> None:
    given, words = refusal(lambda: call(scene))

    assert given == code
    assert words


def test_broker_that_is_away_is_unavailable(scene: PluginScene) -> None:
    scene.broker.is_away = True

    assert refusal(lambda: scene.node.NodeStageVolume(stage_message()))[0] == "UNAVAILABLE"


def test_mount_that_nobody_serves_is_deadline_exceeded_with_our_words(scene: PluginScene) -> None:
    scene.broker.is_serving_at_once = False
    scene.node.NodeStageVolume(stage_message(), timeout=CALL_S)

    code, words = refusal(lambda: scene.node.NodePublishVolume(publish_message(), timeout=CALL_S))

    assert code == "DEADLINE_EXCEEDED"
    assert "kubectl get pods" in words


def test_error_that_nobody_expected_is_internal_and_tells_nothing(scene: PluginScene) -> None:
    def explode(*_: object, **__: object) -> None:
        raise RuntimeError("inner details")

    scene.broker.mount = explode  # type: ignore[method-assign]

    code, words = refusal(lambda: scene.node.NodeStageVolume(stage_message()))

    assert code == "INTERNAL"
    assert "inner" not in words


def test_of_two_publishes_at_once_one_is_told_to_come_back(scene: PluginScene) -> None:
    scene.node.NodeStageVolume(stage_message(), timeout=CALL_S)
    with scene.broker.binds_held() as gate:
        first = scene.node.NodePublishVolume.future(publish_message(), timeout=CALL_S)
        assert scene.broker.bind_entered.wait(CALL_S)

        second = refusal(lambda: scene.node.NodePublishVolume(publish_message(), timeout=CALL_S))

        gate.set()
        first.result(CALL_S)
    assert second[0] == "ABORTED"
    scene.node.NodePublishVolume(publish_message(), timeout=CALL_S)


def test_two_pods_of_one_volume_are_published_side_by_side(scene: PluginScene) -> None:
    scene.node.NodeStageVolume(stage_message(), timeout=CALL_S)
    with scene.broker.binds_held() as gate:
        calls = [
            scene.node.NodePublishVolume.future(publish_message(target_path=target), timeout=CALL_S)
            for target in (TARGET, OTHER_TARGET)
        ]
        gate.set()
        for call in calls:
            call.result(CALL_S)

    assert scene.broker.bound(KEY).keys() == {TARGET, OTHER_TARGET}


def test_identity_and_unpublish_never_wait_behind_publishes(scene: PluginScene) -> None:
    scene.node.NodeStageVolume(stage_message(), timeout=CALL_S)
    targets = [TARGET.replace("/1/", f"/{number}/") for number in range(60)]
    with scene.broker.binds_held() as gate, ThreadPoolExecutor(60) as pool:
        answered = threading.Semaphore(0)

        def publish(target: str) -> str:
            try:
                scene.node.NodePublishVolume(publish_message(target_path=target), timeout=CALL_S)
            except grpc.RpcError as error:
                code: str = error.code().name
                answered.release()
                return code
            return "OK"

        calls = [pool.submit(publish, target) for target in targets]
        for _ in range(12):  # 48 slots: the rest is told to come back
            assert answered.acquire(timeout=CALL_S)

        assert scene.identity.Probe(csi_pb2.ProbeRequest(), timeout=CALL_S).ready.value
        assert scene.plugin.problem() == ""

        gate.set()
        results = [call.result(CALL_S) for call in calls]
    assert sorted(set(results)) == ["ABORTED", "OK"]
    assert results.count("OK") == 48


def test_message_over_the_limit_does_not_hurt_the_server(scene: PluginScene) -> None:
    code, _ = refusal(lambda: scene.node.NodeStageVolume(stage_message(volume_id="v" * (2 << 20)), timeout=CALL_S))

    assert code == "RESOURCE_EXHAUSTED"
    assert scene.identity.Probe(csi_pb2.ProbeRequest(), timeout=CALL_S).ready.value


def test_garbage_on_the_socket_does_not_hurt_the_server(scene: PluginScene) -> None:
    for garbage in (
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00" * 4096,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 999,
    ):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(scene.socket))
            peer.sendall(garbage)

    assert scene.identity.Probe(csi_pb2.ProbeRequest(), timeout=CALL_S).ready.value


def test_bytes_that_are_no_message_are_refused(scene: PluginScene) -> None:
    call: Callable[..., object] = scene.channels[0].unary_unary("/csi.v1.Node/NodeStageVolume")

    assert refusal(lambda: call(b"\x0a\x04\xff\xff\xff\xff", timeout=CALL_S))[0] == "INTERNAL"
    assert scene.plugin.problem() == ""


def test_calls_are_measured_by_name_and_code(scene: PluginScene) -> None:
    labels = {"rpc": "NodeUnstageVolume", "code": "INVALID_ARGUMENT"}
    before = REGISTRY.get_sample_value("fluid_csi_rpc_seconds_count", labels) or 0

    refusal(lambda: scene.node.NodeUnstageVolume(csi_pb2.NodeUnstageVolumeRequest(), timeout=CALL_S))

    assert REGISTRY.get_sample_value("fluid_csi_rpc_seconds_count", labels) == before + 1


def test_deleted_runtime_leaves_the_node_when_its_last_volume_is_unstaged(scene: PluginScene) -> None:
    unmounted = threading.Event()
    unmount = scene.broker.unmount

    def note(*arguments: Any) -> None:
        unmount(*arguments)
        unmounted.set()

    scene.broker.unmount = note  # type: ignore[assignment]  # the same arguments
    scene.node.NodeStageVolume(stage_message(), timeout=CALL_S)
    scene.labels.remove(LABEL)

    scene.node.NodeUnstageVolume(
        csi_pb2.NodeUnstageVolumeRequest(volume_id=VOLUME, staging_target_path=STAGING), timeout=CALL_S
    )

    assert unmounted.wait(CALL_S)
    assert scene.broker.mounted() == set()
