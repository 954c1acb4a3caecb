"""From a dataset's source to its file system: schemes, options, and messages that say what to write instead."""

import re
from pathlib import Path

import pytest

from datamodel.client import Source
from datamodel.errors import UserError
from tests.ufs.servers import ScriptedServer, answer
from ufs.http import HttpFileSystem
from ufs.local import LocalFileSystem
from ufs.registry import (
    SECRET_OPTIONS,
    describe_options,
    open_source,
    options_from_environment,
    show_source_url,
)


def source(url: str, **options: str) -> Source:
    return Source(name="demo", url=url, path="/demo", options={k.replace("_", "-"): v for k, v in options.items()})


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("http://h/p/", HttpFileSystem),
        ("https://h:8443/p/", HttpFileSystem),
        ("HTTP://h", HttpFileSystem),
        ("http://[::1]:80/", HttpFileSystem),
        ("local:///data", LocalFileSystem),
        ("file:///data", LocalFileSystem),
        ("file://localhost/data", LocalFileSystem),
    ],
)
def test_every_scheme_opens_its_file_system_without_asking_it(url: str, kind: type) -> None:
    assert type(open_source(source(url))) is kind


@pytest.mark.parametrize("url", ["x3://bucket/x", "pvc://claim", "data", "", "/data", "http:/h"])
def test_unknown_scheme_names_the_supported_ones(url: str) -> None:
    with pytest.raises(UserError, match=r"source 'demo': url scheme .* use one of az, file, ftp, .*, http, https"):
        open_source(source(url))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http:///p", "names no host"),
        ("http://h:port/", "cannot be read"),
        ("http://[h/", "cannot be read"),
        ("http://h/a#b", "%23"),
        ("local://data", "must be absolute"),
        ("file://host/data", "names host 'host'"),
    ],
)
def test_address_of_the_wrong_form_says_what_to_write(url: str, words: str) -> None:
    with pytest.raises(UserError, match=f"source 'demo': .*{re.escape(words)}"):
        open_source(source(url))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"user": "x"}, "option 'user' is not known for http sources; supported: bearer-token, ca-file"),
        ({"read-timeout": "soon"}, "option 'read-timeout': 'soon' is not a number of seconds"),
        ({"read-timeout": "0"}, "option 'read-timeout': '0' is not a number of seconds"),
        ({"connect-timeout": "nan"}, "option 'connect-timeout': 'nan' is not a number of seconds"),
        ({"password": "p\n"}, "option 'password': has a control character"),
        ({"bearer-token": "tökén"}, "option 'bearer-token': has characters that are not ASCII"),
        ({"ca-file": "/no/such/file"}, "option 'ca-file': '/no/such/file' cannot be read"),
    ],
)
def test_option_that_cannot_be_used_is_named(options: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=f"source 'demo': .*{re.escape(words)}"):
        open_source(Source(name="demo", url="http://h/", path="/demo", options=options))


def test_secret_option_never_shows_in_the_message() -> None:
    with pytest.raises(UserError) as caught:
        open_source(source("http://h/", password="secret\n"))

    assert "secret" not in str(caught.value)


def test_local_source_takes_no_options() -> None:
    with pytest.raises(UserError, match="supported: none"):
        open_source(source("local:///data", username="x"))


def test_options_reach_the_server() -> None:
    with ScriptedServer(lambda _: answer(200, head=True, Content_Length="0")) as server:
        open_source(source(server.url, username="u", password="p")).stat("file")
        open_source(source(server.url, bearer_token="t")).stat("file")

        sent = [request.headers["authorization"] for request in server.requests]

    assert sent == ["Basic dTpw", "Bearer t"]


def test_file_address_is_unescaped_and_local_path_is_not(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "unescaped").touch()
    (tmp_path / "a%20b").mkdir()
    (tmp_path / "a%20b" / "literal").touch()

    unescaped = open_source(source(f"file://{tmp_path}/a%20b"))
    literal = open_source(source(f"local://{tmp_path}/a%20b"))

    assert [entry.name for entry in unescaped.list("")] == ["unescaped"]
    assert [entry.name for entry in literal.list("")] == ["literal"]


def test_every_option_is_described_and_secrets_are_known_by_all_their_names() -> None:
    described = describe_options()

    assert set(described) >= {"http", "https", "local", "file"}
    assert all(text for options in described.values() for text in options.values())
    assert {"password", "bearer-token"} <= SECRET_OPTIONS
    assert "username" not in SECRET_OPTIONS


def test_value_of_an_option_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t\n")
    with ScriptedServer(lambda _: answer(200, head=True, Content_Length="0")) as server:
        found = Source(name="demo", url=server.url, path="/", option_files={"bearer-token": str(tmp_path / "token")})

        open_source(found).stat("file")

        assert server.requests[0].headers["authorization"] == "Bearer t"


def test_file_of_an_option_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")

    with pytest.raises(UserError, match=f"source 'demo': option 'password': its file '{missing}': No such file"):
        open_source(Source(name="demo", url="http://h/", path="/", option_files={"password": missing}))


def test_option_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("p")
    found = Source(
        name="demo",
        url="http://h/",
        path="/",
        options={"password": "p"},
        option_files={"password": str(tmp_path / "password")},
    )

    with pytest.raises(UserError, match="option 'password': given as a value and as a file"):
        open_source(found)


def test_variables_of_the_vendors_own_tools_give_options_to_whom_they_concern() -> None:
    environment = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_DEFAULT_REGION": "there",
        "AWS_REGION": "here",
        "AWS_ENDPOINT_URL": "",
        "HF_TOKEN": "token",
    }

    assert options_from_environment("s3://bucket", environment) == {"access-key-id": "key", "region": "here"}
    assert options_from_environment("hf://datasets/a/b", environment) == {"token": "token"}
    assert options_from_environment("http://h/", environment) == {}
    assert options_from_environment("nonsense", environment) == {}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://u:p@h:80/a?token=x#y", "http://h:80/a"),
        ("https://h?token=x", "https://h"),
        ("s3://key:secret@bucket/a?b@c", "s3://bucket/a?b@c"),
        ("sftp://u:p@h/a@b", "sftp://h/a@b"),
        ("github://org:repo@main/a", "github://org:repo@main/a"),
        ("local:///a@b?c", "local:///a@b?c"),
        ("nonsense", "nonsense"),
    ],
)
def test_shown_address_has_no_credentials(url: str, shown: str) -> None:
    assert show_source_url(url) == shown
