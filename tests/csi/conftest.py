"""A fresh node, and a fresh plugin, for each test."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.csi.plugin_scene import PluginScene
from tests.csi.scene import Node


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for sockets, whose paths have to be short; that of a test's own name is not."""
    with tempfile.TemporaryDirectory(prefix="csi-") as folder:
        yield Path(folder)


@pytest.fixture
def scene(short_path: Path) -> Iterator[PluginScene]:
    made = PluginScene(short_path)
    yield made
    made.close()


@pytest.fixture
def scene_with_health(short_path: Path) -> Iterator[PluginScene]:
    made = PluginScene(short_path, health_port=0)
    yield made
    made.close()
