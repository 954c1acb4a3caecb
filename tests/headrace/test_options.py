"""Options of sources: words, files, the environment, and where secrets may not be."""

from pathlib import Path

import pytest

from datamodel.client import Source
from datamodel.errors import UserError
from headrace import options

WEB = Source(name="web", url="https://h/", path="/web")
OTHER = Source(name="other", url="http://o/", path="/other")
DISK = Source(name="disk", url="local:///d", path="/disk")
FOLDER = Path("/state/options")


def test_option_without_a_name_is_for_every_source_that_takes_it() -> None:
    sources, values = options.applied((WEB, OTHER, DISK), options.from_words(["username=me"]), FOLDER)

    assert [source.options for source in sources] == [{"username": "me"}, {"username": "me"}, {}]
    assert values == {}


def test_option_of_a_named_source_wins_over_that_of_all() -> None:
    given = options.from_words(["web:username=you", "username=me"])

    sources, _ = options.applied((WEB, OTHER), given, FOLDER)

    assert [source.options["username"] for source in sources] == ["you", "me"]


def test_value_may_hold_colons_and_equals_signs() -> None:
    (option,) = options.from_words(["web:ca-file=/a=b:c"])

    assert (option.source, option.key, option.value) == ("web", "ca-file", "/a=b:c")


@pytest.mark.parametrize("word", ["password=hunter2", "web:bearer-token=hunter2", "PASSWORD=hunter2", "Bearer_Token=x"])
def test_secret_on_the_command_line_is_refused_with_the_cure_and_without_the_secret(word: str) -> None:
    with pytest.raises(UserError, match="--option-file") as refused:
        options.from_words([word])

    assert "HEADRACE_OPTION_" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("word", ["", "password", "=x", ":k=v", "a b=c"])
def test_word_of_another_form_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=r"--option: .* is not of the form \[NAME:\]KEY=VALUE"):
        options.from_words([word])


def test_value_from_a_file_goes_to_a_file_of_the_daemons(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    given = options.from_files([f"web:bearer-token={tmp_path}/token"])

    (web, other), values = options.applied((WEB, OTHER), given, FOLDER)

    (path,) = web.option_files.values()
    assert values == {path: "s3cret"}
    assert path.startswith(f"{FOLDER}/")
    assert (other.option_files, web.options) == ({}, {})
    assert "s3cret" not in repr(given) + repr(web)


def test_option_file_that_cannot_be_read_names_option_and_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--option-file password: '.*/none': No such file"):
        options.from_files([f"password={tmp_path}/none"])


def test_environment_gives_options_by_name_with_underscores() -> None:
    (option,) = options.from_environment({"HEADRACE_OPTION_BEARER_TOKEN": "t", "HOME": "/root"})

    assert (option.key, option.value, option.source) == ("bearer-token", "t", "")


def test_option_of_other_mounts_in_the_environment_is_no_mistake_but_a_wrong_one_is_passed_on_to_be_refused() -> None:
    known = options.from_environment({"HEADRACE_OPTION_PASSWORD": "p"})
    unknown = options.from_environment({"HEADRACE_OPTION_PASWORD": "p"})

    assert options.applied((DISK,), known, FOLDER)[0] == (DISK,)
    assert "pasword" in options.applied((DISK,), unknown, FOLDER)[0][0].option_files


def test_option_for_a_source_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(UserError, match="no source has that name; there is web, other"):
        options.applied((WEB, OTHER), options.from_words(["wab:username=me"]), FOLDER)


def test_vendors_variables_count_where_nothing_else_is_said() -> None:
    environment = {"AWS_REGION": "eu-west-1", "AWS_SECRET_ACCESS_KEY": "s", "AWS_ACCESS_KEY_ID": "a"}
    bucket = Source(name="b", url="s3://bucket/", path="/", options={"region": "us-west-2"})

    found = {option.key: option.is_secret for option in options.from_vendors((bucket, WEB), environment)}

    assert found == {"secret-access-key": True, "access-key-id": True}


def test_public_bucket_needs_no_keys_from_the_environment() -> None:
    bucket = Source(name="b", url="s3://bucket/", path="/", options={"anonymous": "true"})

    assert options.from_vendors((bucket,), {"AWS_SECRET_ACCESS_KEY": "s"}) == []


def test_command_line_wins_over_the_environment() -> None:
    given = [*options.from_environment({"HEADRACE_OPTION_USERNAME": "env"}), *options.from_words(["username=word"])]

    (source,), _ = options.applied((WEB,), given, FOLDER)

    assert (source.options, source.option_files) == ({"username": "word"}, {})
