"""An S3 bucket over our own HTTP client: signed requests, bodies received straight into the caller's memory.

Every read is conditional on the pinned ETag, and the answer is checked again, for there are services that ignore
If-Match. What a service says in its error document decides who is to blame; of that document only the code is shown.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

from datamodel.errors import (
    Corrupt,
    HeadraceError,
    NotFound,
    PermissionRefused,
    Precondition,
    Unavailable,
    UserError,
    VersionChanged,
)
from ufs import http_version
from ufs.base import Stat
from ufs.http_client import HttpClient
from ufs.http_exchange import Reply
from ufs.http_socket import Limits
from ufs.objects import Key
from ufs.s3_listing import Page, parse_page
from ufs.s3_signing import Credentials, canonical_query, signed_headers

DEFAULT_REGION = "us-east-1"
PAGE_KEYS = 1000
_PAGE_LIMIT_BYTES = 16 << 20
_ERROR_LIMIT_BYTES = 64 << 10
_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9_.-]{1,100})\s*</Code>")
_REGION = re.compile(rb"<Region>\s*([a-z0-9-]{1,40})\s*</Region>")
_BAD_KEY = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired",
            "XAdminUserNotFound")  # fmt: skip
_NO_KEY = ("NoSuchKey", "KeyTooLongError", "InvalidURI", "InvalidObjectName", "XMinioInvalidObjectName",
           "ObjectParentIsFile", "MethodNotAllowed")  # fmt: skip
_LATER = ("SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "ThrottlingException")


@dataclass(frozen=True, slots=True)
class S3Settings:
    """Options of an S3 source, parsed."""

    endpoint: str = ""
    """`http(s)://HOST[:PORT][/PATH]`; empty for Amazon's of *region*."""
    region: str = DEFAULT_REGION
    credentials: Credentials | None = field(default=None, repr=False)
    """None: requests go unsigned."""
    has_path_style: bool | None = None
    """Whether the bucket is part of the path; None: as is usual for the endpoint and the bucket's name."""
    ca_file: str | None = None
    limits: Limits = field(default_factory=Limits)


