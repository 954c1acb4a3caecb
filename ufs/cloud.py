"""Google Cloud Storage and Azure Blob Storage, through obstore, which knows their ways to log in.

Its limits are those of `gs://` and `az://` sources: the names in one directory are held in memory while it is listed,
and a key that no path can name (`a//b`) makes the directory that it is in unlistable. What obstore raises is told apart
by its class, and where that says nothing by the status in its text; the text itself, which may hold a signed address,
goes nowhere.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore

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
from ufs.objects import Key, ObjectFileSystem
from ufs.options import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, flag, readable_file, seconds
from ufs.s3_options import endpoint_of, split_bucket_url

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta
    from obstore.store import AzureConfig, ClientConfig, GCSConfig, RetryConfig

Store = GCSStore | AzureStore

_CHUNK_BYTES = 256 << 10
_REQUEST_LIMIT = timedelta(hours=1)  # stalls are noticed by the read timeout; this is for a whole body
_NO_RETRIES: "RetryConfig" = {"max_retries": 0}
_STATUS = re.compile(r"status code: ([0-9]{3})")
_NO_BUCKET = ("ContainerNotFound", "ContainerBeingDeleted", "NoSuchBucket", "The specified bucket does not exist")
_BUCKET_NAME = re.compile(r"[a-z0-9$][a-z0-9._-]{1,221}")


def open_gs(url: str, options: Mapping[str, str]) -> ObjectFileSystem:
    """The source at `gs://BUCKET[/PREFIX]`; *options* are those of `ufs.options.GS`. Without any we ask as the machine.

    Raises:
        UserError: the address or an option cannot be used.
    """
    bucket, prefix = _checked(url)
    config: GCSConfig = {"bucket": bucket, "skip_signature": flag(options, "anonymous", False)}
    if path := readable_file(options, "service-account-file"):
        config["service_account"] = path
    if key := options.get("service-account-key"):
        config["service_account_key"] = key
    if endpoint := endpoint_of(options):
        config["base_url"] = endpoint
    with _built(options):
        store = GCSStore(config=config, client_options=_client(options), retry_config=_NO_RETRIES)
    return ObjectFileSystem(CloudBucket(store, f"gs://{bucket}/"), prefix)


def open_az(url: str, options: Mapping[str, str]) -> ObjectFileSystem:
    """The source at `az://CONTAINER[/PREFIX]`; *options* are those of `ufs.options.AZ`.

    Raises:
        UserError: the address or an option cannot be used.
    """
    container, prefix = _checked(url)
    account = options.get("account-name", "")
    if not account:
        raise UserError("option 'account-name': is missing; an az:// address does not name the storage account")
    config: AzureConfig = {
        "account_name": account,
        "container_name": container,
        "skip_signature": flag(options, "anonymous", False),
    }
    if key := options.get("account-key"):
        config["account_key"] = key
    if token := options.get("sas-token"):
        config["sas_key"] = token.removeprefix("?")
    if tenant := options.get("tenant-id"):
        config["tenant_id"] = tenant
    if client := options.get("client-id"):
        config["client_id"] = client
    if secret := options.get("client-secret"):
        config["client_secret"] = secret
    if endpoint := endpoint_of(options):
        config["endpoint"] = endpoint
    with _built(options):
        store = AzureStore(config=config, client_options=_client(options), retry_config=_NO_RETRIES)
    return ObjectFileSystem(CloudBucket(store, f"az://{container}/"), prefix)


class CloudBucket:
    """`ufs.objects.Bucket` over a store of obstore."""

    def __init__(self, store: Store, address: str) -> None:
        """*address*, with a slash at its end, stands before keys in messages."""
        self._store = store
        self._address = address

    def __repr__(self) -> str:
        return f"CloudBucket({self._address!r})"

    def show(self, key: str) -> str:
        return self._address + key

    def stat(self, key: str) -> Stat:
        with _translated(self.show(key)):
            return _stat_of(obstore.head(self._store, key))

    def read(self, key: str, version: str, offset: int, into: memoryview) -> int:
        size = http_version.size_of(version)
        if size is None:
            raise VersionChanged(f"{self.show(key)}: {version!r} is no version of such a source")
        wanted = into[: max(0, size - offset)]
        if not wanted:
            return 0
        options: GetOptions = {"range": (offset, offset + len(wanted))}
        if condition := http_version.conditions(version).get("If-Match"):
            options["if_match"] = condition
        with _translated(self.show(key)):
            result = self._get(key, options)
            found = _stat_of(result.meta).version
            if found != version:
                raise VersionChanged(f"{self.show(key)}: pinned {version!r}, the source has {found!r}")
            return self._receive(key, result, wanted)

    def read_whole(self, key: str, limit: int) -> tuple[Stat, bytearray]:
        with _translated(self.show(key)):
            result = obstore.get(self._store, key)
            found = _stat_of(result.meta)
            if found.size > limit:
                raise Precondition(f"{self.show(key)}: has {found.size} bytes, more than {limit}")
            content = bytearray(found.size)
            self._receive(key, result, memoryview(content))
            return found, content

    def list(self, prefix: str) -> Iterator[Key]:
        with _translated(self.show(prefix)):
            found = obstore.list_with_delimiter(self._store, prefix.rstrip("/") or None)
        keys = [Key(f"{path}/") for path in found["common_prefixes"]]
        for meta in found["objects"]:
            # A folder's own key comes without the slash at its end.
            name = prefix if f"{meta['path']}/" == prefix else meta["path"]
            keys.append(Key(name, meta["size"], _whole_seconds_ns(meta)))
        keys.sort(key=lambda key: key.name)
        return iter(keys)

    def has_any(self, prefix: str) -> bool:
        with _translated(self.show(prefix)):
            try:
                return bool(next(obstore.list(self._store, prefix.rstrip("/") or None, chunk_size=1), ()))
            except exceptions.BaseError as error:
                if _is_about_a_key(error):
                    return True
                raise

    def close(self) -> None:
        """The store's connections end with it."""

    def _get(self, key: str, options: "GetOptions") -> "GetResult":
        try:
            return obstore.get(self._store, key, options=options)
        except exceptions.PreconditionError:
            obstore.head(self._store, key)  # no version at all matches either where there is no object
            raise

    def _receive(self, key: str, result: "GetResult", into: memoryview) -> int:
        filled = 0
        for chunk in result.stream(min_chunk_size=_CHUNK_BYTES):
            piece = memoryview(chunk)
            if len(piece) > len(into) - filled:
                raise Corrupt(f"{self.show(key)}: more than the {len(into)} bytes came that were asked for")
            into[filled : filled + len(piece)] = piece
            filled += len(piece)
        if filled < len(into):
            raise Corrupt(f"{self.show(key)}: {len(into)} bytes promised, {filled} came")
        return filled


