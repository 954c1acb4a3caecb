"""Secrets reach neither log, nor error, nor disk."""

import io
import json
import logging
from collections.abc import Callable, Iterator

import grpc
import pytest
import structlog
from google.protobuf.message import Message

from csi.redaction import TOKENS_KEY
from obs import logs
from protos import csi_pb2
from tests.csi.plugin_scene import CALL_S, PluginScene, refusal
from tests.csi.scene import capability, context, publish_message, stage_message

CANARY = "canary-5e1f"


@pytest.fixture
def log_lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Everything that is logged, as it would be written."""
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    logs.configure("debug")
    structlog.configure(cache_logger_on_first_use=False)
    handler = logging.StreamHandler(written)
    logging.getLogger().addHandler(handler)
    yield written
    logging.getLogger().removeHandler(handler)
    structlog.reset_defaults()


def test_no_secret_reaches_the_log_by_any_call(
    log_lines: io.StringIO, scene: PluginScene, capfd: pytest.CaptureFixture[str]
) -> None:
    secrets = {"token": CANARY, "other": CANARY}
    attributes = {**context(), TOKENS_KEY: json.dumps({"": {"token": CANARY}})}
    flagged = capability(mount_flags=[f"password={CANARY}"])
    mount = scene.broker.mount

    def explode(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    messages: list[tuple[Callable[..., object], Message]] = [
        (scene.node.NodeStageVolume, stage_message(secrets=secrets, volume_context=attributes)),
        (scene.node.NodeStageVolume, stage_message(secrets=secrets, volume_context={})),
        (scene.node.NodeStageVolume, stage_message(secrets=secrets, volume_capability=flagged)),
        (scene.node.NodeStageVolume, stage_message(secrets={f"bad key {CANARY}"[:7]: CANARY})),
        (scene.node.NodePublishVolume, publish_message(secrets=secrets, volume_context=attributes)),
        (scene.node.NodePublishVolume, publish_message(secrets=secrets, volume_id="unknown")),
        (scene.node.NodePublishVolume, publish_message(secrets=secrets, volume_capability=flagged)),
        (scene.node.NodeExpandVolume, csi_pb2.NodeExpandVolumeRequest(volume_id="v", secrets=secrets)),
    ]
    answers: list[str] = []
    for is_broken in (False, True):
        scene.broker.mount = explode if is_broken else mount  # type: ignore[method-assign]
        for call, message in messages:
            try:
                call(message, timeout=CALL_S)
            except grpc.RpcError as error:
                answers.append(str(error))

    written = log_lines.getvalue() + "".join(capfd.readouterr())
    assert '"rpc": "NodeStageVolume"' in written
    assert '"event": "rpc.crashed"' in written
    assert "RuntimeError: broken" in written
    assert "***" in written
    assert CANARY not in written
    assert len(answers) > 10
    assert not [answer for answer in answers if CANARY in answer]


def test_log_cannot_be_forged_by_a_field(log_lines: io.StringIO, scene: PluginScene) -> None:
    refusal(lambda: scene.node.NodeStageVolume(stage_message(volume_id='x\n{"event": "forged"}'), timeout=CALL_S))

    assert [line for line in log_lines.getvalue().splitlines() if line.startswith('{"event": "forged"')] == []
    assert "forged" in log_lines.getvalue()


def test_no_secret_is_stored(scene: PluginScene) -> None:
    scene.node.NodeStageVolume(stage_message(secrets={"token": CANARY}), timeout=CALL_S)

    for path in scene.folder.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes()
