"""Who starts the fuse daemons, and the token they show."""

import os
from pathlib import Path, PurePosixPath

import pytest

from csi.daemons import DaemonSetStarter, LocalStarter
from datamodel.client import ClientConfig, Source, Tier, decode_client_config, encode_client_config
from datamodel.errors import NotFound, UserError
from datamodel.names import RuntimeKey
from tests.csi.scene import KEY


class Started:
    """Daemons that only remember what they were given."""

    def __init__(self, config: ClientConfig, file: Path, socket: PurePosixPath) -> None:
        self.config, self.file, self.socket = config, file, socket
        self.state = "new"

    def start(self) -> None:
        self.state = "running"

    def stop(self) -> None:
        self.state = "stopped"


class Scene:
    def __init__(self, base: Path) -> None:
        self.folder = base / "datasets" / KEY.namespace / KEY.name
        self.folder.mkdir(parents=True)
        self.write()
        self.started: list[Started] = []
        self.starter = LocalStarter(base / "datasets", base / "daemons", "/runtime-mnt", os.geteuid(), self._supervise)

    def write(self, path: str = ".") -> None:
        config = ClientConfig(
            dataset="default/demo",
            sources=(Source(name="files", url="local:///srv/files", path="/"),),
            tiers=(Tier(path=path, quota_bytes=1 << 20),),
        )
        (self.folder / "client.json").write_text(encode_client_config(config))

    def _supervise(self, config: ClientConfig, file: Path, socket: PurePosixPath) -> Started:
        self.started.append(Started(config, file, socket))
        return self.started[-1]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_in_a_cluster_the_token_comes_with_the_secrets() -> None:
    starter = DaemonSetStarter()

    assert starter.token(KEY, {}) == ""
    assert starter.token(KEY, {"token": "t"}) == "t"


def test_token_is_remembered_until_the_runtime_leaves() -> None:
    starter = DaemonSetStarter()
    starter.token(KEY, {"token": "t"})
    assert starter.token(KEY, {}) == "t"

    starter.stop(KEY)

    assert starter.token(KEY, {}) == ""


def test_token_is_made_once_and_kept_for_our_eyes(scene: Scene) -> None:
    token = scene.starter.token(KEY, {})

    assert len(token) >= 32
    assert scene.starter.token(KEY, {}) == token
    assert (scene.folder / "token").stat().st_mode & 0o777 == 0o600


def test_given_token_replaces_the_kept_one(scene: Scene) -> None:
    scene.starter.token(KEY, {})

    assert scene.starter.token(KEY, {"token": "given"}) == "given"
    assert scene.starter.token(KEY, {}) == "given"


def test_daemons_start_once_with_token_file_and_cache_folder_filled_in(scene: Scene) -> None:
    scene.starter.start(KEY)
    scene.starter.start(KEY)

    (daemons,) = scene.started
    assert daemons.state == "running"
    assert daemons.socket == PurePosixPath("/runtime-mnt/cache/default/demo/run/broker.sock")
    assert daemons.config.tiers[0].path == "/runtime-mnt/cache/default/demo/cache"
    assert daemons.config.token_file == str(scene.folder / "token")
    assert decode_client_config(daemons.file.read_bytes()) == daemons.config


def test_absolute_tier_stays_where_it_is(scene: Scene) -> None:
    scene.write("/srv/cache")

    scene.starter.start(KEY)

    assert scene.started[0].config.tiers[0].path == "/srv/cache"


def test_stopped_daemons_leave_no_file_and_may_start_again(scene: Scene) -> None:
    scene.starter.start(KEY)
    scene.starter.stop(KEY)
    scene.starter.stop(KEY)

    assert scene.started[0].state == "stopped"
    assert not scene.started[0].file.exists()

    scene.starter.start(KEY)
    scene.starter.close()

    assert [daemons.state for daemons in scene.started] == ["stopped", "stopped"]


def test_dataset_that_nobody_described_is_not_found(scene: Scene) -> None:
    with pytest.raises(NotFound, match=r"there is no .*absent/client\.json"):
        scene.starter.token(RuntimeKey("cache", "default", "absent"), {})


def test_broken_description_is_the_users_to_mend(scene: Scene) -> None:
    (scene.folder / "client.json").write_text("{}")

    with pytest.raises(UserError, match=r"client\.json"):
        scene.starter.start(KEY)

    assert scene.started == []
