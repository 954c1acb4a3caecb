"""Index pages in each server's own form, and what no page may do to the parser."""

import html
import json
import os
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodel.errors import UserError
from ufs.base import Entry
from ufs.http_index import parse_index

URL = "http://mirror.example/pub/data/"

NGINX = """<html>
<head><title>Index of /pub/data/</title></head>
<body>
<h1>Index of /pub/data/</h1><hr><pre><a href="../">../</a>
<a href="nested/">nested/</a>                                            12-Nov-2026 10:00                   -
<a href="exact.bin">exact.bin</a>                                          12-Nov-2026 10:00             1234567
<a href="rounded.bin">rounded.bin</a>                                        12-Nov-2026 10:00                 12K
<a href="a%20name%20that%20is%20far%20too%20long%20to%20be%20shown%20as%20a%20whole.txt">a name that is far too long to be shown as a wh..&gt;</a> 12-Nov-2026 10:00                   7
</pre><hr></body>
</html>
"""  # noqa: E501

APACHE_PRE = """<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN">
<html><head><title>Index of /pub/data</title></head><body><h1>Index of /pub/data</h1>
<pre><img src="/icons/blank.gif" alt="Icon "> <a href="?C=N;O=D">Name</a>                    <a href="?C=M;O=A">Last modified</a>      <a href="?C=S;O=A">Size</a>  <a href="?C=D;O=A">Description</a><hr><img src="/icons/back.gif" alt="[PARENTDIR]"> <a href="/pub/">Parent Directory</a>                             -   
<img src="/icons/folder.gif" alt="[DIR]"> <a href="nested/">nested/</a>                 2026-11-12 10:00    -   
<a href="exact.bin"><img src="/icons/binary.gif" alt="[   ]"></a> <a href="exact.bin">exact.bin</a>               2026-11-12 10:00  973  99 bottles
<img src="/icons/binary.gif" alt="[   ]"> <a href="rounded.bin">rounded.bin</a>             2026-11-12 10:00  1.2M  
<hr></pre>
<address>Apache/2.4.62 (Debian) Server at mirror.example Port 80</address>
</body></html>
"""  # noqa: E501, W291

APACHE_TABLE = """<table>
   <tr><th valign="top"><img src="/icons/blank.gif" alt="[ICO]"></th><th><a href="?C=N;O=D">Name</a></th><th><a href="?C=S;O=A">Size</a></th></tr>
<tr><td valign="top"><img src="/icons/back.gif" alt="[PARENTDIR]"></td><td><a href="/pub/">Parent Directory</a></td><td>&nbsp;</td><td align="right">  - </td><td>&nbsp;</td></tr>
<tr><td valign="top"><img src="/icons/folder.gif" alt="[DIR]"></td><td><a href="nested/">nested/</a></td><td align="right">2026-11-12 10:00  </td><td align="right">  - </td><td>&nbsp;</td></tr>
<tr><td valign="top"><img src="/icons/binary.gif" alt="[   ]"></td><td><a href="exact.bin">exact.bin</a></td><td align="right">2026-11-12 10:00  </td><td align="right">512 </td><td>&nbsp;</td></tr>
<tr><td valign="top"><img src="/icons/binary.gif" alt="[   ]"></td><td><a href="rounded.bin">rounded.bin</a></td><td align="right">2026-11-12 10:00  </td><td align="right"> 30M</td><td>&nbsp;</td></tr>
</table>
"""  # noqa: E501