def _stat_of(meta: "ObjectMeta") -> Stat:
    headers = {"ETag": meta["e_tag"] or "", "Last-Modified": meta["last_modified"].isoformat()}
    return Stat(
        is_dir=False,
        size=meta["size"],
        mtime_ns=_whole_seconds_ns(meta),
        version=http_version.version_of(headers, meta["size"]),
    )


def _whole_seconds_ns(meta: "ObjectMeta") -> int:
    """Listings tell fractions of seconds and single objects do not; both must say the same."""
    return int(meta["last_modified"].timestamp()) * 10**9


def _checked(url: str) -> tuple[str, str]:
    bucket, prefix = split_bucket_url(url)
    if not _BUCKET_NAME.fullmatch(bucket):
        scheme = url.partition(":")[0].lower()
        raise UserError(f"source url: {bucket!r} is no name of a bucket; write {scheme}://BUCKET/PREFIX")
    return bucket, prefix


def _client(options: Mapping[str, str]) -> "ClientConfig":
    config: ClientConfig = {
        "allow_http": flag(options, "allow-http", False),
        "connect_timeout": timedelta(seconds=seconds(options, "connect-timeout", CONNECT_TIMEOUT_S)),
        "read_timeout": timedelta(seconds=seconds(options, "read-timeout", READ_TIMEOUT_S)),
        "timeout": _REQUEST_LIMIT,
        "user_agent": "headrace",
    }
    if endpoint_of(options).startswith("http:") and not config["allow_http"]:
        raise UserError("option 'endpoint': is without TLS; set option 'allow-http' to 'true' if that is meant")
    if path := readable_file(options, "ca-file"):
        config["root_certificate"] = Path(path).read_bytes()
    return config


@contextmanager
def _built(options: Mapping[str, str]) -> Iterator[None]:
    """Raise `UserError` for what a store says about its options."""
    try:
        yield
    except (exceptions.BaseError, ValueError) as error:
        # Its text may quote the credential that it could not read.
        given = ", ".join(sorted(options)) or "none"
        raise UserError(
            f"options {given}: cannot be used together ({type(error).__name__}); check each value"
        ) from None


@contextmanager
def _translated(where: str) -> Iterator[None]:
    try:
        yield
    except (exceptions.BaseError, FileNotFoundError, ValueError) as error:
        # Not chained: the text of the cause may hold an address with a signature in it.
        raise _error_of(where, error) from None


def _is_about_a_key(error: Exception) -> bool:
    """Whether a listing failed for a key that obstore cannot express."""
    return isinstance(error, exceptions.InvalidPathError) or "segment" in str(error).partition("\n")[0]


def _error_of(where: str, error: Exception) -> HeadraceError:
    text = str(error)
    status = int(found[1]) if (found := _STATUS.search(text)) else 0
    if any(code in text for code in _NO_BUCKET):
        return UserError(f"{where}: the bucket or container does not exist; check the url and the account")
    if isinstance(error, (FileNotFoundError, ValueError)):
        return NotFound(f"{where}: no such object")
    if isinstance(error, (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)) or status in (401, 403):
        return PermissionRefused(f"{where}: the service refuses access (status {status or 403}); check the credentials")
    if isinstance(error, (exceptions.PreconditionError, exceptions.NotModifiedError)) or status in (412, 416):
        return VersionChanged(f"{where}: the source no longer has the pinned version")
    if _is_about_a_key(error):
        return UserError(f"{where}: has a key that no path can name, such as 'a//b', so it cannot be listed; rename it")
    if status in (408, 429) or status >= 500:
        return Unavailable(f"{where}: the service answers with status {status}")
    if status:
        return UserError(f"{where}: the service refuses the request with status {status}; check url and options")
    return Unavailable(f"{where}: the exchange with the service failed; is it running, and are there credentials?")
