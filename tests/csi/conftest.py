"""A fresh node for each test."""

from pathlib import Path

import pytest

from tests.csi.scene import Node


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)
