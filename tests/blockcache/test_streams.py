"""Telling sequential readers of one file from random ones, and how far ahead each is served."""

from blockcache.streams import Streams

MIB = 1 << 20


def test_window_doubles_while_reading_is_sequential_and_has_a_limit() -> None:
    streams = Streams()

    windows = [streams.advance(offset * MIB, MIB, MIB)[1] // MIB for offset in range(8)]

    assert windows == [1, 2, 4, 8, 16, 32, 32, 32]


def test_random_read_gets_no_window() -> None:
    streams = Streams()
    streams.advance(0, MIB, MIB)

    assert streams.advance(100 * MIB, 4096, MIB) == (100 * MIB + 4096, 0)


def test_read_that_overtakes_another_is_still_sequential() -> None:
    streams = Streams()
    streams.advance(0, MIB, MIB)
    streams.advance(2 * MIB, MIB, MIB)

    goes_on, window = streams.advance(MIB, MIB, MIB)

    assert goes_on == 3 * MIB
    assert window > 0


def test_four_readers_at_different_places_have_a_window_each() -> None:
    streams = Streams()
    starts = [quarter * 256 * MIB for quarter in range(4)]

    for step in range(6):
        windows = [streams.advance(start + step * MIB, MIB, MIB)[1] for start in starts]

    assert windows == [32 * MIB, 16 * MIB, 16 * MIB, 16 * MIB]


def test_many_random_reads_do_not_pile_up() -> None:
    streams = Streams()

    for step in range(1000):
        streams.advance(step * 64 * MIB, 4096, MIB)

    assert len(streams._streams) <= 8
