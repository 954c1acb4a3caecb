"""Which messages are refused before anything happens, and with which words."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi.requests import RequestRules
from csi.values import AccessMode, CleanPolicy
from datamodel.errors import HeadraceError, Precondition, UserError
from protos import csi_pb2
from tests.csi.scene import KEY, LABEL, ROOT, TARGET, VOLUME, capability, context, publish_message, stage_message

RULES = RequestRules(ROOT, ("/var/lib/kubelet/pods",))
PODS = "/var/lib/kubelet/pods"


def test_stage_message_becomes_a_request_for_its_runtime() -> None:
    request = RULES.stage(stage_message())

    assert request.source.key == KEY
    assert request.source.label_key == LABEL
    assert request.source.clean_policy is CleanPolicy.ON_RUNTIME_DELETED
    assert request.secrets == {"token": "a-token"}


def test_secrets_do_not_show_in_the_repr_of_a_request() -> None:
    assert "a-token" not in repr(RULES.stage(stage_message()))


def test_fluids_own_name_of_the_fuse_folder_is_understood() -> None:
    message = stage_message(volume_context=context(fluid_path=f"{ROOT}/{KEY}/cache-fuse"))

    assert RULES.stage(message).source.key == KEY


def test_label_key_follows_from_the_names_where_the_controller_gave_none() -> None:
    message = stage_message(volume_context=context(mount_pod_node_selector_key=""))

    assert RULES.stage(message).source.label_key == LABEL


@pytest.mark.parametrize(
    ("mode", "readonly", "flags", "expected"),
    [
        (AccessMode.MULTI_NODE_READER_ONLY, False, [], True),
        (AccessMode.SINGLE_NODE_READER_ONLY, False, [], True),
        (AccessMode.MULTI_NODE_MULTI_WRITER, False, [], False),
        (AccessMode.MULTI_NODE_MULTI_WRITER, True, [], True),
        (AccessMode.MULTI_NODE_MULTI_WRITER, False, ["ro"], True),
    ],
)
def test_mode_readonly_and_flags_each_make_a_publish_read_only(
    mode: AccessMode, readonly: bool, flags: list[str], expected: bool
) -> None:
    message = publish_message(volume_capability=capability(mode, mount_flags=flags), readonly=readonly)

    assert RULES.publish(message).read_only is expected


def test_noexec_is_asked_of_the_bind() -> None:
    assert RULES.publish(publish_message(volume_capability=capability(mount_flags=["noexec"]))).no_exec


def test_attributes_of_kubelet_and_sidecars_are_let_through() -> None:
    message = stage_message(volume_context={**context(), "storage.kubernetes.io/csiProvisionerIdentity": "x"})

    assert RULES.stage(message).source.key == KEY


BAD_CAPABILITIES: list[tuple[Any, str]] = [
    (None, "volume_capability: is missing"),
    (csi_pb2.VolumeCapability(), "access_type is unset"),
    (csi_pb2.VolumeCapability(block=csi_pb2.VolumeCapability.BlockVolume()), "access_type block"),
    (csi_pb2.VolumeCapability(mount=csi_pb2.VolumeCapability.MountVolume()), "access_mode 0"),
    (
        csi_pb2.VolumeCapability(
            mount=csi_pb2.VolumeCapability.MountVolume(),
            access_mode=csi_pb2.VolumeCapability.AccessMode(mode=99),  # type: ignore[arg-type]  # on purpose
        ),
        "access_mode 99",
    ),
    (capability(fs_type="ext4"), "fs_type"),
    (capability(fs_type="f" * 129), "longer than 128"),
    (capability(volume_mount_group="1000"), "volume_mount_group"),
    (capability(mount_flags=["exec"]), "mount_flags: 'exec' is not allowed"),
    (capability(mount_flags=["fd=3"]), "mount_flags: 'fd' is not allowed"),
    (capability(mount_flags=["ro,suid"]), "mount_flags"),
    (capability(mount_flags=["ro\nsuid"]), "mount_flags"),
    (capability(mount_flags=["ro"] * 3000), "4096 bytes"),
]


@pytest.mark.parametrize(("bad", "words"), BAD_CAPABILITIES)
def test_bad_capability_is_refused_by_stage_and_publish(bad: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        RULES.stage(stage_message(volume_capability=bad))
    with pytest.raises(UserError, match=words):
        RULES.publish(publish_message(volume_capability=bad))


@pytest.mark.parametrize(
    "volume", ["", "v" * 129, "ü" * 65, "a/b", "..", ".", "nul\x00", "line\nfeed", "delete\x7f"], ids=ascii
)
def test_bad_volume_id_is_refused_by_every_call(volume: str) -> None:
    refusals = (
        lambda: RULES.stage(stage_message(volume_id=volume)),
        lambda: RULES.unstage(csi_pb2.NodeUnstageVolumeRequest(volume_id=volume, staging_target_path="/s")),
        lambda: RULES.publish(publish_message(volume_id=volume)),
        lambda: RULES.unpublish(csi_pb2.NodeUnpublishVolumeRequest(volume_id=volume, target_path=TARGET)),
        lambda: RULES.statistics(csi_pb2.NodeGetVolumeStatsRequest(volume_id=volume, volume_path=TARGET)),
    )
    for refusal in refusals:
        with pytest.raises(UserError, match="volume_id"):
            refusal()


BAD_PATHS = [
    "relative",
    "/",
    "//x",
    f"{PODS}/../plugins/x",
    f"{PODS}/./x",
    f"{PODS}/x/",
    f"{PODS}//x",
    f"{PODS}/nul\x00",
    f"{PODS}/line\nfeed",
    f"{PODS}/{'n' * 256}",
    PODS + "/a" * 2100,
]


@pytest.mark.parametrize("path", BAD_PATHS, ids=lambda path: ascii(path[:30]))
def test_bad_path_is_refused_wherever_it_stands(path: str) -> None:
    with pytest.raises(UserError, match="staging_target_path"):
        RULES.stage(stage_message(staging_target_path=path))
    with pytest.raises(UserError, match="target_path"):
        RULES.publish(publish_message(target_path=path))
    with pytest.raises(UserError, match="staging_target_path"):
        RULES.publish(publish_message(staging_target_path=path))
    with pytest.raises(UserError, match="target_path"):
        RULES.unpublish(csi_pb2.NodeUnpublishVolumeRequest(volume_id=VOLUME, target_path=path))


@pytest.mark.parametrize("path", ["/etc", PODS, f"{PODS}-else/x", "/var/lib/kubelet/plugins/x"])
def test_target_outside_the_trusted_folders_is_refused(path: str) -> None:
    with pytest.raises(UserError, match="outside the trusted folders"):
        RULES.publish(publish_message(target_path=path))
    with pytest.raises(UserError, match="outside the trusted folders"):
        RULES.unpublish(csi_pb2.NodeUnpublishVolumeRequest(volume_id=VOLUME, target_path=path))


BAD_CONTEXTS: list[tuple[dict[str, str], str]] = [
    ({}, "fluid_path is missing"),
    (context(fluid_path="/etc/cache/default/demo/fuse"), "fluid_path"),
    (context(fluid_path=f"{ROOT}/cache/default/../demo/fuse"), "fluid_path"),
    (context(fluid_path=f"{ROOT}/cache/../demo/fuse"), "DNS-1123"),
    (context(fluid_path=f"{ROOT}/cache/default/demo"), "fluid_path"),
    (context(fluid_path=f"{ROOT}/cache/default/de\x00mo/fuse"), "DNS-1123"),
    (context(runtime_name=""), "runtime_name"),
    (context(runtime_name="other"), "runtime_name 'other' does not belong"),
    (context(runtime_namespace="other"), "runtime_namespace 'other' does not belong"),
    (context(fluid_sub_path="../.."), "fluid_sub_path"),
    (context(fluid_sub_path="/etc"), "fluid_sub_path"),
    (context(fluid_sub_path="a//b"), "fluid_sub_path"),
    (context(fluid_sub_path="a/./b"), "fluid_sub_path"),
    (context(fluid_sub_path="nul\x00"), "control character"),
    (context(mount_pod_node_selector_key="node-role.kubernetes.io/master"), "mount_pod_node_selector_key"),
    (context(mount_pod_node_selector_key="fluid.io/s-default-demo"), "mount_pod_node_selector_key"),
    (context(mount_pod_node_selector_key="fluid.io/f-" + "a" * 62), "mount_pod_node_selector_key"),
    (context(mount_pod_node_selector_key="fluid.io/f-A"), "mount_pod_node_selector_key"),
    (context(clean_policy="Never"), "clean_policy 'Never' is not one of OnRuntimeDeleted"),
    (context(fluid_pth="typo"), "unknown key 'fluid_pth'"),
    (context(efc_sessmgr_workdir="w" * 4000), "at most 4096"),
    ({**context(), **{f"x/{number}": "y" for number in range(10_000)}}, "at most 4096"),
]


@pytest.mark.parametrize(("attributes", "words"), BAD_CONTEXTS, ids=[words for _, words in BAD_CONTEXTS])
def test_bad_volume_context_is_refused_by_stage_and_publish(attributes: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        RULES.stage(stage_message(volume_context=attributes))
    with pytest.raises(UserError, match=words):
        RULES.publish(publish_message(volume_context=attributes))


@pytest.mark.parametrize("secrets", [{"bad key": "hidden"}, {"": "hidden"}, {"token": "hidden" * 1000}])
def test_bad_secrets_are_refused_without_showing_them(secrets: dict[str, str]) -> None:
    with pytest.raises(UserError, match="secrets") as caught:
        RULES.stage(stage_message(secrets=secrets))

    assert "hidden" not in str(caught.value)


def test_value_of_a_refused_mount_flag_is_not_shown() -> None:
    with pytest.raises(UserError) as caught:
        RULES.stage(stage_message(volume_capability=capability(mount_flags=["password=hidden"])))

    assert "hidden" not in str(caught.value)


def test_publish_without_staging_path_is_a_failed_precondition() -> None:
    with pytest.raises(Precondition):
        RULES.publish(publish_message(staging_target_path=""))


@pytest.mark.parametrize(
    ("changes", "winner"),
    [
        ({"volume_id": "", "target_path": "", "volume_capability": None}, "volume_id"),
        ({"target_path": "", "volume_capability": None}, "target_path"),
        ({"volume_capability": None, "target_path": "relative"}, "volume_capability"),
        ({"target_path": "relative", "staging_target_path": ""}, "target_path"),
        ({"staging_target_path": "", "volume_context": {}}, "staging_target_path"),
    ],
)
def test_of_several_mistakes_the_first_in_order_is_reported(changes: dict[str, Any], winner: str) -> None:
    with pytest.raises(HeadraceError, match=f"^{winner}"):
        RULES.publish(publish_message(**changes))


def test_statistics_leave_the_form_of_the_path_to_the_lookup() -> None:
    message = csi_pb2.NodeGetVolumeStatsRequest(volume_id=VOLUME, volume_path="some/path")

    assert RULES.statistics(message).path == "some/path"


_TEXT = st.text(max_size=40) | st.sampled_from(["/", "..", f"{PODS}/x", f"{ROOT}/{KEY}/fuse", LABEL, "a" * 5000])


@given(_TEXT, _TEXT, _TEXT, st.dictionaries(_TEXT, _TEXT, max_size=4), st.dictionaries(_TEXT, _TEXT, max_size=2))
def test_any_text_is_accepted_or_refused_with_words_of_bounded_length(
    volume: str, path: str, flag: str, attributes: dict[str, str], secrets: dict[str, str]
) -> None:
    message = publish_message(
        volume_id=volume or VOLUME,
        target_path=path,
        volume_capability=capability(mount_flags=[flag] if flag else []),
        volume_context={**context(), **attributes},
        secrets=secrets,
    )

    request, words = None, ""
    try:
        request = RULES.publish(message)
    except HeadraceError as error:
        words = str(error)

    if request is None:
        assert 0 < len(words) < 12_000
    else:
        assert request.target.startswith(f"{PODS}/")
        assert ".." not in request.target.split("/")
        assert request.source.key == KEY