LIGHTTPD = """<div class="list"><table summary="Directory Listing" cellpadding="0" cellspacing="0">
<thead><tr><th class="n">Name</th><th class="m">Last Modified</th><th class="s">Size</th><th class="t">Type</th></tr></thead>
<tbody>
<tr class="d"><td class="n"><a href="../">..</a>/</td><td class="m">&nbsp;</td><td class="s">- &nbsp;</td><td class="t">Directory</td></tr>
<tr class="d"><td class="n"><a href="nested/">nested</a>/</td><td class="m">2026-Nov-12 10:00:00</td><td class="s">- &nbsp;</td><td class="t">Directory</td></tr>
<tr><td class="n"><a href="exact.bin">exact.bin</a></td><td class="m">2026-Nov-12 10:00:00</td><td class="s">0.1K</td><td class="t">application/octet-stream</td></tr>
<tr><td class="n"><a href="rounded.bin">rounded.bin</a></td><td class="m">2026-Nov-12 10:00:00</td><td class="s">1.0M</td><td class="t">application/octet-stream</td></tr>
</tbody></table></div>
"""  # noqa: E501

CADDY = """<main><table aria-describedby="summary"><thead><tr><th><a href="?sort=name&amp;order=desc">Name</a></th></tr></thead><tbody>
<tr><td></td><td><a href=".."><span class="goup">Up</span></a></td><td></td><td></td></tr>
<tr class="file"><td></td><td><a href="./nested/"><svg></svg><span class="name">nested</span></a></td><td>&mdash;</td><td class="timestamp hideable"><time datetime="2026-11-12T10:00:00Z">11/12/2026</time></td></tr>
<tr class="file"><td></td><td><a href="./exact.bin"><svg></svg><span class="name">exact.bin</span></a></td><td class="size" data-size="1234567"><div class="sizebar"><div class="sizebar-bar"></div><div class="sizebar-text">1.2 MiB</div></div></td><td class="timestamp hideable"><time datetime="2026-11-12T10:00:00Z">11/12/2026</time></td></tr>
<tr class="file"><td></td><td><a href="./rounded.bin"><span class="name">rounded.bin</span></a></td><td>12 MiB</td></tr>
</tbody></table></main>
"""  # noqa: E501

PYTHON = """<!DOCTYPE HTML>
<html lang="en"><head><meta charset="utf-8"><title>Directory listing for /pub/data/</title></head>
<body><h1>Directory listing for /pub/data/</h1><hr><ul>
<li><a href="nested/">nested/</a></li>
<li><a href="exact.bin">exact.bin</a></li>
<li><a href="rounded.bin">rounded.bin@</a></li>
</ul><hr></body></html>
"""


def names(page: str, url: str = URL) -> list[str]:
    return [entry.name + "/" * entry.is_dir for entry in parse_index(page.encode(), "text/html", url)]


@pytest.mark.parametrize(
    ("page", "exact"),
    [(NGINX, 1234567), (APACHE_PRE, 973), (APACHE_TABLE, 512), (LIGHTTPD, None), (CADDY, 1234567), (PYTHON, None)],
    ids=["nginx", "apache-pre", "apache-table", "lighttpd", "caddy", "python"],
)
def test_page_of_a_known_server_gives_names_kinds_and_exact_sizes_only(page: str, exact: int | None) -> None:
    found = parse_index(page.encode(), "text/html; charset=UTF-8", URL)

    assert found[:3] == [
        Entry(name="nested", is_dir=True, size=0, mtime_ns=None),
        Entry(name="exact.bin", is_dir=False, size=exact, mtime_ns=None),
        Entry(name="rounded.bin", is_dir=False, size=None, mtime_ns=None),
    ]


def test_shortened_text_does_not_shorten_the_name() -> None:
    found = parse_index(NGINX.encode(), "text/html", URL)[3]

    assert found.name == "a name that is far too long to be shown as a whole.txt"
    assert found.size == 7


def test_nginx_json_gives_sizes_and_times() -> None:
    page = b"""[
{ "name":"nested", "type":"directory", "mtime":"Thu, 12 Nov 2026 10:00:00 GMT" },
{ "name":"pipe", "type":"other", "mtime":"Thu, 12 Nov 2026 10:00:00 GMT" },
{ "name":"\xff.bin", "type":"file", "mtime":"Thu, 12 Nov 2026 10:00:00 GMT", "size":5 }
]"""

    assert parse_index(page, "application/json", URL) == [
        Entry(name="nested", is_dir=True, size=0, mtime_ns=None),
        Entry(name="\udcff.bin", is_dir=False, size=5, mtime_ns=1_794_477_600_000_000_000),
    ]


