"""Where the API server is and how to prove who we are: a service account in a pod, or a kubeconfig file.

The in-cluster half is our own, because kubelet rotates the token and every request must carry the current one; the
kubeconfig half is the `kubernetes` package's, imported only when asked for, since it costs 40 MiB and 0.3 s.
"""

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datamodel.errors import PermissionRefused, UserError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class Endpoint:
    """The API server's address, its trust, and the value of the Authorization header ("" where TLS speaks for us)."""

    url: str
    tls: ssl.SSLContext | None
    authorization: Callable[[], str]


def in_cluster(folder: Path = SERVICE_ACCOUNT) -> Endpoint:
    """The endpoint that kubelet gives every pod with a service account.

    Raises:
        UserError: this process runs in no such pod.
    """
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port or not (folder / "token").is_file():
        raise UserError("no service account found; outside a cluster give --kubeconfig FILE")
    shown = f"[{host}]" if ":" in host else host
    return Endpoint(f"https://{shown}:{port}", _trust(str(folder / "ca.crt")), lambda: _bearer(folder / "token"))


def from_kubeconfig(path: str) -> Endpoint:
    """The endpoint of the current context of the kubeconfig file *path*.

    Raises:
        UserError: the file is missing or says nothing usable.
    """
    from kubernetes import client, config
    from kubernetes.config.config_exception import ConfigException

    settings = client.Configuration()
    try:
        config.load_kube_config(config_file=path, client_configuration=settings)  # type: ignore[no-untyped-call]  # the package has no types
    except ConfigException as error:
        raise UserError(f"--kubeconfig: {path}: {error}") from error
    tls = None
    if settings.host.startswith("https:"):
        tls = _trust(settings.ssl_ca_cert)
        if not settings.verify_ssl:
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
        if settings.cert_file:
            tls.load_cert_chain(settings.cert_file, settings.key_file)
    return Endpoint(settings.host, tls, lambda: str(settings.get_api_key_with_prefix("BearerToken") or ""))


def _trust(ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file)
    # RFC 5280 strictness refuses the self-made CAs that many clusters have; the chain is still verified.
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    return context


def _bearer(token: Path) -> str:
    try:
        return f"Bearer {token.read_text().strip()}"
    except OSError as error:
        raise PermissionRefused(f"service account token {token}: {error.strerror}") from error
