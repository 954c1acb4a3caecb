"""Stage, publish and their opposites on plain values: idempotence, arbitration, and parts that are away."""

from typing import Any

import pytest

from csi.deadline import Deadline
from csi.values import AccessMode, Capability, StatisticsRequest, VolumeSource
from datamodel.errors import (
    AlreadyDifferent,
    Conflict,
    DeadlineExceeded,
    NotFound,
    PermissionRefused,
    Precondition,
    Unavailable,
    UserError,
)
from datamodel.names import RuntimeKey
from tests.csi.scene import (
    KEY,
    LABEL,
    OTHER_TARGET,
    STAGING,
    TARGET,
    VOLUME,
    Node,
    publish_request,
    stage_request,
)


def test_stage_mounts_before_it_calls_the_fuse_pod(node: Node) -> None:
    node.broker.is_away = True
    with pytest.raises(Unavailable):
        node.stage()
    assert node.labels.present() == frozenset()

    node.broker.is_away = False
    node.stage()

    assert node.broker.mounted() == {KEY}
    assert node.labels.present() == {LABEL}


def test_stage_again_restores_what_was_lost(node: Node) -> None:
    node.stage()
    node.labels.remove(LABEL)
    node.broker.restart()

    node.stage()

    assert node.broker.mounted() == {KEY}
    assert node.labels.present() == {LABEL}


def test_stage_with_new_secrets_is_the_same_stage(node: Node) -> None:
    node.stage()
    node.broker.serve(KEY, served=False)

    node.stage(stage_request(secrets={"token": "rotated"}))


@pytest.mark.parametrize(
    "changes",
    [
        {"capability": Capability(AccessMode.MULTI_NODE_MULTI_WRITER)},
        {"capability": Capability(AccessMode.MULTI_NODE_READER_ONLY, mount_flags=("noexec",))},
        {"staging_path": "/var/lib/kubelet/elsewhere"},
        {"source": VolumeSource(RuntimeKey("alluxio", "default", "demo"), LABEL)},
    ],
)
def test_stage_differently_is_refused_until_unstaged(node: Node, changes: dict[str, Any]) -> None:
    node.stage()

    with pytest.raises(AlreadyDifferent):
        node.stage(stage_request(**changes))

    node.unstage()
    node.stage(stage_request(**changes))


def test_stage_without_a_token_names_the_secret(node: Node) -> None:
    with pytest.raises(UserError, match="demo-headrace-token of namespace default"):
        node.stage(stage_request(secrets={}))

    assert node.records.all() == []


def test_stage_that_the_broker_refuses_for_good_leaves_nothing_behind(node: Node) -> None:
    node.broker.mount(KEY, "somebody else's", daemon_uid=0, deadline_s=1)

    with pytest.raises(PermissionRefused, match="another token"):
        node.stage()

    assert node.records.of_volume(VOLUME) is None
    assert node.wakes == 1


def test_publish_before_stage_and_after_unstage_is_a_failed_precondition(node: Node) -> None:
    with pytest.raises(Precondition):
        node.publish()
    node.stage()
    node.unstage()

    with pytest.raises(Precondition):
        node.publish()


def test_publish_from_another_staging_path_is_a_failed_precondition(node: Node) -> None:
    node.stage()

    with pytest.raises(Precondition):
        node.publish(publish_request(staging_path="/var/lib/kubelet/elsewhere"))


def test_publish_binds_the_sub_path_as_asked(node: Node) -> None:
    node.stage()

    node.publish(publish_request(source=VolumeSource(KEY, LABEL, "train"), no_exec=True))

    assert node.broker.bound(KEY) == {TARGET: ("train", True, True)}


def test_publish_again_is_fine_also_after_a_restart_of_the_plugin(node: Node) -> None:
    node.stage()
    node.publish()
    node.start()

    node.publish()

    assert node.broker.bound(KEY).keys() == {TARGET}


@pytest.mark.parametrize(
    "changes",
    [
        {"read_only": False},
        {"no_exec": True},
        {"source": VolumeSource(KEY, LABEL, "train")},
        {"capability": Capability(AccessMode.MULTI_NODE_MULTI_WRITER)},
    ],
)
def test_publish_differently_at_the_same_target_is_refused(node: Node, changes: dict[str, Any]) -> None:
    node.stage()
    node.publish()

    with pytest.raises(AlreadyDifferent):
        node.publish(publish_request(**changes))


def test_publish_differently_is_fine_once_the_target_is_unmounted(node: Node) -> None:
    node.stage()
    node.publish()
    node.broker.unbind(TARGET, 1)

    node.publish(publish_request(read_only=False))

    assert node.broker.bound(KEY)[TARGET] == ("", False, False)


@pytest.mark.parametrize("mode", [mode for mode in AccessMode if mode is not AccessMode.SINGLE_NODE_SINGLE_WRITER])
def test_modes_of_many_targets_publish_to_two_pods(node: Node, mode: AccessMode) -> None:
    node.stage(stage_request(mode))
    node.publish(publish_request(mode))

    node.publish(publish_request(mode, target=OTHER_TARGET))

    assert node.broker.bound(KEY).keys() == {TARGET, OTHER_TARGET}


def test_single_writer_has_one_target_at_a_time(node: Node) -> None:
    mode = AccessMode.SINGLE_NODE_SINGLE_WRITER
    node.stage(stage_request(mode))
    node.publish(publish_request(mode))

    with pytest.raises(Precondition):
        node.publish(publish_request(mode, target=OTHER_TARGET))

    node.unpublish()
    node.publish(publish_request(mode, target=OTHER_TARGET))


