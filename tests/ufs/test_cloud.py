"""Google's and Azure's stores through obstore: what goes out, and what comes back as which error. From a script.

The contract was checked by hand against fake-gcs-server and Azurite, see docs/dependencies.md.
"""

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from datamodel.client import Source
from datamodel.errors import Corrupt, HeadraceError, NotFound, PermissionRefused, Unavailable, UserError, VersionChanged
from tests.ufs.servers import Answer, Request, ScriptedServer, answer
from tests.ufs.test_s3_answers import listing
from ufs.base import UnderFileSystem
from ufs.registry import open_source

CONTENT = b"abcdefg"
META = {"ETag": '"e1"', "Last-Modified": "Tue, 14 Nov 2023 22:13:20 GMT"}
ACCOUNT_KEY = "c2VjcmV0LWtleQ=="


def opened(server: ScriptedServer, kind: str, url: str = "", **more: str) -> UnderFileSystem:
    options = {"endpoint": server.url, "allow-http": "true"}
    options |= {"anonymous": "true"} if kind == "gs" else {"account-name": "account", "account-key": ACCOUNT_KEY}
    options |= {name.replace("_", "-"): value for name, value in more.items()}
    return open_source(Source(name="demo", url=url or f"{kind}://bucket", path="/", options=options))


def azure_page(request: Request) -> Answer:
    blobs = "".join(
        f"<Blob><Name>{name}</Name><Properties><Last-Modified>{META['Last-Modified']}</Last-Modified>"
        f"<Content-Length>7</Content-Length><Content-Type>x/y</Content-Type><Etag>e1</Etag></Properties></Blob>"
        for name in ("a", "b c")
    )
    text = (
        f"<EnumerationResults><Blobs>{blobs}<BlobPrefix><Name>dir/</Name></BlobPrefix></Blobs><NextMarker/>"
        "</EnumerationResults>"
    )
    return answer(200, text.encode(), Content_Type="application/xml")


def script(request: Request) -> Answer:
    """A bucket with `a` and `b c`, and something below `dir/`."""
    parts = urlsplit(request.target)
    query = parse_qs(parts.query, keep_blank_values=True)
    if "comp" in query:
        return azure_page(request)
    if "list-type" in query:
        return listing("a", "b c", "dir/") if query.get("prefix", [""]) == [""] else listing()
    if unquote(parts.path) not in ("/bucket/a", "/bucket/b c"):
        return answer(404, head=request.method == "HEAD")
    if request.method == "HEAD":
        return answer(200, head=True, headers={**META, "Content-Length": str(len(CONTENT))})
    return object_answer(request)


def object_answer(request: Request) -> Answer:
    if "range" not in request.headers:
        return answer(200, CONTENT, headers=META)
    first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
    body = CONTENT[int(first) : int(last) + 1]
    span = f"bytes {first}-{int(first) + len(body) - 1}/{len(CONTENT)}"
    return answer(206, body, headers={**META, "Content-Range": span})


@pytest.fixture(params=["gs", "az"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_names_objects_and_ranges_come_as_they_are(kind: str) -> None:
    with ScriptedServer(script) as server:
        ufs = opened(server, kind)

        assert [(entry.name, entry.is_dir, entry.size) for entry in ufs.list("")] == [
            ("a", False, 7),
            ("b c", False, 7),
            ("dir", True, 0),
        ]
        found = ufs.read_whole("b c", 100)
        assert found[1] == CONTENT
        assert found[0].mtime_ns == 1_700_000_000 * 10**9
        room = bytearray(3)
        assert ufs.read_range("a", found[0].version, 2, memoryview(room)) == 3
        assert room == b"cde"

        sent = server.requests[-1].headers
        assert (sent["range"], sent["if-match"]) == ("bytes=2-4", '"e1"')


def gets(reply: Callable[[Request], Answer]) -> Callable[[Request], Answer]:
    """The same, but contents come from *reply*."""

    def changed(request: Request) -> Answer:
        is_content = request.method == "GET" and "?" not in request.target
        return reply(request) if is_content else script(request)

    return changed


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (answer(412), VersionChanged),
        (answer(416), VersionChanged),
        (answer(404), NotFound),
        (answer(403), PermissionRefused),
        (answer(401), PermissionRefused),
        (answer(429), Unavailable),
        (answer(503), Unavailable),
        (answer(400), UserError),
        (
            answer(206, b"cde", headers={**META, "ETag": '"e2"', "Content-Range": "bytes 2-4/7"}),
            VersionChanged,
        ),
        (answer(206, b"cde", headers={**META, "Content-Range": "bytes 2-4/8"}), VersionChanged),
    ],
)
def test_error_of_the_service_is_put_down_to_who_can_mend_it(
    kind: str, reply: Answer, expected: type[HeadraceError]
) -> None:
    with ScriptedServer(gets(lambda _: reply)) as server:
        ufs = opened(server, kind)
        version = 'etag:"e1";size:7'
        with pytest.raises(expected, match=f"{kind}://bucket/a") as caught:
            ufs.read_range("a", version, 2, memoryview(bytearray(3)))

    assert ACCOUNT_KEY not in str(caught.value)
    assert caught.value.__cause__ is None


