"""Each feature falls back by itself where the kernel, the build or the user takes it away, and says so."""

import os
from pathlib import Path

import pytest

from broker.wire import Attached
from fusemount.features import Connected, features_of
from tests.fusemount.mounts import content, mounted, until

ALL = Attached(passthrough=True, no_open=False, resend=True, read_ahead_kib=4096)
SIZE = 300_000


def test_nothing_is_missing_where_everything_is_there() -> None:
    features, reasons = features_of(Connected(shim=True, attached=ALL), "")

    assert reasons == {}
    assert features.passthrough
    assert features.survives_kill
    assert features.cache_directories
    assert (features.read_ahead_kib, features.profile) == (4096, "large-files")


@pytest.mark.parametrize(
    ("connected", "refused", "missing"),
    [
        (Connected(shim=True), "", {"passthrough", "survivesKill", "readAheadKiB", "processes"}),
        (Connected(shim=False, attached=ALL), "", {"passthrough", "processes", "cacheDirectories", "shortCuts"}),
        (Connected(shim=True, attached=Attached(passthrough=False)), "", {"passthrough", "survivesKill"}),
        (Connected(shim=True, attached=ALL), "EPERM", {"passthrough"}),
        (Connected(shim=True, no_open=True, wanted="small-files", attached=ALL), "", {"passthrough"}),
        (Connected(shim=True, wanted="small-files", attached=ALL), "", {"profile"}),
        (Connected(shim=False, wanted="small-files"), "", {
            "passthrough", "survivesKill", "readAheadKiB", "processes", "profile", "cacheDirectories", "shortCuts",
        }),
        (Connected(shim=True, attached=Attached(passthrough=True, resend=True, read_ahead_problem="read-only")), "", {
            "readAheadKiB",
        }),
    ],
)  # fmt: skip
def test_what_is_missing_has_a_reason_and_nothing_else_has(
    connected: Connected, refused: str, missing: set[str]
) -> None:
    features, reasons = features_of(connected, refused)

    assert reasons.keys() == missing
    assert all(reasons.values())
    assert features.passthrough == ("passthrough" not in missing)
    assert features.survives_kill == ("survivesKill" not in missing)


# ---- with a kernel --------------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "d").mkdir(parents=True)
    for number in range(20):
        (folder / "d" / f"{number:02}").write_bytes(content(SIZE + number, number))
    return folder


@pytest.mark.root
@pytest.mark.usefixtures("private_mounts")
@pytest.mark.parametrize(("taken", "missing"), [
    ("shim", {"passthrough", "processes", "cacheDirectories", "shortCuts"}),
    ("passthrough", {"passthrough"}),
])  # fmt: skip
def test_mount_without_a_feature_serves_all_the_same(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str, missing: set[str]
) -> None:
    monkeypatch.setenv("HEADRACE_DISABLE", taken)
    with mounted(tmp_path, "--processes", "1" if taken == "shim" else "2", str(source)) as mount:
        for _ in range(2):
            assert sorted(os.listdir(mount.path / "d")) == [f"{number:02}" for number in range(20)]
            for number in range(20):
                assert (mount.path / "d" / f"{number:02}").read_bytes() == content(SIZE + number, number)
        assert not (mount.path / "d" / "none").exists()
        until(lambda: mount.status()["reasons"].keys() == missing)

        assert mount.status()["features"]["survivesKill"]
        assert mount.status()["features"]["profile"] == "large-files"


@pytest.mark.root
@pytest.mark.usefixtures("private_mounts")
def test_several_processes_without_the_shim_are_one(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_DISABLE", "shim")
    with mounted(tmp_path, "--processes", "2", str(source)) as mount:
        assert (mount.path / "d" / "07").read_bytes() == content(SIZE + 7, 7)

        until(lambda: mount.status()["features"]["processes"] == 1)
        assert "shim" in mount.status()["reasons"]["processes"]
        until(lambda: len(mount.pids("daemon")) == 1)


@pytest.mark.root
@pytest.mark.usefixtures("private_mounts")
def test_cache_that_the_kernel_cannot_read_by_itself_is_served_by_the_daemons(source: Path, tmp_path: Path) -> None:
    lower, upper, work, merged = (tmp_path / name for name in ("lower", "upper", "work", "merged"))
    for folder in (lower, upper, work, merged):
        folder.mkdir()
    _stack(merged, f"lowerdir={lower},upperdir={upper},workdir={work}")
    with mounted(tmp_path, "--cache-dir", str(merged / "cache"), str(source)) as mount:

        def is_refused() -> bool:
            assert (mount.path / "d" / "07").read_bytes() == content(SIZE + 7, 7)
            return "passthrough" in mount.status()["reasons"]

        until(is_refused)
        assert not mount.status()["features"]["passthrough"]
        assert (mount.path / "d" / "08").read_bytes() == content(SIZE + 8, 8)


def _stack(target: Path, options: str) -> None:
    """An overlay on an overlay is as deep as the kernel stacks file systems; passthrough would be one more."""
    from broker import kernel

    kernel.mount("overlay", str(target), "overlay", 0, options)