def test_publish_that_nobody_serves_says_which_pod_to_look_at(node: Node) -> None:
    node.broker.is_serving_at_once = False
    node.stage()

    with pytest.raises(DeadlineExceeded) as caught:
        node.publish()

    assert "kubectl get pods -n default -l cacheruntime.fluid.io/component-name=demo-client" in str(caught.value)
    assert "spec.nodeName=n1" in str(caught.value)
    assert node.broker.bound(KEY) == {}


def test_publish_puts_a_lost_label_back(node: Node) -> None:
    node.stage()
    node.labels.remove(LABEL)

    node.publish()

    assert node.labels.present() == {LABEL}


def test_publish_needs_no_label_change_while_all_is_well(node: Node) -> None:
    node.stage()
    before = (node.folder / "labels.json").stat()

    node.publish()

    assert (node.folder / "labels.json").stat().st_mtime_ns == before.st_mtime_ns


def test_publish_heals_a_restarted_broker(node: Node) -> None:
    node.stage()
    node.broker.restart()

    node.publish()

    assert node.broker.bound(KEY).keys() == {TARGET}


def test_publish_with_a_token_heals_a_restarted_node_plugin(node: Node) -> None:
    node.stage()
    node.broker.restart()
    node.start()

    node.publish(publish_request(secrets={"token": "a-token"}))

    assert node.broker.bound(KEY).keys() == {TARGET}


def test_publish_without_a_token_explains_a_restarted_node_plugin(node: Node) -> None:
    node.stage()
    node.broker.restart()
    node.start()

    with pytest.raises(Unavailable, match="restarted"):
        node.publish()


def test_unpublish_and_unstage_of_the_unknown_are_fine(node: Node) -> None:
    node.unpublish()
    node.unstage("never-heard-of")


def test_unpublish_needs_no_record(node: Node) -> None:
    node.stage()
    node.publish()
    for file in (node.folder / "runtimes").iterdir():
        file.unlink()
    node.start()

    node.unpublish()

    assert node.broker.bound(KEY) == {}


def test_unpublish_waits_for_the_broker_to_come_back(node: Node) -> None:
    node.stage()
    node.publish()
    node.broker.is_away = True

    with pytest.raises(Unavailable):
        node.unpublish()


def test_unstage_needs_neither_broker_nor_a_writable_disk(node: Node) -> None:
    node.stage()
    node.broker.is_away = True
    file = node.folder / "runtimes" / "cache.default.demo.json"
    file.unlink()
    file.mkdir()  # a rename over a folder fails, whoever tries

    node.unstage()

    assert node.records.of_volume(VOLUME) is None


def test_unstage_keeps_mount_and_label_by_default(node: Node) -> None:
    node.stage()

    node.unstage()
    node.sweep()

    assert node.broker.mounted() == {KEY}
    assert node.labels.present() == {LABEL}
    assert node.wakes == 1


def test_second_call_for_a_busy_volume_or_target_is_told_to_come_back(node: Node) -> None:
    node.stage()

    with node.locks.held(exclusive=[f"volume {VOLUME}"]), pytest.raises(Conflict):
        node.stage()
    with node.locks.held(exclusive=[f"target {TARGET}"]), pytest.raises(Conflict):
        node.publish()
    with node.locks.held(exclusive=[f"target {TARGET}"]), pytest.raises(Conflict):
        node.unpublish()
    with node.locks.held(exclusive=[f"runtime {KEY}"]), pytest.raises(Conflict):
        node.publish()
    with node.locks.held(shared=[f"volume {VOLUME}"]):
        node.publish()


@pytest.mark.parametrize("path", [TARGET, STAGING])
def test_statistics_are_given_for_target_and_staging_path(node: Node, path: str) -> None:
    node.stage()
    node.publish()

    answer = node.volumes.statistics(StatisticsRequest(VOLUME, path), Deadline(5))

    assert answer.total_bytes == 100


def test_statistics_are_asked_once_in_a_while(node: Node) -> None:
    node.stage()

    for _ in range(5):
        node.volumes.statistics(StatisticsRequest(VOLUME, STAGING), Deadline(5))

    assert node.broker.calls.count(f"statistics {KEY}") == 1


def test_statistics_of_a_mount_that_is_gone_are_abnormal(node: Node) -> None:
    node.stage()
    node.broker.restart()

    answer = node.volumes.statistics(StatisticsRequest(VOLUME, STAGING), Deadline(5))

    assert answer.abnormal
    assert "not mounted" in answer.message


def test_statistics_of_another_path_or_volume_are_not_found(node: Node) -> None:
    node.stage()

    with pytest.raises(NotFound):
        node.volumes.statistics(StatisticsRequest(VOLUME, TARGET), Deadline(5))
    with pytest.raises(NotFound):
        node.volumes.statistics(StatisticsRequest("other", STAGING), Deadline(5))


def test_call_without_time_left_changes_nothing(node: Node) -> None:
    with pytest.raises(DeadlineExceeded):
        node.volumes.stage(stage_request(), Deadline(0))

    assert node.broker.mounted() == set()


@pytest.mark.parametrize(
    ("remaining_s", "expected_s"), [(None, 100.0), (9e18, 100.0), (120.0, 100.0), (50.0, 45.0), (2.0, 1.6)]
)
def test_our_deadline_ends_before_the_clients(remaining_s: float | None, expected_s: float) -> None:
    deadline = Deadline.of_client(remaining_s, clock=lambda: 0.0)

    assert deadline.left_s() == pytest.approx(expected_s)
