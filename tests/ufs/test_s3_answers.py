"""What an S3 service may answer: pages, odd keys, errors of every kind. From a script, byte for byte."""

import os
import re
import tracemalloc
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

import pytest

from datamodel.client import Source
from datamodel.errors import Corrupt, HeadraceError, NotFound, PermissionRefused, Unavailable, UserError, VersionChanged
from tests.ufs.servers import Answer, Request, ScriptedServer, answer
from ufs.base import UnderFileSystem
from ufs.registry import open_source

HEAD = {"ETag": '"e1"', "Last-Modified": "Tue, 14 Nov 2023 22:13:20 GMT"}
SECRETS = ("an-access-key", "a-secret-key", "a-session-token")


def opened(server: ScriptedServer, url: str = "s3://bucket", **more: str) -> UnderFileSystem:
    names = ("access-key-id", "secret-access-key", "session-token")
    options = dict(zip(names, SECRETS, strict=True)) | {"endpoint": server.url}
    options |= {name.replace("_", "-"): value for name, value in more.items()}
    return open_source(Source(name="demo", url=url, path="/", options=options))


def listing(*lines: str, token: str = "", url_encoded: bool = False) -> Answer:
    """A page: each line a key, those with a slash at the end common prefixes. Times as services with fractions tell."""
    parts = []
    for line in lines:
        key = escape(line)
        if line.endswith("/"):
            parts.append(f"<CommonPrefixes><Prefix>{key}</Prefix></CommonPrefixes>")
        else:
            parts.append(
                f"<Contents><Key>{key}</Key><LastModified>2023-11-14T22:13:20.123Z</LastModified>"
                "<ETag>&quot;e1&quot;</ETag><Size>7</Size></Contents>"
            )
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    encoding = "<EncodingType>url</EncodingType>" if url_encoded else ""
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name>'
        f"<IsTruncated>{'true' if token else 'false'}</IsTruncated>{more}{encoding}{''.join(parts)}</ListBucketResult>"
    )
    return answer(200, text.encode(), Content_Type="application/xml")


def error(status: int, code: str, more: str = "", **headers: str) -> Answer:
    text = f"<Error><Code>{code}</Code><Message>words with a-secret-key</Message>{more}</Error>"
    return answer(status, text.encode(), **headers)


def query(request: Request) -> dict[str, str]:
    return {
        name: values[0] for name, values in parse_qs(urlsplit(request.target).query, keep_blank_values=True).items()
    }


def names(ufs: UnderFileSystem, path: str = "") -> list[tuple[str, bool]]:
    return [(entry.name, entry.is_dir) for entry in ufs.list(path)]


def test_listing_goes_on_from_page_to_page_and_asks_for_a_thousand_keys() -> None:
    def script(request: Request) -> Answer:
        token = query(request).get("continuation-token", "")
        return listing("b/", "c", token="") if token else listing("a", "a-dir/", token="more of+it=")

    with ScriptedServer(script) as server:
        ufs = opened(server)

        assert names(ufs) == [("a-dir", True), ("a", False), ("b", True), ("c", False)]
        assert [query(request)["max-keys"] for request in server.requests] == ["1000", "1000"]
        assert query(server.requests[1])["continuation-token"] == "more of+it="


def test_first_names_come_before_the_last_page_is_asked_for() -> None:
    with ScriptedServer(lambda _: listing("a", "b", "c", token="again")) as server:
        assert next(iter(opened(server).list(""))).name == "a"
        assert len(server.requests) == 1


def test_listing_that_goes_round_in_circles_is_corrupt() -> None:
    with (
        ScriptedServer(lambda _: listing("a", token="again")) as server,
        pytest.raises(Corrupt, match="goes round in circles"),
    ):
        list(opened(server).list(""))


def test_directory_wins_over_an_object_of_its_name_on_any_page() -> None:
    def script(request: Request) -> Answer:
        asked = query(request)
        if request.method == "HEAD":
            return answer(200, head=True, headers={**HEAD, "Content-Length": "7"})
        if asked["prefix"] == "both/":
            return listing("both/below")
        return listing("both/", "z") if "continuation-token" in asked else listing("both", "both-more", token="2")

    with ScriptedServer(script) as server:
        ufs = opened(server)

        assert names(ufs) == [("both-more", False), ("both", True), ("z", False)]
        assert ufs.stat("both").is_dir


