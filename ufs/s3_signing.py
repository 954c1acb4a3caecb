"""Signatures of requests to S3 services: AWS Signature Version 4 in headers, for requests without a body.

Pure functions; the caller passes the time. The format is Amazon's: "Authenticating Requests: Using the Authorization
Header (AWS Signature Version 4)", https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote, urlsplit

from ufs.http_proxy import origin_of

_EMPTY_BODY = hashlib.sha256(b"").hexdigest()
_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key, and the token that goes with a temporary one."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


def canonical_query(parameters: Mapping[str, str]) -> str:
    """*parameters* as a query, in the order and with the escapes that a signature is made over."""
    return "&".join(
        f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(parameters.items())
    )


def signed_headers(
    credentials: Credentials,
    region: str,
    method: str,
    url: str,
    now: datetime,
    extra: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The headers that *method* on *url* needs at *now* (UTC), besides Host; *extra* ones are signed and not returned.

    The path of *url* is escaped once and its query is as `canonical_query` makes it.
    """
    parts = urlsplit(url)
    moment = now.strftime("%Y%m%dT%H%M%SZ")
    added = {"x-amz-content-sha256": _EMPTY_BODY, "x-amz-date": moment}
    if credentials.session_token:
        added["x-amz-security-token"] = credentials.session_token
    headers = {
        "host": origin_of(parts).netloc(),
        **added,
        **{name.lower(): value for name, value in (extra or {}).items()},
    }
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in sorted(headers))
    request = "\n".join((method, parts.path or "/", parts.query, lines, names, _EMPTY_BODY))
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    text = "\n".join((_ALGORITHM, moment, scope, hashlib.sha256(request.encode()).hexdigest()))
    signature = hmac.new(_key(credentials, moment[:8], region), text.encode(), hashlib.sha256).hexdigest()
    credential = f"{credentials.access_key_id}/{scope}"
    return {
        **added,
        "Authorization": f"{_ALGORITHM} Credential={credential},SignedHeaders={names},Signature={signature}",
    }


def _key(credentials: Credentials, day: str, region: str) -> bytes:
    key = f"AWS4{credentials.secret_access_key}".encode()
    for step in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    return key
