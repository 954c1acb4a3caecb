"""Where the API server is, and who we are."""

from pathlib import Path

import pytest
import yaml

from datamodel.errors import PermissionRefused, UserError
from kube import config


def kubeconfig(path: Path, **user: str) -> str:
    body = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:8001"}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(body))
    return str(path)


def test_kubeconfig_gives_server_and_token(tmp_path: Path) -> None:
    endpoint = config.from_kubeconfig(kubeconfig(tmp_path / "config", token="abc"))

    assert endpoint.url == "http://127.0.0.1:8001"
    assert endpoint.authorization() == "Bearer abc"
    assert endpoint.tls is None


def test_missing_kubeconfig_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent"):
        config.from_kubeconfig(str(tmp_path / "absent"))


def test_outside_a_cluster_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    with pytest.raises(UserError, match="--kubeconfig FILE"):
        config.in_cluster(tmp_path)


def test_rotated_token_is_used_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr(config, "_trust", lambda ca_file: None)
    (tmp_path / "token").write_text("old\n")
    endpoint = config.in_cluster(tmp_path)

    (tmp_path / "token").write_text("new\n")

    assert endpoint.url == "https://[fd00::1]:443"
    assert endpoint.authorization() == "Bearer new"
    (tmp_path / "token").unlink()
    with pytest.raises(PermissionRefused):
        endpoint.authorization()