class S3Bucket:
    """`ufs.objects.Bucket` over the S3 REST API."""

    def __init__(self, bucket: str, settings: S3Settings, clock: Callable[[], datetime] | None = None) -> None:
        """*clock* tells the time that signatures carry, in UTC."""
        self._bucket = bucket
        self._settings = settings
        self._clock = clock or (lambda: datetime.now(UTC))
        self._url = _bucket_url(bucket, settings)
        self._client = HttpClient(self._url, None, settings.limits, settings.ca_file, self._sign)

    def __repr__(self) -> str:
        return f"S3Bucket({self._bucket!r}, {self._settings.endpoint or self._settings.region!r})"

    def show(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"

    def stat(self, key: str) -> Stat:
        with self._client.exchange("HEAD", self._url_of(key)) as reply:
            if reply.status in (400, 403):  # answers to HEAD give no reason; those to a listing do
                self.has_any(key)
            self._check(reply, key)
            return _stat_of(self.show(key), reply)

    def read(self, key: str, version: str, offset: int, into: memoryview) -> int:
        size = http_version.size_of(version)
        if size is None:
            raise VersionChanged(f"{self.show(key)}: {version!r} is no version of an S3 source")
        wanted = into[: max(0, size - offset)]
        if not wanted:
            return 0
        headers = {"Range": f"bytes={offset}-{offset + len(wanted) - 1}"}
        if version.startswith("etag:"):  # where an object has none, the answer's time is compared
            headers |= http_version.conditions(version)
        with self._client.exchange("GET", self._url_of(key), headers) as reply:
            self._check(reply, key)
            self._seek(reply, key, version, offset, len(wanted))
            received = reply.read_into(wanted)
        if received < len(wanted):
            raise Corrupt(f"{self.show(key)}: {len(wanted)} bytes promised at {offset}, {received} came")
        return received

    def read_whole(self, key: str, limit: int) -> tuple[Stat, bytearray]:
        with self._client.exchange("GET", self._url_of(key)) as reply:
            self._check(reply, key)
            found = _stat_of(self.show(key), reply)
            if found.size > limit:
                raise Precondition(f"{self.show(key)}: has {found.size} bytes, more than {limit}")
            return found, reply.read_exactly(found.size)

    def list(self, prefix: str) -> Iterator[Key]:
        token = ""
        while True:
            page = self._page(prefix, "/", PAGE_KEYS, token)
            yield from page.keys
            if page.next_token == token and token:
                raise Corrupt(f"{self.show(prefix)}: the listing goes round in circles")
            token = page.next_token
            if not token:
                return

    def has_any(self, prefix: str) -> bool:
        return bool(self._page(prefix, "", 1, "").keys)

    def close(self) -> None:
        self._client.close()

    # ---- requests --------------------------------------------------------------------------------------------------

    def _sign(self, method: str, url: str) -> Mapping[str, str]:
        credentials = self._settings.credentials
        if credentials is None:
            return {}
        return signed_headers(credentials, self._settings.region, method, url, self._clock())

    def _url_of(self, key: str) -> str:
        return f"{self._url}/{quote(key, safe='/-_.~')}"

    def _page(self, prefix: str, delimiter: str, limit: int, token: str) -> Page:
        asked = {"list-type": "2", "prefix": prefix, "max-keys": str(limit)}
        asked |= {"delimiter": delimiter} if delimiter else {}
        asked |= {"continuation-token": token} if token else {}
        page = self._ask_page(prefix, asked)
        # Control characters cannot stand in XML, only escaped, which costs room; so that is asked for when one comes.
        return page or self._ask_page(prefix, {**asked, "encoding-type": "url"}) or self._no_page(prefix)

    def _ask_page(self, prefix: str, asked: Mapping[str, str]) -> Page | None:
        slash = "" if urlsplit(self._url).path else "/"
        with self._client.exchange("GET", f"{self._url}{slash}?{canonical_query(asked)}") as reply:
            self._check(reply, prefix)
            return parse_page(reply.read_all(_PAGE_LIMIT_BYTES))

    def _no_page(self, prefix: str) -> Page:
        raise UserError(f"{self.show(prefix)}: the answer is no listing of an S3 service; check option 'endpoint'")

    def _seek(self, reply: Reply, key: str, version: str, offset: int, length: int) -> None:
        """Make sure that the body is of *version*, and go to *offset* in it."""
        part = http_version.content_range(reply.headers)  # some services send it with status 200
        if part is None and reply.status == 206:
            raise Corrupt(f"{self.show(key)}: a part of the object came without saying which")
        total = part.total if part is not None else http_version.content_length(reply.headers)
        http_version.check_version(self.show(key), version, reply.headers, total)
        if part is None:
            reply.skip(offset)
        elif part.first != offset or part.last is None or part.last < offset + length - 1:
            raise Corrupt(f"{self.show(key)}: asked for {length} bytes at {offset}, others came")

    # ---- what services answer --------------------------------------------------------------------------------------

    def _check(self, reply: Reply, key: str) -> None:
        if reply.status < 300:
            return
        document = b"" if reply.status == 304 else reply.read_all(_ERROR_LIMIT_BYTES)
        found = _CODE.search(document)
        code = found[1].decode() if found else ""
        region = reply.headers.get("x-amz-bucket-region", "") or _first(_REGION, document)
        if region and region != self._settings.region and reply.status in (301, 307, 400, 403):
            reply.finish()
            raise UserError(
                f"{self.show('')}: the bucket is in region {region!r}, not in {self._settings.region!r}; set option "
                f"'region' to {region!r}"
            )
        reply.finish()
        raise self._error(reply, code, key)

    def _error(self, reply: Reply, code: str, key: str) -> HeadraceError:
        status, where = reply.status, self.show(key)
        said = f"status {status}, {code}" if code else f"status {status}"
        if code == "NoSuchBucket":
            return UserError(f"{self.show('')}: the bucket does not exist; check the url and option 'endpoint'")
        if code in _BAD_KEY or code == "RequestTimeTooSkewed":
            return PermissionRefused(f"{where}: {_cure(code)} ({said})")
        if code in _LATER or status in (408, 425, 429) or status >= 500:
            wait_s = http_version.retry_after_s(reply.headers, datetime.now(UTC))
            return Unavailable(f"{where}: the service answers with {said}", wait_s)
        if code in _NO_KEY or status in (404, 410):
            return NotFound(f"{where}: the bucket has no such object ({said})")
        if status in (401, 403) or (status == 400 and self._settings.credentials is None):
            return PermissionRefused(f"{where}: {self._refusal()} ({said})")
        if status in (412, 416):
            return VersionChanged(f"{where}: the bucket no longer has the pinned version ({said})")
        if status in (301, 302, 307, 308):
            return UserError(f"{where}: the service sends us elsewhere ({said}); set options 'region' and 'endpoint'")
        return UserError(f"{where}: the service refuses the request ({said}); check options 'endpoint' and 'region'")

    def _refusal(self) -> str:
        if self._settings.credentials is None:
            return "the service refuses requests without a signature; set 'access-key-id' and 'secret-access-key'"
        return "the service refuses access to this key; its policy must allow s3:GetObject and s3:ListBucket"


def _cure(code: str) -> str:
    if code == "RequestTimeTooSkewed":
        return "the clock of this machine is off by too much; set it"
    if code in ("ExpiredToken", "TokenRefreshRequired", "InvalidToken"):
        return "the temporary access key is no longer valid; get a new one, with its 'session-token'"
    return "the service does not accept the access key; check options 'access-key-id' and 'secret-access-key'"


def _first(pattern: re.Pattern[bytes], document: bytes) -> str:
    found = pattern.search(document)
    return found[1].decode() if found else ""


def _stat_of(where: str, reply: Reply) -> Stat:
    # Content-Encoding is a label that the uploader chose; the bytes are the object's all the same.
    size = http_version.content_length(reply.headers)
    if size is None:
        raise UserError(f"{where}: the service does not tell the object's size; check option 'endpoint'")
    return Stat(
        is_dir=False,
        size=size,
        mtime_ns=http_version.modified_ns(reply.headers) or 0,
        version=http_version.version_of(reply.headers, size),
    )


def _bucket_url(bucket: str, settings: S3Settings) -> str:
    """Where the bucket is, without a slash at its end."""
    endpoint = settings.endpoint.rstrip("/") or f"https://s3.{settings.region}.amazonaws.com"
    has_path_style = settings.has_path_style
    if has_path_style is None:
        # A dot in the name breaks the certificates of host names.
        has_path_style = bool(settings.endpoint) or "." in bucket
    if has_path_style:
        return f"{endpoint}/{bucket}"
    parts = urlsplit(endpoint)
    return parts._replace(netloc=f"{bucket}.{parts.netloc}").geturl()