def test_keys_that_no_path_can_name_are_hidden_with_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    odd = ["dir/", "dir//", "dir/./", "dir/../", "dir/" + "x" * 256, "dir/good", "dir/.hidden"]
    with ScriptedServer(lambda _: listing(*odd)) as server:
        ufs = opened(server)

        assert sorted(names(ufs, "dir")) == [(".hidden", False), ("good", False)]
        list(ufs.list("dir"))

    out = capsys.readouterr()
    assert (out.out + out.err).count("objects.hidden") == 1


def test_key_of_a_directory_itself_makes_it_be_there_though_empty() -> None:
    def script(request: Request) -> Answer:
        if request.method == "HEAD":
            return answer(404, head=True)
        return listing("empty/") if query(request)["prefix"].startswith("empty/") else listing()

    with ScriptedServer(script) as server:
        ufs = opened(server)

        assert ufs.stat("empty").is_dir
        assert names(ufs, "empty") == []
        with pytest.raises(NotFound):
            ufs.stat("missing")


def test_control_characters_are_asked_for_in_escapes() -> None:
    def script(request: Request) -> Answer:
        if query(request).get("encoding-type") == "url":
            return listing("bell%07", "plus%2Band+space%25", url_encoded=True)
        return listing("bell\x07", "plus+and space%")

    with ScriptedServer(script) as server:
        assert names(opened(server)) == [("bell\x07", False), ("plus+and space%", False)]


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        (b"<html><body>It works!</body></html>", Corrupt),
        (b"It works!", UserError),
        (b"<!DOCTYPE x [<!ENTITY a 'b'>]><ListBucketResult/>", Corrupt),
        (b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>", Corrupt),
        (b"<ListBucketResult><Contents><Key>a</Key><Size>many</Size></Contents></ListBucketResult>", Corrupt),
    ],
)
def test_answer_that_is_no_listing_is_an_error(document: bytes, kind: type[HeadraceError]) -> None:
    with ScriptedServer(lambda _: answer(200, document)) as server, pytest.raises(kind):
        list(opened(server).list(""))


def test_times_of_listing_and_object_agree() -> None:
    def script(request: Request) -> Answer:
        if request.method == "HEAD":
            return answer(200, head=True, headers={**HEAD, "Content-Length": "7"})
        return listing("a") if query(request)["prefix"] == "" else listing()

    with ScriptedServer(script) as server:
        ufs = opened(server)

        assert [entry.mtime_ns for entry in ufs.list("")] == [ufs.stat("a").mtime_ns] == [1_700_000_000 * 10**9]


def stat_then(get: Callable[[Request], Answer]) -> Callable[[Request], Answer]:
    """A script with one object `a` of 7 bytes, whose content comes from *get*."""

    def script(request: Request) -> Answer:
        if request.method == "HEAD":
            return answer(200, head=True, headers={**HEAD, "Content-Length": "7"})
        return listing() if "list-type" in query(request) else get(request)

    return script


def read(ufs: UnderFileSystem, offset: int = 2, length: int = 3) -> bytes:
    room = bytearray(length)
    return bytes(room[: ufs.read_range("a", ufs.stat("a").version, offset, memoryview(room))])


def part(body: bytes, span: str, status: int = 206, **headers: str) -> Answer:
    return answer(status, body, headers={**HEAD, "Content-Range": f"bytes {span}", **headers})


def test_range_is_asked_for_on_condition_of_the_pinned_etag() -> None:
    with ScriptedServer(stat_then(lambda _: part(b"cde", "2-4/7"))) as server:
        assert read(opened(server)) == b"cde"

        sent = server.requests[-1].headers
        assert (sent["range"], sent["if-match"]) == ("bytes=2-4", '"e1"')


