"""What makes a source another one, so that nothing of it is taken for the old one's."""

import pytest

from blockcache.assemble import identity_of
from datamodel.client import Source


def identity(url: str, **options: str) -> str:
    return identity_of(Source(name="s", url=url, path="/", options=options))


@pytest.mark.parametrize(
    "url", ["https://host/a", "http://other/a", "http://host:81/a", "http://host/b", "http://host/a?set=2"]
)
def test_another_address_is_another_source(url: str) -> None:
    assert identity(url) != identity("http://host/a")


def test_another_endpoint_is_another_source() -> None:
    assert identity("s3://bucket/a", endpoint="http://one") != identity("s3://bucket/a", endpoint="http://two")


def test_other_credentials_and_settings_leave_a_source_what_it_is() -> None:
    assert identity("http://me:secret@host/a/") == identity("http://host/a", bearer_token="x", timeout="5")


def test_identity_shows_no_secret() -> None:
    assert "s3cr3t" not in identity("http://me:s3cr3t@host/a?token=s3cr3t")
