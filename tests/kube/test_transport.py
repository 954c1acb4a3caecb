"""What the API server says becomes an error by blame."""

import pytest

from datamodel.errors import Conflict, HeadraceError, NotFound, PermissionRefused, Unavailable, UserError
from kube.config import Endpoint
from kube.errors import Gone, error_of
from kube.resources import CONFIG_MAPS, DATASETS, NODES, PODS
from kube.transport import Transport
from tests.fakes.apiserver import FakeApiServer


def test_paths_follow_group_scope_and_subresource() -> None:
    assert PODS.path() == "/api/v1/pods"
    assert PODS.path("a", "b") == "/api/v1/namespaces/a/pods/b"
    assert NODES.path(name="n1") == "/api/v1/nodes/n1"
    assert DATASETS.path("a", "b", "status") == "/apis/data.fluid.io/v1alpha1/namespaces/a/datasets/b/status"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, UserError),
        (401, PermissionRefused),
        (403, PermissionRefused),
        (404, NotFound),
        (409, Conflict),
        (410, Gone),
        (422, UserError),
        (429, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
def test_status_codes_become_errors_by_blame(status: int, kind: type[HeadraceError]) -> None:
    error = error_of(status, b'{"message": "why"}', {}, "GET /x")

    assert type(error) is kind
    assert "why" in str(error)


def test_retry_after_is_kept() -> None:
    error = error_of(429, b"<html>", {"Retry-After": "7"}, "GET /x")

    assert isinstance(error, Unavailable)
    assert error.retry_after_s == 7.0


def test_create_apply_patch_and_delete_reach_the_server(api: FakeApiServer) -> None:
    transport = api.transport()
    path = CONFIG_MAPS.path("default", "a")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "default"}}

    transport.create(CONFIG_MAPS.path("default"), body)
    transport.apply(path, {**body, "data": {"x": "1", "y": "2"}}, manager="test")
    transport.merge_patch(path, {"data": {"x": None}})

    assert transport.get(path)["data"] == {"y": "2"}
    with pytest.raises(Conflict):
        transport.create(CONFIG_MAPS.path("default"), body)
    transport.delete(path)
    transport.delete(path)
    with pytest.raises(NotFound):
        transport.get(path)


def test_delete_spares_a_successor_of_the_same_name(api: FakeApiServer) -> None:
    api.put(CONFIG_MAPS.path("default"), {"metadata": {"name": "a"}})

    with pytest.raises(Conflict):
        api.transport().delete(CONFIG_MAPS.path("default", "a"), uid="of-the-one-before")

    assert api.get(CONFIG_MAPS.path("default", "a")) is not None


def test_server_that_is_away_is_unavailable() -> None:
    transport = Transport(Endpoint("http://127.0.0.1:1", None, lambda: ""))

    with pytest.raises(Unavailable):
        transport.get("/api/v1/nodes")
