"""WebDAV's and buckets' XML: in every server's own form, and what no document may do to the parser."""

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodel.errors import UserError
from ufs.base import Entry
from ufs.http_xml import parse_bucket_page, parse_multistatus

URL = "http://dav.example/pub/da%20ta/"
MOMENT = 1_794_477_600_000_000_000

APACHE = """<?xml version="1.0" encoding="utf-8"?>
<D:multistatus xmlns:D="DAV:">
<D:response xmlns:lp1="DAV:"><D:href>/pub/da%20ta/</D:href><D:propstat><D:prop>
<lp1:resourcetype><D:collection/></lp1:resourcetype></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>
<D:propstat><D:prop><getcontentlength xmlns="DAV:"/></D:prop><D:status>HTTP/1.1 404 Not Found</D:status></D:propstat>
</D:response>
<D:response xmlns:lp1="DAV:"><D:href>/pub/da%20ta/a%20&amp;%e9.txt</D:href><D:propstat><D:prop>
<lp1:resourcetype/><lp1:getcontentlength>12345</lp1:getcontentlength>
<lp1:getlastmodified>Thu, 12 Nov 2026 10:00:00 GMT</lp1:getlastmodified></D:prop></D:propstat></D:response>
<D:response><D:href>/pub/da%20ta/sub/</D:href><D:propstat><D:prop><D:resourcetype><D:collection/></D:resourcetype>
</D:prop></D:propstat></D:response>
</D:multistatus>"""

WITH_HOST = """<multistatus xmlns="DAV:">
<response><href>http://dav.example/pub/da%20ta</href><propstat><prop><resourcetype><collection/></resourcetype></prop>
</propstat></response>
<response><href>
 http://dav.example/pub/da%20ta/file
</href><propstat><prop><getcontentlength>7</getcontentlength></prop></propstat></response>
<response><href>http://elsewhere.example/pub/da%20ta/other</href></response>
<response><href>/pub/da%20ta/sub/deeper</href></response>
<response><href>/pub/</href></response>
<response><href>/pub/da%20ta/a%2fb</href></response>
</multistatus>"""


def test_members_of_a_collection_have_exact_sizes_and_times() -> None:
    assert parse_multistatus(APACHE.encode(), URL) == [
        Entry(name="a &\udce9.txt", is_dir=False, size=12345, mtime_ns=MOMENT),
        Entry(name="sub", is_dir=True, size=0, mtime_ns=None),
    ]


def test_only_direct_children_on_the_same_server_are_members() -> None:
    assert parse_multistatus(WITH_HOST.encode(), URL) == [Entry(name="file", is_dir=False, size=7, mtime_ns=None)]


def test_file_is_no_collection() -> None:
    page = b'<multistatus xmlns="DAV:"><response><href>/pub/da%20ta</href></response></multistatus>'

    assert parse_multistatus(page, URL) is None


def test_keys_that_are_escaped_are_unescaped() -> None:
    page = b"""<ListBucketResult><EncodingType>url</EncodingType><Contents><Key>a+b%2Bc%25%0A</Key><Size>3</Size>
        </Contents><CommonPrefixes><Prefix>d%2520+/</Prefix></CommonPrefixes></ListBucketResult>"""

    assert [entry.name for entry in parse_bucket_page(page).entries] == ["a b+c%\n", "d%20 /"]


@pytest.mark.parametrize(
    ("more", "query"),
    [
        ("<IsTruncated>false</IsTruncated><NextMarker>x</NextMarker>", None),
        (
            "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>",
            {"continuation-token": "t"},
        ),
        ("<IsTruncated>true</IsTruncated><NextMarker>m</NextMarker>", {"marker": "m"}),
        ("<IsTruncated>true</IsTruncated>", {"marker": "key"}),
    ],
)
def test_next_page_is_asked_for_as_the_service_wants(more: str, query: dict[str, str] | None) -> None:
    page = f"<ListBucketResult>{more}<Contents><Key>key</Key></Contents></ListBucketResult>"

    assert parse_bucket_page(page.encode()).next_query == query


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<",
        b"<html></html>",
        b'<!DOCTYPE x [<!ENTITY a "aaaa">]><multistatus>&a;</multistatus>',
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        b"<a>" * 10_000,
    ],
)
def test_document_that_is_no_listing_is_refused(body: bytes) -> None:
    with pytest.raises(UserError):
        parse_multistatus(body, URL)
    with pytest.raises(UserError):
        parse_bucket_page(body)


_PIECES = st.sampled_from(
    re.findall(
        r"\S+",
        "<multistatus> </multistatus> <response> </response> <href> </href> /pub/da%20ta/ x %ff / <collection/> "
        "<getcontentlength> </getcontentlength> -1 999999999999999999999999 //[ http:// .. %00 &#10; \ufffe "
        "<ListBucketResult> </ListBucketResult> <Contents> </Contents> <Key> </Key> <Prefix>",
    )
)


@given(st.lists(_PIECES, max_size=30).map("".join) | st.text(max_size=60))
def test_any_document_gives_values_or_a_user_error(text: str) -> None:
    body = text.encode("utf-8", "surrogateescape")
    for parse in (lambda: parse_multistatus(body, URL) or [], lambda: parse_bucket_page(body).entries):
        try:
            entries = parse()
        except UserError:
            continue
        for entry in entries:
            assert "\0" not in entry.name or "\0" in text
            assert os.fsdecode(os.fsencode(entry.name)) == entry.name
