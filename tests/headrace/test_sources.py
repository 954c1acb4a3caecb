"""SOURCE words of `headrace mount`."""

from pathlib import Path

import pytest

from datamodel.client import Source
from datamodel.errors import UserError
from headrace.sources import local_path, parse_sources


def test_single_source_fills_the_root(tmp_path: Path) -> None:
    assert parse_sources(["http://h/x"]) == (Source(name="source", url="http://h/x", path="/"),)
    assert parse_sources([str(tmp_path)])[0].url == f"local://{tmp_path}"


def test_named_sources_are_folders() -> None:
    assert [source.path for source in parse_sources(["a=http://h/", "b.c=http://i/?x=y"])] == ["/a", "/b.c"]


def test_url_with_an_equals_sign_is_no_name() -> None:
    assert parse_sources(["http://h/?a=b"])[0].url == "http://h/?a=b"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "SOURCE: missing"),
        (("",), "is empty"),
        ((" ",), "is empty"),
        (("/does/not/exist",), "neither a URL nor an existing path"),
        (("mirror.example/data",), r"did you mean https://mirror\.example/data\?"),
        (("a=http://h/", "http://i/"), "needs a name"),
        (("a=http://h/", "a=http://i/"), "used twice"),
        (("http://[::1/",), "cannot be read as a URL"),
    ],
)
def test_word_that_is_no_source_is_refused_with_the_cure(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_sources(words)


def test_password_in_a_url_is_refused_without_being_shown() -> None:
    with pytest.raises(UserError, match="holds a password") as refused:
        parse_sources(["https://me:hunter2@h.example/x"])

    assert "hunter2" not in str(refused.value)
    assert "h.example" in str(refused.value)


def test_local_path_is_told_of_local_sources_only() -> None:
    paths = [local_path(Source(name="x", url=url, path="/")) for url in ("local:///a b", "file:///c", "https://h/d")]

    assert paths == [Path("/a b"), Path("/c"), None]