def test_caddy_json_gives_sizes_and_whole_seconds() -> None:
    page = json.dumps(
        [
            {"name": "nested/", "size": 4096, "url": "./nested/", "mod_time": "2026-11-12T10:00:00Z", "is_dir": True},
            {"name": "a", "size": 5, "url": "./a", "mod_time": "2026-11-12T10:00:00.123456789Z", "is_dir": False},
            {"name": "b", "size": 6, "url": "./b", "mod_time": "2026-11-12T11:00:00+01:00", "is_dir": False},
        ]
    )

    assert parse_index(page.encode(), "application/json; charset=utf-8", URL) == [
        Entry(name="nested", is_dir=True, size=0, mtime_ns=None),
        Entry(name="a", is_dir=False, size=5, mtime_ns=1_794_477_600_000_000_000),
        Entry(name="b", is_dir=False, size=6, mtime_ns=1_794_477_600_000_000_000),
    ]


@pytest.mark.parametrize(
    "href",
    [
        "",
        "..",
        "../",
        "./",
        ".",
        "/",
        "/pub/",
        "/pub/data/",
        "/pub/data",
        "/pub/database",
        "/other/file",
        "../data2/file",
        "%2e%2e/",
        "%2e%2e",
        "..%2fpasswd",
        "a%2fb",
        "nul%00byte",
        "sub/deeper",
        "sub/../file",
        "?C=N;O=D",
        "file?download=1",
        "file?",
        "#top",
        "file#part",
        "http://elsewhere.example/pub/data/file",
        "//elsewhere.example/pub/data/file",
        "https://mirror.example/pub/data/file",
        "http://mirror.example:8080/pub/data/file",
        "ftp://mirror.example/pub/data/file",
        "mailto:someone@mirror.example",
        "javascript:alert(1)",
        "http://[broken/file",
    ],
)
def test_link_to_anything_but_a_direct_child_is_skipped(href: str) -> None:
    assert names(f'<a href="good">good</a><a href="{href}">file</a>') == ["good"]


@pytest.mark.parametrize(
    ("href", "name"),
    [
        ("file", "file"),
        ("./file", "file"),
        ("./a:b", "a:b"),
        ("12:30.log", "12:30.log"),
        ("a%3Ab", "a:b"),
        ("/pub/data/file", "file"),
        ("/pub/./data//file", "file"),
        ("http://mirror.example/pub/data/file", "file"),
        ("//MIRROR.example/pub/data/file", "file"),
        ("dir/", "dir/"),
        ("dir//", "dir/"),
        ("...", "..."),
        ("..a", "..a"),
        (".hidden", ".hidden"),
        ("100%25", "100%"),
        ("100%", "100%"),
        ("%zz", "%zz"),
        ("a&amp;b", "a&b"),
        ("a%26amp;b", "a&amp;b"),
        ("%FF%C3%A9", "\udcffé"),
        ("é", "é"),
        ("semi;colon", "semi;colon"),
        ("plus+plus", "plus+plus"),
        ("&quot;quoted&quot;", '"quoted"'),
    ],
)
def test_link_to_a_child_gives_its_decoded_name(href: str, name: str) -> None:
    assert names(f'<a href="{href}">x</a>') == [name]


def test_links_are_read_relative_to_where_the_page_came_from() -> None:
    page = '<a href="/pub/da%74a/a%20b">x</a><a href="/pub/data/c">y</a>'

    assert names(page, "http://mirror.example/pub/data/") == ["a b", "c"]
    assert names(page, "http://mirror.example/elsewhere/") == []


def test_name_linked_twice_is_listed_once_and_keeps_its_size() -> None:
    page = '<a href="f"><img></a> <a href="f">f</a>   12-Nov-2026 10:00     12\n<a href="f">again</a>'

    assert parse_index(page.encode(), "text/html", URL) == [Entry(name="f", is_dir=False, size=12, mtime_ns=None)]


