"""Every option of every kind of source: its meaning, whether it is a secret, and the other names that it goes by.

Tables and the parsing of values; nothing here opens a source, so the command line can read it without loading one.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from datamodel.errors import UserError

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 20.0
"""Between two pieces of a response, not for the whole of it."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option. *aliases* are what the same thing is called in manifests for other engines."""

    doc: str
    is_secret: bool = False
    aliases: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    """Variables from which `headrace mount` takes it, as the vendor's own tools do; the first one set wins."""


_TIMEOUTS = {
    "connect-timeout": Option(f"seconds to wait for a connection, default {CONNECT_TIMEOUT_S:g}"),
    "read-timeout": Option(
        f"seconds without a byte after which a response counts as stalled, default {READ_TIMEOUT_S:g}"
    ),
}
_CA_FILE = "PEM file with the certificates to trust instead of the system's"

HTTP = {
    "username": Option("user for basic authentication"),
    "password": Option("password for basic authentication", is_secret=True),
    "bearer-token": Option("token sent as `Authorization: Bearer`", is_secret=True),
    "ca-file": Option(_CA_FILE),
    **_TIMEOUTS,
}

S3 = {
    "endpoint": Option(
        "address of the S3 service, e.g. https://minio.example:9000; default Amazon's for the region",
        aliases=("alluxio.underfs.s3.endpoint", "fs.s3a.endpoint", "endpoint-url", "aws-endpoint-url"),
        environment=("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    ),
    "region": Option(
        "region that the bucket is in, default us-east-1",
        aliases=(
            "alluxio.underfs.s3.region",
            "alluxio.underfs.s3.endpoint.region",
            "fs.s3a.endpoint.region",
            "aws-region",
        ),
        environment=("AWS_REGION", "AWS_DEFAULT_REGION"),
    ),
    "access-key-id": Option(
        "name of the access key; with secret-access-key",
        is_secret=True,
        aliases=("aws.accesskeyid", "fs.s3a.access.key", "aws-access-key-id"),
        environment=("AWS_ACCESS_KEY_ID",),
    ),
    "secret-access-key": Option(
        "the access key's secret",
        is_secret=True,
        aliases=("aws.secretkey", "aws.secretaccesskey", "fs.s3a.secret.key", "aws-secret-access-key"),
        environment=("AWS_SECRET_ACCESS_KEY",),
    ),
    "session-token": Option(
        "token that goes with a temporary access key",
        is_secret=True,
        aliases=("aws.sessiontoken", "fs.s3a.session.token", "aws-session-token"),
        environment=("AWS_SESSION_TOKEN",),
    ),
    "anonymous": Option(
        "true: send requests without a signature, for public buckets; default false",
        aliases=("skip-signature", "anon"),
    ),
    "path-style": Option(
        "true: the bucket is part of the path, false: of the host name; default true with an endpoint of one's own "
        "and for names with a dot",
        aliases=("alluxio.underfs.s3.disable.dns.buckets", "fs.s3a.path.style.access"),
    ),
    "allow-http": Option("false: refuse an endpoint without TLS; default true"),
    "ca-file": Option(_CA_FILE, environment=("AWS_CA_BUNDLE",)),
    **_TIMEOUTS,
}

GS = {
    "service-account-file": Option(
        "JSON key file of a service account",
        aliases=("google-service-account", "fs.gcs.credential.path", "google-application-credentials"),
        environment=("GOOGLE_APPLICATION_CREDENTIALS",),
    ),
    "service-account-key": Option("the content of such a file", is_secret=True),
    "anonymous": Option("true: send requests without credentials, for public buckets; default false"),
    "endpoint": Option("address of the service, default https://storage.googleapis.com"),
    "allow-http": Option("true: allow an endpoint without TLS; default false"),
    "ca-file": Option("PEM file with certificates to trust besides the system's"),
    **_TIMEOUTS,
}

AZ = {
    "account-name": Option("the storage account", aliases=("azure-storage-account-name",),
                           environment=("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")),
    "account-key": Option("a key of the account", is_secret=True, aliases=("azure-storage-account-key",),
                          environment=("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY")),
    "sas-token": Option("shared access signature, the text after the '?'", is_secret=True,
                        aliases=("azure-storage-sas-token",), environment=("AZURE_STORAGE_SAS_TOKEN",)),
    "tenant-id": Option("tenant of a service principal; with client-id and client-secret",
                        environment=("AZURE_TENANT_ID",)),
    "client-id": Option("application of a service principal", environment=("AZURE_CLIENT_ID",)),
    "client-secret": Option("secret of a service principal", is_secret=True, environment=("AZURE_CLIENT_SECRET",)),
    "anonymous": Option("true: send requests without credentials, for public containers; default false"),
    "endpoint": Option("address of the blob service, default https://ACCOUNT.blob.core.windows.net"),
    "allow-http": Option("true: allow an endpoint without TLS; default false"),
    "ca-file": Option("PEM file with certificates to trust besides the system's"),
    **_TIMEOUTS,
}  # fmt: skip

_USER = Option("user to log in as; may stand in the URL instead")
_PASSWORD = Option("password of the user", is_secret=True)

FTP = {
    "username": _USER,
    "password": _PASSWORD,
    "tls": Option("true: FTP over TLS; default false"),
    "encoding": Option("of file names, default utf-8"),
    "read-timeout": _TIMEOUTS["read-timeout"],
}
SFTP = {
    "username": _USER,
    "password": _PASSWORD,
    "key-file": Option("private key to log in with"),
    "passphrase": Option("of the private key", is_secret=True),
    "known-hosts-file": Option("keys of hosts to trust; default ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts"),
    "any-host-key": Option("true: trust whatever host answers, which lets others pretend to be it; default false"),
    **_TIMEOUTS,
}
WEBHDFS = {
    "username": _USER,
    "token": Option("delegation token", is_secret=True),
    "tls": Option("true: https; default false"),
    "kerberos": Option("true: log in by Kerberos; default false"),
}
HDFS = {
    "username": _USER,
    "kerberos-ticket": Option("path of a Kerberos ticket cache"),
}
SMB = {"username": _USER, "password": _PASSWORD}
HUGGING_FACE = {
    "token": Option("access token, for private and gated repositories", is_secret=True, environment=("HF_TOKEN",)),
    "endpoint": Option("address of the hub, default https://huggingface.co", environment=("HF_ENDPOINT",)),
}
GITHUB = {
    "username": Option("account that the token is of"),
    "token": Option("personal access token", is_secret=True, environment=("GITHUB_TOKEN",)),
}


def canonical(scheme: str, options: Mapping[str, str], known: Mapping[str, Option]) -> dict[str, str]:
    """*options* of a source of *scheme* under the names of *known*; neither case nor `_` for `-` matters.

    Raises:
        UserError: an option is not known, or given twice by two of its names.
    """
    names = {alias: name for name, option in known.items() for alias in option.aliases}
    found: dict[str, str] = {}
    for name, value in options.items():
        key = name if name in known else names.get(name.lower().replace("_", "-"), name.lower().replace("_", "-"))
        if key not in known:
            supported = ", ".join(sorted(known)) or "none"
            raise UserError(f"option {name!r} is not known for {scheme} sources; supported: {supported}")
        if key in found:
            raise UserError(f"option {key!r}: given twice, once as {name!r}; leave one out")
        found[key] = value
    return found


def seconds(options: Mapping[str, str], name: str, default_s: float) -> float:
    """The time *name*, in seconds.

    Raises:
        UserError: not a number between 0 and 3600.
    """
    text = options.get(name, "")
    try:
        value = float(text) if text else default_s
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        raise UserError(f"option {name!r}: {text!r} is not a number of seconds between 0 and 3600")
    return value


def flag(options: Mapping[str, str], name: str, default: bool) -> bool:
    """The switch *name*.

    Raises:
        UserError: neither true nor false.
    """
    text = options.get(name, "").strip().lower()
    if text in ("", "true", "1", "yes", "false", "0", "no"):
        return text in ("true", "1", "yes") if text else default
    raise UserError(f"option {name!r}: {options[name]!r} is neither 'true' nor 'false'")


def readable_file(options: Mapping[str, str], name: str) -> str | None:
    """The path in option *name*; None where it is not given.

    Raises:
        UserError: nothing there that can be read.
    """
    path = options.get(name)
    if path is not None and not os.access(path, os.R_OK):
        raise UserError(f"option {name!r}: {path!r} cannot be read")
    return path
