"""When a runtime leaves the node, and that it leaves nothing there."""

import threading

import pytest

from csi.janitor import Action, Situation, decide
from csi.records import RuntimeRecord, StagedVolume
from csi.values import AccessMode, Capability, CleanPolicy
from datamodel.errors import Conflict, Unavailable
from tests.csi.scene import KEY, LABEL, Node, on_demand, stage_request

STAGED = {"v": StagedVolume("/staging", Capability(AccessMode.MULTI_NODE_READER_ONLY))}
DEFAULT, DEMAND, CHANGED = CleanPolicy.ON_RUNTIME_DELETED, CleanPolicy.ON_DEMAND, CleanPolicy.ON_FUSE_CHANGED


@pytest.mark.parametrize(
    ("policy", "staged", "has_label", "is_bound", "lost", "expected"),
    [
        (DEFAULT, {}, False, False, set(), Action.RELEASE),
        (DEFAULT, {}, True, False, set(), Action.KEEP),
        (DEFAULT, {}, False, True, set(), Action.KEEP),
        (DEFAULT, STAGED, False, False, set(), Action.KEEP),
        (DEFAULT, STAGED, False, False, {"v"}, Action.RELEASE),
        (DEFAULT, STAGED, True, False, {"v"}, Action.KEEP),
        (CHANGED, {}, True, False, set(), Action.KEEP),
        (CHANGED, {}, False, False, set(), Action.RELEASE),
        (DEMAND, {}, True, False, set(), Action.RELEASE_WITH_LABEL),
        (DEMAND, {}, False, False, set(), Action.RELEASE),
        (DEMAND, {}, True, True, set(), Action.KEEP),
        (DEMAND, STAGED, True, False, set(), Action.KEEP),
    ],
)
def test_runtime_leaves_when_unused_and_unlabelled_or_on_demand(
    policy: CleanPolicy,
    staged: dict[str, StagedVolume],
    has_label: bool,
    is_bound: bool,
    lost: set[str],
    expected: Action,
) -> None:
    record = RuntimeRecord(str(KEY), LABEL, policy, staged)

    assert decide(Situation(record, has_label, is_bound, frozenset(lost))) is expected


def test_runtime_deleted_after_the_last_pod_leaves_nothing(node: Node) -> None:
    node.stage()
    node.unstage()
    node.labels.remove(LABEL)

    node.sweep()

    assert node.broker.mounted() == set()
    assert node.records.all() == []
    assert list((node.folder / "runtimes").iterdir()) == []


def test_runtime_deleted_while_staged_leaves_after_the_unstage(node: Node) -> None:
    node.stage()
    node.labels.remove(LABEL)
    node.sweep()
    assert node.broker.mounted() == {KEY}

    node.unstage()
    node.sweep()

    assert node.broker.mounted() == set()


def test_runtime_that_a_pod_still_shows_stays_until_unpublished(node: Node) -> None:
    node.stage()
    node.publish()
    node.unstage()
    node.labels.remove(LABEL)
    node.sweep()
    assert node.broker.mounted() == {KEY}

    node.unpublish()
    node.sweep()

    assert node.broker.mounted() == set()


def test_label_gone_while_the_plugin_was_away_is_noticed_at_its_start(node: Node) -> None:
    node.stage()
    node.unstage()
    node.labels.remove(LABEL)
    node.start()

    node.sweep()

    assert node.broker.mounted() == set()


def test_on_demand_removes_label_and_mount_with_the_last_volume(node: Node) -> None:
    node.stage(stage_request(source=on_demand()))
    node.stage(stage_request(source=on_demand(), volume="second"))
    node.unstage()
    node.sweep()
    assert node.broker.mounted() == {KEY}

    node.unstage("second")
    node.sweep()

    assert node.broker.mounted() == set()
    assert node.labels.present() == frozenset()


def test_volume_whose_staging_folder_kubelet_removed_counts_as_unstaged(node: Node) -> None:
    node.stage()
    node.labels.remove(LABEL)
    (node.folder / "plugins").mkdir()  # kubelet's folder can be seen, and ours in it is gone

    node.sweep()

    assert node.broker.mounted() == set()


def test_runtime_that_is_being_staged_is_left_alone(node: Node) -> None:
    node.stage()
    node.unstage()
    node.labels.remove(LABEL)

    with node.locks.held(shared=[f"runtime {KEY}"]), pytest.raises(Conflict):
        node.sweep()

    assert node.broker.mounted() == {KEY}


def test_failed_release_is_tried_again(node: Node) -> None:
    node.stage()
    node.unstage()
    node.labels.remove(LABEL)
    node.broker.is_away = True
    with pytest.raises(Unavailable):
        node.sweep()
    assert len(node.records.all()) == 1

    node.broker.is_away = False
    node.sweep()

    assert node.records.all() == []


def test_woken_janitor_sweeps_and_survives_failures(node: Node) -> None:
    node.stage()
    node.unstage()
    node.labels.remove(LABEL)
    unmounted = threading.Event()
    unmount, attempts = node.broker.unmount, []

    def refuse_once(key: object, deadline_s: float) -> None:
        attempts.append(key)
        if len(attempts) == 1:
            raise Unavailable("not now")
        unmount(KEY, deadline_s)
        unmounted.set()

    node.broker.unmount = refuse_once  # type: ignore[method-assign]
    node.janitor.start()
    try:
        assert unmounted.wait(10)
    finally:
        node.janitor.close()

    assert attempts == [KEY, KEY]
    assert not node.janitor.is_running


def test_publish_in_flight_keeps_the_janitor_out(node: Node) -> None:
    node.stage()
    with node.broker.binds_held() as gate:
        publishing = threading.Thread(target=node.publish)
        publishing.start()
        assert node.broker.bind_entered.wait(10)
        node.labels.remove(LABEL)
        node.records.change(KEY, lambda record: RuntimeRecord(record.key, record.label_key))

        with pytest.raises(Conflict):
            node.sweep()

        gate.set()
        publishing.join()
    assert node.broker.mounted() == {KEY}