def test_name_linked_as_file_and_directory_is_a_directory() -> None:
    assert names('<a href="d">d</a><a href="d/">d</a><a href="d">d</a>') == ["d/"]


def test_empty_directory_gives_no_entries() -> None:
    assert parse_index(b'<html><body><pre><a href="../">../</a></pre>', "text/html", URL) == []
    assert parse_index(b"[]", "application/json", URL) == []


@pytest.mark.parametrize("kind", ["", "application/octet-stream", "text/plain", "image/png"])
def test_response_that_is_no_page_is_refused_with_the_cure(kind: str) -> None:
    with pytest.raises(UserError, match="directory listings"):
        parse_index(b"data", kind, URL)


@pytest.mark.parametrize("page", [b"", b"{", b"{}", b"[1]", b'[{"name":1}]', b'[{"size":1}]', b"[" * 100_000, b'"a"'])
def test_json_that_is_no_listing_is_refused(page: bytes) -> None:
    with pytest.raises(UserError, match="index page"):
        parse_index(page, "application/json", URL)


@pytest.mark.parametrize(
    "row",
    [
        {"name": "a", "size": -1},
        {"name": "a", "size": 1.5},
        {"name": "a", "size": True},
        {"name": "a", "size": "12"},
        {"name": "a", "size": 1, "mtime": "yesterday"},
        {"name": "a", "size": 1, "mod_time": "9999-99-99"},
    ],
)
def test_json_values_that_make_no_sense_are_unknown(row: dict[str, object]) -> None:
    (entry,) = parse_index(json.dumps([row]).encode(), "application/json", URL)

    assert entry.mtime_ns is None
    assert entry.size in (None, 1)


def test_json_names_that_stand_for_no_bytes_are_skipped() -> None:
    page = rb'[{"name":"\ud800"},{"name":"a\u0000"},{"name":".."},{"name":"x/y"},{"name":""},{"name":"ok"}]'

    assert [entry.name for entry in parse_index(page, "application/json", URL)] == ["ok"]


_NAMES = st.lists(
    st.binary(min_size=1, max_size=40)
    .filter(lambda name: name not in (b".", b"..") and b"/" not in name and b"\0" not in name)
    .map(os.fsdecode),
    unique=True,
    max_size=8,
)


@given(_NAMES)
def test_any_names_survive_a_page_that_escapes_them(wanted: list[str]) -> None:
    links = "".join(
        f'<li><a href="./{html.escape(quote(os.fsencode(name)))}">{html.escape(ascii(name))}</a></li>\n'
        for name in wanted
    )

    assert [entry.name for entry in parse_index(links.encode(), "text/html", URL)] == wanted


@given(st.binary(max_size=400), st.sampled_from(["text/html", "application/json"]))
def test_any_bytes_give_entries_or_a_user_error(body: bytes, kind: str) -> None:
    check_never_raises_else(body, kind)


_FRAGMENTS = st.sampled_from(
    ["<a href=", '"', "'", " ", ">", "</a>", "<!", "<![", "<!--", "-->", "<?", "&#", "&#xD800;", "<td>", "<![CDATA["]
) | st.sampled_from(
    ["http://", "/", "../", "//", "?", "#", "[", ":", "%", "%2f", "%00", "\x00", "\udcff", "<script>", "x", "]]>", "\n"]
)


@given(st.lists(_FRAGMENTS, max_size=40).map("".join))
def test_any_markup_gives_entries_or_a_user_error(text: str) -> None:
    check_never_raises_else(text.encode("utf-8", "surrogateescape"), "text/html")


def check_never_raises_else(body: bytes, kind: str) -> None:
    try:
        entries = parse_index(body, kind, URL)
    except UserError:
        return

    for entry in entries:
        assert entry.name not in ("", ".", "..")
        assert "/" not in entry.name
        assert "\0" not in entry.name
        assert os.fsdecode(os.fsencode(entry.name)) == entry.name
    assert len({entry.name for entry in entries}) == len(entries)
