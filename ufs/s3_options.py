"""From the URL and the options of an S3 source to its file system."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from datamodel.errors import UserError
from ufs.http_socket import Limits
from ufs.objects import ObjectFileSystem
from ufs.options import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, flag, readable_file, seconds
from ufs.s3 import DEFAULT_REGION, S3Bucket, S3Settings
from ufs.s3_signing import Credentials

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_REGION = re.compile(r"[a-z0-9-]+")


def open_s3(url: str, options: Mapping[str, str]) -> ObjectFileSystem:
    """The source at `s3://BUCKET[/PREFIX]`; *options* are those of `ufs.options.S3`.

    Raises:
        UserError: the address or an option cannot be used.
    """
    bucket, prefix = split_bucket_url(url)
    if not _BUCKET.fullmatch(bucket):
        raise UserError(f"source url: {bucket!r} is no name of a bucket; write s3://BUCKET/PREFIX")
    region = options.get("region", "") or DEFAULT_REGION
    if not _REGION.fullmatch(region):
        raise UserError(f"option 'region': {region!r} is no region; Amazon's are like 'eu-central-1'")
    settings = S3Settings(
        endpoint=_endpoint(options),
        region=region,
        credentials=_credentials(options),
        has_path_style=flag(options, "path-style", False) if options.get("path-style") else None,
        ca_file=readable_file(options, "ca-file"),
        limits=Limits(
            connect_timeout_s=seconds(options, "connect-timeout", CONNECT_TIMEOUT_S),
            read_timeout_s=seconds(options, "read-timeout", READ_TIMEOUT_S),
        ),
    )
    return ObjectFileSystem(S3Bucket(bucket, settings), prefix)


def split_bucket_url(url: str) -> tuple[str, str]:
    """Bucket and prefix of *url*, whose letters stand for themselves: nothing is unescaped.

    Raises:
        UserError: it holds credentials.
    """
    bucket, _, prefix = url.partition("://")[2].partition("/")
    if "@" in bucket:
        raise UserError("source url: holds credentials; take what is before the '@' out and give it as options")
    return bucket, prefix


def endpoint_of(options: Mapping[str, str]) -> str:
    """Option `endpoint`, or "".

    Raises:
        UserError: it is no http or https address.
    """
    text = options.get("endpoint", "")
    if not text:
        return ""
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or parts.username is not None or parts.query or parts.fragment:
        shown = text.rpartition("@")[2]
        raise UserError(f"option 'endpoint': {shown!r} is no address; write https://HOST[:PORT]")
    return parts.geturl().rstrip("/")


def _endpoint(options: Mapping[str, str]) -> str:
    endpoint = endpoint_of(options)
    if endpoint.startswith("http:") and not flag(options, "allow-http", True):
        raise UserError(f"option 'endpoint': {endpoint!r} is without TLS, and option 'allow-http' is 'false'")
    return endpoint


def _credentials(options: Mapping[str, str]) -> Credentials | None:
    key, secret = options.get("access-key-id", ""), options.get("secret-access-key", "")
    if flag(options, "anonymous", False):
        if key or secret:
            raise UserError("option 'anonymous': is 'true', but there is an access key as well; leave one out")
        return None
    if not key or not secret:
        missing = "access-key-id" if not key else "secret-access-key"
        raise UserError(f"option {missing!r}: is missing; give it, or 'anonymous' as 'true' for a public bucket")
    for name in ("access-key-id", "secret-access-key", "session-token"):
        if not options.get(name, "").isascii() or not options.get(name, "").isprintable():
            raise UserError(f"option {name!r}: has characters that no key has, perhaps a newline")
    return Credentials(key, secret, options.get("session-token", ""))
