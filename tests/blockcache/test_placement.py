"""Which worker owns what: everybody agrees, evenly, and the loss of one moves only its share."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as some

from blockcache.peer import ranked

workers = some.integers(min_value=1, max_value=12)
keys = some.text()


@given(workers, keys)
def test_every_worker_is_in_the_order_once(count: int, key: str) -> None:
    assert sorted(ranked(count, key)) == list(range(count))


@given(workers, keys)
def test_order_is_the_same_every_time(count: int, key: str) -> None:
    assert ranked(count, key) == ranked(count, key)


@given(workers, keys)
def test_one_more_worker_takes_from_others_and_moves_nothing_between_them(count: int, key: str) -> None:
    before, after = ranked(count, key), ranked(count + 1, key)

    assert [worker for worker in after if worker != count] == before


@given(some.integers(min_value=2, max_value=12), keys)
def test_share_of_a_lost_worker_goes_to_the_next_in_order(count: int, key: str) -> None:
    first, second = ranked(count, key)[:2]

    assert next(worker for worker in ranked(count, key) if worker != first) == second


def test_keys_spread_evenly() -> None:
    owners = Counter(ranked(4, f"dir/file-{i}\0{i}")[0] for i in range(4000))

    assert all(850 < owners[worker] < 1150 for worker in range(4))


def test_name_that_is_not_utf_8_has_an_owner() -> None:
    assert len(ranked(3, "\udcff")) == 3
