"""From words to a plan."""

import os
from pathlib import Path

import pytest

from datamodel.errors import UserError
from fusemount.local import MountPlan
from headrace.main import command_parser
from headrace.mountplan import plan_of
from tests.headrace.test_manifest import ALLUXIO, DATASET

GIB = 1 << 30


def plan(*words: str, **environment: str) -> MountPlan:
    return plan_of(command_parser("mount").parse_intermixed_args(words), environment)


def test_defaults_are_those_of_the_documentation(tmp_path: Path) -> None:
    found = plan("http://h/", str(tmp_path / "m"))

    (tier,) = found.config.tiers
    assert (tier.quota_bytes, found.memory_bytes) == (20 * GIB, 0)
    assert (found.config.file_mode, found.config.folder_mode) == (0o444, 0o555)
    assert (found.config.profile, found.config.crawl, found.config.listing_ttl_s) == ("auto", True, 300.0)
    assert (found.config.owner_uid, found.config.owner_gid) == (0, 0)
    assert found.log_file == ""


def test_options_may_stand_between_the_words(tmp_path: Path) -> None:
    found = plan("a=http://h/", "--no-crawl", "b=http://i/", "--cache-size", "1GiB", str(tmp_path / "m"))

    assert [source.name for source in found.config.sources] == ["a", "b"]
    assert found.config.crawl is False
    assert found.config.tiers[0].quota_bytes == GIB


def test_modes_and_owner_are_taken_over(tmp_path: Path) -> None:
    found = plan("--file-mode", "0440", "--folder-mode", "750", "--owner", "12:34", "http://h/", str(tmp_path / "m"))

    assert (found.config.file_mode, found.config.folder_mode) == (0o440, 0o750)
    assert (found.config.owner_uid, found.config.owner_gid) == (12, 34)


def test_owner_by_name_has_the_users_group(tmp_path: Path) -> None:
    found = plan("--owner", "root", "http://h/", str(tmp_path / "m"))

    assert (found.config.owner_uid, found.config.owner_gid) == (0, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--file-mode", "rw"), "--file-mode: 'rw' is not a mode"),
        (("--folder-mode", "7777"), "--folder-mode: '7777' is not a mode"),
        (("--owner", "nobody-at-all"), "--owner: 'nobody-at-all' does not exist"),
        (("--owner", "root:nogroup-at-all"), "--owner: group 'nogroup-at-all' does not exist"),
        (("--cache-size", "0"), "--cache-size: '0' leaves no room"),
        (("--memory-size", "some"), "--memory-size: 'some' is not a size"),
        (("--ttl", "-1"), "--ttl: -1 is not a number of seconds"),
        (("--dataset", "x"), "--dataset"),
        (("-f", "x.yaml"), "SOURCE: 'http://h/' beside -f x.yaml"),
    ],
)
def test_wrong_value_names_option_value_and_cure(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(*words, "http://h/", str(tmp_path / "m"))


def test_mount_inside_its_own_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is inside the source"):
        plan(str(tmp_path), str(tmp_path / "m"))


def test_cache_inside_its_own_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()

    with pytest.raises(UserError, match="is inside the source"):
        plan("--cache-dir", str(tmp_path / "data" / "cache"), str(tmp_path / "data"), str(tmp_path / "m"))


def test_manifest_gives_sources_owner_and_tiers(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text(f"{DATASET}\n---\n{ALLUXIO}")

    found = plan("-f", str(tmp_path / "d.yaml"), str(tmp_path / "m"))

    assert found.config.dataset == "science/demo"
    assert [source.path for source in found.config.sources] == ["/spark", "/here"]
    assert (found.config.owner_uid, found.config.owner_gid) == (1000, 1001)
    assert found.memory_bytes == 2 * GIB
    assert [tier.quota_bytes for tier in found.config.tiers] == [10 * GIB, 20 * GIB]


def test_command_line_wins_over_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text(f"{DATASET}\n---\n{ALLUXIO}")
    words = ("--cache-dir", str(tmp_path / "cache"), "--cache-size", "1GiB", "--memory-size", "0", "--owner", "7:8")

    found = plan("-f", str(tmp_path / "d.yaml"), *words, str(tmp_path / "m"))

    assert [(tier.path, tier.quota_bytes) for tier in found.config.tiers] == [(str(tmp_path / "cache"), GIB)]
    assert (found.memory_bytes, found.config.owner_uid) == (0, 7)


def test_option_that_a_cluster_keeps_in_a_secret_has_to_come_from_a_file(tmp_path: Path) -> None:
    secret = "encryptOptions: [{name: password, valueFrom: {secretKeyRef: {name: s, key: k}}}]"
    (tmp_path / "d.yaml").write_text(DATASET.replace("options: {username: me}", secret))
    (tmp_path / "password").write_text("hunter2")
    words = ("-f", str(tmp_path / "d.yaml"), str(tmp_path / "m"))

    with pytest.raises(UserError, match="--option-file spark:password=FILE"):
        plan(*words)
    found = plan(*words, "--option-file", f"spark:password={tmp_path}/password")

    assert "hunter2" in found.option_values.values()
    assert "hunter2" not in repr(found)


def test_secret_of_the_environment_is_in_no_words_of_the_configuration(tmp_path: Path) -> None:
    found = plan("https://h/", str(tmp_path / "m"), HEADRACE_OPTION_BEARER_TOKEN="hunter2")

    assert list(found.option_values.values()) == ["hunter2"]
    assert "hunter2" not in repr(found.config)


def test_mount_in_the_background_logs_to_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    found = plan("--background", "http://h/", str(tmp_path / "m"))

    folder = "/var/log/headrace" if os.geteuid() == 0 else f"{tmp_path}/state/headrace"
    assert found.log_file == f"{folder}/{str(tmp_path).strip('/').replace('/', '-')}-m.log"