@pytest.mark.parametrize(
    "reply",
    [part(b"cde", "2-4/7", status=200), answer(200, b"abcdefg", headers=HEAD)],
    ids=["range-with-status-200", "whole-object"],
)
def test_service_that_answers_ranges_in_another_way_is_read_all_the_same(reply: Answer) -> None:
    with ScriptedServer(stat_then(lambda _: reply)) as server:
        assert read(opened(server)) == b"cde"


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (part(b"cde", "2-4/7", ETag='"e2"'), VersionChanged),
        (part(b"cde", "2-4/8"), VersionChanged),
        (part(b"bcd", "1-3/7"), Corrupt),
        (part(b"cd", "2-3/7"), Corrupt),
        (answer(206, b"cde", headers=HEAD), Corrupt),
        (error(412, "PreconditionFailed"), VersionChanged),
        (error(416, "InvalidRange"), VersionChanged),
        (error(404, "NoSuchKey"), NotFound),
    ],
)
def test_part_of_something_else_is_never_delivered(reply: Answer, kind: type[HeadraceError]) -> None:
    with ScriptedServer(stat_then(lambda _: reply)) as server, pytest.raises(kind):
        read(opened(server))


def test_body_that_breaks_off_is_an_error() -> None:
    short = part(b"cde", "2-4/7").raw[:-1]
    with (
        ScriptedServer(stat_then(lambda _: Answer(short, "close"))) as server,
        pytest.raises((Corrupt, Unavailable)),
    ):
        read(opened(server))


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (error(403, "SignatureDoesNotMatch"), PermissionRefused, "'access-key-id' and 'secret-access-key'"),
        (error(403, "InvalidAccessKeyId"), PermissionRefused, "check options 'access-key-id'"),
        (error(400, "ExpiredToken"), PermissionRefused, "no longer valid; get a new one, with its 'session-token'"),
        (error(403, "RequestTimeTooSkewed"), PermissionRefused, "the clock of this machine is off by too much"),
        (error(403, "AccessDenied"), PermissionRefused, "must allow s3:GetObject and s3:ListBucket"),
        (error(404, "NoSuchBucket"), UserError, "s3://bucket/: the bucket does not exist"),
        (error(503, "SlowDown", Retry_After="7"), Unavailable, "status 503, SlowDown"),
        (error(400, "RequestTimeout"), Unavailable, "status 400, RequestTimeout"),
        (error(500, "InternalError"), Unavailable, "status 500, InternalError"),
        (error(429, "TooMany"), Unavailable, "status 429"),
        (error(301, "PermanentRedirect", x_amz_bucket_region="eu-west-9"), UserError, "is in region 'eu-west-9'"),
        (
            error(400, "AuthorizationHeaderMalformed", "<Region>eu-west-9</Region>"),
            UserError,
            "is in region 'eu-west-9', not in 'us-east-1'; set option 'region' to 'eu-west-9'",
        ),
        (error(307, "TemporaryRedirect", Location="http://127.0.0.1:1/"), UserError, "sends us elsewhere"),
        (error(400, "Odd"), UserError, "check options 'endpoint' and 'region'"),
    ],
)  # fmt: skip
def test_error_of_the_service_is_put_down_to_who_can_mend_it(
    reply: Answer, kind: type[HeadraceError], words: str
) -> None:
    with ScriptedServer(lambda _: reply) as server:
        ufs = opened(server)
        for call in (lambda: list(ufs.list("")), lambda: ufs.read_whole("a", 10), lambda: ufs.stat("")):
            with pytest.raises(kind, match=re.escape(words)) as caught:
                call()

            assert not any(secret in str(caught.value) for secret in SECRETS)


def test_time_to_stay_away_is_passed_on() -> None:
    with ScriptedServer(lambda _: error(503, "SlowDown", Retry_After="7")) as server:
        with pytest.raises(Unavailable) as caught:
            list(opened(server).list(""))

        assert caught.value.retry_after_s == 7


def test_reason_for_a_refused_head_is_found_out() -> None:
    def script(request: Request) -> Answer:
        return answer(400, head=True) if request.method == "HEAD" else error(400, "ExpiredToken")

    with ScriptedServer(script) as server, pytest.raises(PermissionRefused, match="no longer valid"):
        opened(server).stat("a")


def test_stalled_service_is_unavailable_in_time() -> None:
    with (
        ScriptedServer(lambda _: Answer(b"", "stall")) as server,
        pytest.raises(Unavailable, match="does not answer in time"),
    ):
        opened(server, read_timeout="0.1").stat("a")


def test_requests_are_signed_with_the_token_and_anonymous_ones_are_not() -> None:
    with ScriptedServer(lambda _: listing("a")) as server:
        list(opened(server).list(""))
        options = {"endpoint": server.url, "anonymous": "true"}
        list(open_source(Source(name="demo", url="s3://bucket", path="/", options=options)).list(""))

        signed, plain = server.requests

    assert signed.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=an-access-key/")
    assert signed.headers["x-amz-security-token"] == "a-session-token"
    assert "authorization" not in plain.headers


