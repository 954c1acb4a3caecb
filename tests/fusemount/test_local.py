"""What `headrace mount` checks before it mounts anything."""

import os
from pathlib import Path

import pytest

from datamodel.client import ClientConfig, Tier
from datamodel.errors import PermissionRefused
from fusemount.local import LocalMount, MountPlan


@pytest.mark.root
def test_state_folder_that_somebody_else_made_first_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    monkeypatch.setattr("fusemount.localstate.state_root", lambda: theirs / "headrace")
    config = ClientConfig(dataset="a/b", sources=(), tiers=(Tier(path=str(tmp_path / "cache"), quota_bytes=1),))

    with pytest.raises(PermissionRefused, match="XDG_RUNTIME_DIR"):
        LocalMount(MountPlan(config, tmp_path / "mnt", 0), lambda: None, print).run()

    assert not (tmp_path / "cache").exists()
