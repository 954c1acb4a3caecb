"""Names and paths that come from users and end up in paths and labels."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from datamodel.errors import UserError
from datamodel.names import RuntimeKey, RuntimePaths, check_name, fuse_label

labels = some.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)


@given(labels, labels, labels)
def test_key_is_read_back_from_its_text(engine: str, namespace: str, name: str) -> None:
    key = RuntimeKey(engine, namespace, name)

    assert RuntimeKey.parse(str(key)) == key
    assert RuntimeKey.of_fuse_path("/rt", str(RuntimePaths.of(key, "/rt").mount)) == key


@given(some.text())
def test_no_text_makes_a_path_that_leaves_the_root(text: str) -> None:
    try:
        key = RuntimeKey.parse(text)
    except UserError:
        return

    assert len(str(RuntimePaths.of(key, "/rt").base).split("/")) == 5
    assert ".." not in str(key)


@pytest.mark.parametrize("value", ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "..", "a" * 64, "ä", "a\n"])
def test_name_that_is_no_label_is_refused_with_its_field(value: str) -> None:
    with pytest.raises(UserError, match="namespace: "):
        check_name("namespace", value)


@pytest.mark.parametrize(
    "path", ["/rt/cache/ns/name", "/other/cache/ns/name/fuse", "/rt/cache/../name/fuse", "/rt/cache/ns/name/fuse/x", ""]
)
def test_fuse_path_of_another_form_is_refused(path: str) -> None:
    with pytest.raises(UserError):
        RuntimeKey.of_fuse_path("/rt", path)


def test_long_label_carries_the_uid_in_place_of_the_names() -> None:
    assert fuse_label("ns", "name") == "fluid.io/f-ns-name"
    assert fuse_label("n" * 40, "d" * 40, "uid-1") == "fluid.io/f-uid-1"