def test_bucket_is_in_the_path_or_in_the_host() -> None:
    with ScriptedServer(lambda _: listing("a")) as server:
        list(opened(server).list(""))
        host = server.url.replace("127.0.0.1", "localhost")
        list(opened(server, "s3://127.0.0.1", endpoint=host, path_style="true").list(""))

        assert [urlsplit(request.target).path for request in server.requests] == ["/bucket", "/127.0.0.1"]


def test_names_of_other_engines_for_options_are_understood() -> None:
    with ScriptedServer(lambda _: listing("a")) as server:
        options = {
            "alluxio.underfs.s3.endpoint": server.url,
            "aws.accessKeyId": "an-access-key",
            "aws.secretKey": "a-secret-key",
            "alluxio.underfs.s3.disable.dns.buckets": "true",
            "AWS_REGION": "eu-west-9",
        }
        list(open_source(Source(name="demo", url="s3://bucket", path="/", options=options)).list(""))

        assert "/eu-west-9/s3/aws4_request" in server.requests[0].headers["authorization"]


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("s3://", {}, "is no name of a bucket; write s3://BUCKET/PREFIX"),
        ("s3://key:secret@bucket", {}, "holds credentials"),
        ("s3://bucket", {"secret-access-key": ""}, "option 'secret-access-key': is missing"),
        ("s3://bucket", {"access-key-id": "", "secret-access-key": ""}, "'anonymous' as 'true' for a public bucket"),
        ("s3://bucket", {"anonymous": "true"}, "option 'anonymous': is 'true', but there is an access key as well"),
        ("s3://bucket", {"secret-access-key": "a\nb"}, "option 'secret-access-key': has characters that no key has"),
        ("s3://bucket", {"endpoint": "ftp://h"}, "option 'endpoint': 'ftp://h' is no address"),
        ("s3://bucket", {"endpoint": "http://h:x"}, "option 'endpoint': 'http://h:x' is no address"),
        ("s3://bucket", {"endpoint": "http://h", "allow-http": "false"}, "is without TLS"),
        ("s3://bucket", {"region": "Europe!"}, "option 'region': 'Europe!' is no region"),
        ("s3://bucket", {"path-style": "maybe"}, "option 'path-style': 'maybe' is neither 'true' nor 'false'"),
        ("s3://bucket", {"aws.secretKey": "x"}, "option 'secret-access-key': given twice"),
    ],
)
def test_address_or_option_that_cannot_be_used_is_named(url: str, options: dict[str, str], words: str) -> None:
    given = {"access-key-id": "k", "secret-access-key": "s", **options}
    if "aws.secretKey" not in options:
        given = {name: value for name, value in given.items() if value or name in options}

    with pytest.raises(UserError) as caught:
        open_source(Source(name="demo", url=url, path="/", options=given))

    assert words in str(caught.value)


def test_amazons_own_addresses_have_the_bucket_in_the_host_unless_its_name_has_a_dot() -> None:
    from ufs.s3 import S3Settings, _bucket_url

    assert _bucket_url("bucket", S3Settings(region="eu-west-9")) == "https://bucket.s3.eu-west-9.amazonaws.com"
    assert _bucket_url("a.b", S3Settings()) == "https://s3.us-east-1.amazonaws.com/a.b"


@pytest.mark.timeout(600)  # a million keys under HEADRACE_FULL
def test_huge_directory_is_never_in_memory_as_a_whole() -> None:
    count = 1_000_000 if os.environ.get("HEADRACE_FULL") else 20_000

    def script(request: Request) -> Answer:
        server.requests.clear()  # they are the test's, not the listing's
        first = int(query(request).get("continuation-token", "0"))
        end = min(first + 1000, count)
        return listing(*(f"object-{number:09d}" for number in range(first, end)), token=str(end) if end < count else "")

    with ScriptedServer(script) as server:
        names = opened(server).list("")
        next(names)
        tracemalloc.start()
        try:
            assert sum(1 for _ in names) == count - 1
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert peak_bytes < 3 << 20  # a page takes half of that, 20,000 entries at once would take 5 MiB
