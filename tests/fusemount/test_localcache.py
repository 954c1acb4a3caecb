"""Whose a cache folder is."""

import os
from pathlib import Path

import pytest

from datamodel.client import ClientConfig, Source, Tier
from datamodel.errors import Conflict, UserError
from fusemount.localcache import OWNER_NAME, claimed


def config(folder: Path, url: str = "http://h/", path: str = "/") -> ClientConfig:
    source = Source(name="source", url=url, path=path)
    return ClientConfig(dataset="a/b", sources=(source,), tiers=(Tier(path=str(folder), quota_bytes=1),))


def claim(config: ClientConfig, mountpoint: str = "/mnt/a", uid: int | None = None) -> None:
    with claimed(config, Path(mountpoint), os.geteuid() if uid is None else uid):
        """It is ours for this moment."""


def test_folder_is_made_and_can_be_claimed_again(tmp_path: Path) -> None:
    claim(config(tmp_path / "deep" / "cache"))
    claim(config(tmp_path / "deep" / "cache"), "/mnt/b")

    assert (tmp_path / "deep" / "cache").stat().st_mode & 0o777 == 0o700


def test_folder_in_use_is_refused_and_names_its_mount(tmp_path: Path) -> None:
    with (
        claimed(config(tmp_path / "cache"), Path("/mnt/a"), os.geteuid()),
        pytest.raises(Conflict, match=r"'/mnt/a'.*--cache-dir"),
    ):
        claim(config(tmp_path / "cache"), "/mnt/b")


def test_second_folder_that_cannot_be_claimed_frees_the_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    both = ClientConfig(
        dataset="a/b",
        sources=(),
        tiers=(
            Tier(path=str(tmp_path / "one"), quota_bytes=1),
            Tier(path=str(tmp_path / "file" / "two"), quota_bytes=1),
        ),
    )

    with pytest.raises(UserError, match="Not a directory"):
        claim(both)

    claim(config(tmp_path / "one"))


def test_other_source_at_the_same_path_is_refused(tmp_path: Path) -> None:
    claim(config(tmp_path / "cache", "http://h/"))

    with pytest.raises(UserError, match="holds what http://h/ had at '/', not http://i/"):
        claim(config(tmp_path / "cache", "http://i/"))


def test_sources_may_be_added_beside_those_that_are_cached(tmp_path: Path) -> None:
    claim(config(tmp_path / "cache", "http://h/", "/h"))
    claim(config(tmp_path / "cache", "http://i/", "/i"))


def test_file_that_was_half_written_claims_nothing(tmp_path: Path) -> None:
    (tmp_path / OWNER_NAME).write_text('{"mountpoi')

    claim(config(tmp_path))


@pytest.mark.root
def test_cache_follows_the_daemons_user(tmp_path: Path) -> None:
    claim(config(tmp_path / "cache"), uid=0)
    (tmp_path / "cache" / "deep").mkdir()
    (tmp_path / "cache" / "deep" / "block").touch()
    (tmp_path / "cache" / "link").symlink_to(tmp_path)

    claim(config(tmp_path / "cache"), uid=12345)

    assert (tmp_path / "cache").stat().st_uid == 12345
    assert (tmp_path / "cache" / "deep" / "block").stat().st_uid == 12345
    assert tmp_path.stat().st_uid == 0


@pytest.mark.root
def test_folder_that_is_no_cache_keeps_its_owner(tmp_path: Path) -> None:
    (tmp_path / "thesis").touch()

    with pytest.raises(UserError, match="is not empty, and no cache of headrace"):
        claim(config(tmp_path), uid=12345)

    assert tmp_path.stat().st_uid == 0
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]
