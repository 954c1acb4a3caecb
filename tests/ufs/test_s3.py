"""S3 against real services: `rclone serve s3`, which ignores If-Match, and versitygw, which is strict."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from datamodel.client import Source
from datamodel.errors import NotFound, PermissionRefused, UserError
from tests.contract.check_under_file_system import CHECKS, NOT_UTF_8, TREE, Subject, plant
from tests.ufs.object_servers import BUCKET, KEY, rclone_s3, versitygw, versitygw_program
from ufs.base import UnderFileSystem
from ufs.objects import ObjectFileSystem
from ufs.registry import open_source
from ufs.s3 import S3Bucket, S3Settings
from ufs.s3_signing import Credentials

# Keys are UTF-8, and S3 knows no empty directories, so none that holds nothing either.
S3_TREE = {
    path: content
    for path, content in TREE.items()
    if path != NOT_UTF_8 and (content is not None or any(other.startswith(f"{path}/") for other in TREE))
}
# rclone stores and shows control characters under other names.
RCLONE_TREE = {path: content for path, content in S3_TREE.items() if "\n" not in path}


@dataclass(frozen=True)
class Service:
    """One that shows each folder in *folder* as a bucket; *tree* is what it can show."""

    folder: Path
    endpoint: str
    tree: dict[str, bytes | None]


@pytest.fixture(scope="module", params=["rclone", "versitygw"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("buckets")
    if request.param == "rclone":
        with rclone_s3(folder) as endpoint:
            yield Service(folder, endpoint, RCLONE_TREE)
        return
    if versitygw_program() is None:
        pytest.skip("versitygw is built by scripts/e2e-tools; `rclone serve s3` runs here")
    with versitygw(folder) as endpoint:
        yield Service(folder, endpoint, S3_TREE)


@pytest.fixture
def subject(service: Service) -> Iterator[Subject]:
    bucket = f"bucket-{len(list(service.folder.iterdir()))}"
    folder = service.folder / bucket
    folder.mkdir()
    plant(folder, service.tree)
    ufs = ObjectFileSystem(S3Bucket(bucket, S3Settings(endpoint=service.endpoint, credentials=KEY)), "")
    yield Subject(ufs, folder, service.tree)
    ufs.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_honours_the_contract(subject: Subject, check: Callable[[Subject], None]) -> None:
    check(subject)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("small")
    plant_small(folder / BUCKET)
    with rclone_s3(folder) as address:
        yield address


def plant_small(folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "leaf").write_bytes(b"leaf")
    (folder / "a-file").write_bytes(b"single")


def opened(url: str, endpoint: str, **more: str) -> UnderFileSystem:
    options = {
        "endpoint": endpoint,
        "access-key-id": KEY.access_key_id,
        "secret-access-key": KEY.secret_access_key,
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    return open_source(Source(name="demo", url=url, path="/", options=options))


def test_address_with_a_prefix_shows_what_lies_below_it(endpoint: str) -> None:
    for url in (f"s3://{BUCKET}/a", f"s3://{BUCKET}/a/"):
        ufs = opened(url, endpoint)

        assert ufs.stat("").is_dir
        assert [(entry.name, entry.is_dir) for entry in ufs.list("")] == [("b", True)]
        assert ufs.read_whole("b/leaf", 10)[1] == b"leaf"

        ufs.close()


def test_address_of_one_object_shows_it_alone(endpoint: str) -> None:
    ufs = opened(f"s3://{BUCKET}/a-file", endpoint)

    assert [(entry.name, entry.size) for entry in ufs.list("")] == [("a-file", 6)]
    assert ufs.read_whole("a-file", 10)[1] == b"single"
    with pytest.raises(NotFound):
        ufs.stat("a")

    ufs.close()


def test_prefix_with_nothing_below_it_is_not_found(endpoint: str) -> None:
    for prefix in ("nothing", "nothing/"):
        ufs = opened(f"s3://{BUCKET}/{prefix}", endpoint)

        with pytest.raises(NotFound, match=f"s3://{BUCKET}/nothing"):
            ufs.stat("")

        ufs.close()


def test_missing_bucket_is_an_error_of_the_address(endpoint: str) -> None:
    ufs = opened("s3://no-such-bucket", endpoint)

    with pytest.raises(UserError, match="s3://no-such-bucket/: the bucket does not exist; check the url"):
        ufs.stat("")

    ufs.close()


@pytest.mark.parametrize(
    "credentials", [Credentials(KEY.access_key_id, "wrong-secret"), Credentials("AKIDUNKNOWN", "wrong-secret")]
)
def test_wrong_key_is_refused_with_its_options_and_without_the_key(endpoint: str, credentials: Credentials) -> None:
    ufs = opened(
        f"s3://{BUCKET}",
        endpoint,
        access_key_id=credentials.access_key_id,
        secret_access_key=credentials.secret_access_key,
    )

    for call in (lambda: ufs.stat("a-file"), lambda: list(ufs.list("")), lambda: ufs.read_whole("a-file", 10)):
        with pytest.raises(PermissionRefused, match="check options 'access-key-id' and 'secret-access-key'") as caught:
            call()
        assert credentials.secret_access_key not in str(caught.value)
        assert credentials.access_key_id not in str(caught.value)

    ufs.close()


def test_unsigned_request_is_refused_with_the_cure(endpoint: str) -> None:
    ufs = ObjectFileSystem(S3Bucket(BUCKET, S3Settings(endpoint=endpoint)), "")

    with pytest.raises(PermissionRefused, match="set 'access-key-id' and 'secret-access-key'"):
        list(ufs.list(""))

    ufs.close()
