"""Rules for every test: those that need root or a cluster say so with a marker, and skip with a reason elsewhere."""

import ctypes
import os

import pytest

from broker import kernel

_WITHOUT_ROOT = "needs root and /dev/fuse; run scripts/test as root"
_CLONE_NEWNS = 0x00020000
_WITHOUT_CLUSTER = "needs KUBECONFIG; see docs/development.md"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    is_root = os.geteuid() == 0 and os.path.exists("/dev/fuse")
    has_cluster = bool(os.environ.get("KUBECONFIG"))
    for item in items:
        if item.get_closest_marker("root") and not is_root:
            item.add_marker(pytest.mark.skip(reason=_WITHOUT_ROOT))
        if item.get_closest_marker("cluster") and not has_cluster:
            item.add_marker(pytest.mark.skip(reason=_WITHOUT_CLUSTER))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Before the first test, for a thread keeps the mounts of the one that made it, and trio keeps its threads."""
    if os.geteuid() == 0 and any("private_mounts" in getattr(item, "fixturenames", ()) for item in session.items):
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "unshare")
        kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE, "")


@pytest.fixture(scope="session")
def private_mounts() -> None:
    """Mounts of this process and its children are seen by nobody else, and go when they end."""
