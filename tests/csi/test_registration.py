"""How kubelet finds the plugin, and how its sockets come and go."""

import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from datamodel.errors import Unavailable, UserError
from protos import csi_pb2, pluginregistration_pb2
from tests.csi.plugin_scene import CALL_S, PluginScene, health
from tests.csi.scene import KEY, TARGET, publish_message, stage_message


def test_kubelet_learns_who_we_are_and_makes_us_ready(scene_with_health: PluginScene) -> None:
    scene = scene_with_health
    info = scene.registration.GetInfo(pluginregistration_pb2.InfoRequest(), timeout=CALL_S)
    assert (info.type, info.name, list(info.supported_versions)) == ("CSIPlugin", "fuse.csi.fluid.io", ["1.0.0"])
    assert info.endpoint == "/var/lib/kubelet/csi-plugins/fuse.csi.fluid.io/csi.sock"
    assert health(scene, "/readyz") == 503

    scene.registration.NotifyRegistrationStatus(
        pluginregistration_pb2.RegistrationStatus(plugin_registered=True), timeout=CALL_S
    )

    assert health(scene, "/readyz") == 200
    assert not scene.plugin.stop.is_set()


def test_refused_registration_ends_the_plugin_with_an_error(scene: PluginScene) -> None:
    scene.registration.NotifyRegistrationStatus(
        pluginregistration_pb2.RegistrationStatus(plugin_registered=False, error="no"), timeout=CALL_S
    )

    assert scene.plugin.stop.wait(CALL_S)
    assert scene.plugin.exit_code == 1


def test_health_fails_while_the_broker_is_away(scene_with_health: PluginScene) -> None:
    scene = scene_with_health
    assert health(scene, "/healthz") == 200

    scene.broker.is_away = True

    assert health(scene, "/healthz") == 503


def test_sockets_are_ours_alone_and_stand_alone(scene: PluginScene) -> None:
    for path in (scene.socket, scene.registration_socket):
        mode = path.lstat().st_mode
        assert stat.S_ISSOCK(mode)
        assert mode & 0o077 == 0
    assert [path.name for path in scene.registration_socket.parent.iterdir()] == ["fuse.csi.fluid.io-reg.sock"]


def test_end_removes_both_sockets(short_path: Path) -> None:
    scene = PluginScene(short_path)

    scene.close()

    assert not scene.socket.exists()
    assert not scene.registration_socket.exists()


def test_end_lets_a_call_in_flight_finish(short_path: Path) -> None:
    scene = PluginScene(short_path)
    scene.node.NodeStageVolume(stage_message(), timeout=CALL_S)
    with scene.broker.binds_held() as gate:
        call = scene.node.NodePublishVolume.future(publish_message(), timeout=CALL_S)
        assert scene.broker.bind_entered.wait(CALL_S)
        closing = threading.Thread(target=scene.plugin.close)
        closing.start()
        gate.set()
        call.result(CALL_S)
        closing.join(CALL_S)
    for channel in scene.channels:
        channel.close()

    assert scene.broker.bound(KEY).keys() == {TARGET}


def test_second_plugin_on_a_living_socket_refuses_to_start(scene: PluginScene) -> None:
    second = scene.make()

    with pytest.raises(Unavailable, match="another process answers"):
        second.start()
    second.close(grace_s=0)

    assert scene.identity.Probe(csi_pb2.ProbeRequest(), timeout=CALL_S).ready.value


def test_stale_socket_is_replaced_and_a_file_is_not(short_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(short_path / "csi.sock"))
    PluginScene(short_path).close()
    (short_path / "csi.sock").write_text("precious")

    with pytest.raises(UserError, match="something else than a socket"):
        PluginScene(short_path)

    assert (short_path / "csi.sock").read_text() == "precious"


def test_end_leaves_a_successors_socket_alone(short_path: Path) -> None:
    scene = PluginScene(short_path)
    scene.socket.unlink()
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(scene.socket))

        scene.close()

        assert scene.socket.exists()


def test_plugin_started_again_knows_what_is_staged(short_path: Path) -> None:
    first = PluginScene(short_path)
    first.node.NodeStageVolume(stage_message(), timeout=CALL_S)
    first.close()

    second = PluginScene(short_path)
    second.broker.mount(KEY, "a-token", daemon_uid=os.geteuid(), deadline_s=1)
    second.node.NodePublishVolume(publish_message(), timeout=CALL_S)
    second.close()

    assert second.broker.bound(KEY).keys() == {TARGET}