def test_body_that_breaks_off_is_an_error(kind: str) -> None:
    raw = answer(206, b"cde", headers={**META, "Content-Range": "bytes 2-4/7"}).raw[:-1]
    with (
        ScriptedServer(gets(lambda _: Answer(raw, "close"))) as server,
        pytest.raises((Corrupt, Unavailable)),
    ):
        opened(server, kind).read_range("a", 'etag:"e1";size:7', 2, memoryview(bytearray(3)))


def test_stalled_service_is_unavailable_in_time(kind: str) -> None:
    with ScriptedServer(lambda _: Answer(b"", "stall")) as server, pytest.raises(Unavailable):
        opened(server, kind, read_timeout="0.1").stat("a")


def test_server_that_is_away_is_unavailable(kind: str) -> None:
    with ScriptedServer(script) as server:
        ufs = opened(server, kind, endpoint="http://127.0.0.1:1")

        with pytest.raises(Unavailable, match="the exchange with the service failed"):
            ufs.stat("a")


def test_key_that_no_path_can_name_makes_its_directory_unlistable_with_a_cure() -> None:
    def odd(request: Request) -> Answer:
        return answer(404, head=True) if request.method == "HEAD" else listing("dir//")

    with ScriptedServer(odd) as server:
        ufs = opened(server, "gs")

        with pytest.raises(UserError, match="has a key that no path can name, such as 'a//b'"):
            list(ufs.list("dir"))
        assert ufs.stat("dir").is_dir


def test_shared_access_signature_goes_out_and_never_shows() -> None:
    signature = "sv=2024-01-01&sig=a-secret-signature"
    with ScriptedServer(lambda _: answer(403)) as server:
        options = {
            "endpoint": server.url,
            "allow-http": "true",
            "account-name": "account",
            "sas-token": f"?{signature}",
        }
        ufs = open_source(Source(name="demo", url="az://bucket", path="/", options=options))

        with pytest.raises(PermissionRefused) as caught:
            ufs.stat("a")

        assert "sig=a-secret-signature" in server.requests[0].target
        assert "a-secret-signature" not in f"{caught.value!r}{caught.value.__cause__!r}"


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("gs://", {}, "is no name of a bucket; write gs://BUCKET/PREFIX"),
        ("az://", {"account-name": "a"}, "is no name of a bucket; write az://BUCKET/PREFIX"),
        ("az://bucket", {}, "option 'account-name': is missing"),
        ("az://bucket", {"account-name": "a", "account-key": "no base64!"}, "cannot be used together"),
        ("gs://bucket", {"service-account-key": '{"private_key": "a-secret'}, "cannot be used together"),
        ("gs://bucket", {"service-account-file": "/no/such"}, "option 'service-account-file': '/no/such' cannot be"),
        ("gs://bucket", {"endpoint": "http://h"}, "is without TLS; set option 'allow-http' to 'true'"),
        ("gs://bucket", {"region": "x"}, "option 'region' is not known for gs sources"),
    ],
)
def test_address_or_option_that_cannot_be_used_is_named(url: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        open_source(Source(name="demo", url=url, path="/", options=options))

    assert words in str(caught.value)
    assert "a-secret" not in str(caught.value)
    assert "base64!" not in str(caught.value)


def test_service_account_is_read_from_its_file(tmp_path: Path) -> None:
    account = {"type": "service_account", "private_key": "none", "client_email": "x@y", "disable_oauth": True}
    path = tmp_path / "account.json"
    path.write_text(json.dumps({**account, "gcs_base_url": "https://storage.googleapis.com", "private_key_id": "k"}))

    open_source(Source(name="demo", url="gs://bucket", path="/", options={"service-account-file": str(path)}))
