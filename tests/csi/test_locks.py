"""Locks that never wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi.locks import TryLocks
from datamodel.errors import Conflict


def test_exclusive_hold_excludes_both_kinds() -> None:
    locks = TryLocks()

    with locks.held(exclusive=["a"]):
        with pytest.raises(Conflict, match="a: another operation"), locks.held(exclusive=["a"]):
            pass
        with pytest.raises(Conflict), locks.held(shared=["a"]):
            pass


def test_shared_holds_exclude_an_exclusive_one_until_the_last_is_gone() -> None:
    locks = TryLocks()

    with locks.held(shared=["a"]):
        with locks.held(shared=["a"]), pytest.raises(Conflict), locks.held(exclusive=["a"]):
            pass
        with pytest.raises(Conflict), locks.held(exclusive=["a"]):
            pass
    with locks.held(exclusive=["a"]):
        pass


def test_refused_call_holds_none_of_its_names() -> None:
    locks = TryLocks()

    with locks.held(exclusive=["b"]), pytest.raises(Conflict), locks.held(exclusive=["a", "b"], shared=["c"]):
        pass

    with locks.held(exclusive=["a", "c"]):
        pass


def test_failure_inside_gives_the_names_back() -> None:
    locks = TryLocks()
    with pytest.raises(ValueError, match="inside"), locks.held(exclusive=["a"], shared=["b"]):
        raise ValueError("inside")

    with locks.held(exclusive=["a", "b"]):
        pass


_NAMES = st.sets(st.sampled_from("abcd"), max_size=3)


@given(st.lists(st.tuples(_NAMES, _NAMES), max_size=6))
def test_nested_holds_never_break_exclusion(calls: list[tuple[set[str], set[str]]]) -> None:
    locks = TryLocks()
    exclusive_now: set[str] = set()
    shared_now: set[str] = set()

    def enter(rest: list[tuple[set[str], set[str]]]) -> None:
        if not rest:
            return
        exclusive, shared = rest[0][0], rest[0][1] - rest[0][0]
        is_free = not (exclusive & (exclusive_now | shared_now)) and not (shared & exclusive_now)
        try:
            with locks.held(exclusive=sorted(exclusive), shared=sorted(shared)):
                assert is_free
                added = exclusive, shared - shared_now
                exclusive_now.update(added[0])
                shared_now.update(added[1])
                enter(rest[1:])
                exclusive_now.difference_update(added[0])
                shared_now.difference_update(added[1])
        except Conflict:
            assert not is_free
            enter(rest[1:])

    enter(calls)
