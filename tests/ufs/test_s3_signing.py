"""Signatures, against the worked examples that Amazon publishes with the format."""

from datetime import UTC, datetime

from ufs.s3_signing import Credentials, canonical_query, signed_headers

# The example key and requests of "Authenticating Requests: Using the Authorization Header (AWS Signature Version 4)".
KEY = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
NOW = datetime(2013, 5, 24, tzinfo=UTC)
BUCKET = "https://examplebucket.s3.amazonaws.com"


def test_signature_of_a_range_of_an_object_is_the_published_one() -> None:
    headers = signed_headers(KEY, "us-east-1", "GET", f"{BUCKET}/test.txt", NOW, {"Range": "bytes=0-9"})

    assert headers["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )
    assert headers["x-amz-date"] == "20130524T000000Z"


def test_signature_of_a_listing_is_the_published_one() -> None:
    query = canonical_query({"prefix": "J", "max-keys": "2"})

    headers = signed_headers(KEY, "us-east-1", "GET", f"{BUCKET}/?{query}", NOW)

    assert headers["Authorization"].endswith(
        "Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
    )


def test_token_of_a_temporary_key_is_sent_and_signed() -> None:
    temporary = Credentials(KEY.access_key_id, KEY.secret_access_key, "token")

    headers = signed_headers(temporary, "us-east-1", "GET", f"{BUCKET}/", NOW)

    assert headers["x-amz-security-token"] == "token"
    assert "x-amz-security-token," in headers["Authorization"]


def test_query_is_sorted_and_fully_escaped() -> None:
    assert canonical_query({"prefix": "a b/+ü", "delimiter": "/"}) == "delimiter=%2F&prefix=a%20b%2F%2B%C3%BC"


def test_port_that_the_scheme_implies_is_no_part_of_the_signature() -> None:
    assert signed_headers(KEY, "r", "GET", "https://h:443/", NOW) == signed_headers(KEY, "r", "GET", "https://h/", NOW)
    assert signed_headers(KEY, "r", "GET", "https://h:80/", NOW) != signed_headers(KEY, "r", "GET", "https://h/", NOW)


def test_key_shows_nowhere() -> None:
    assert repr(KEY) == "Credentials()"
