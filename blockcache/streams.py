"""How one file is being read: sequential readers are told from random ones, and get a growing window fetched ahead.

Several readers may go through one file at different places at once, as threads do that load a model through mmap, and
the kernel hands their requests to the daemon processes as it likes; so a request belongs to a stream if it is near to
where that stream would go on.
"""

AHEAD_BYTES = 32 << 20
_SLACK_BYTES = 4 << 20
_STREAMS = 8


class Streams:
    """The latest streams of one file, each as (offset where it goes on, window in bytes), last used last."""

    def __init__(self) -> None:
        self._streams: list[tuple[int, int]] = [(0, 0)]

    def advance(self, offset: int, size: int, block_bytes: int) -> tuple[int, int]:
        """Note a read. Where its stream goes on, and how many bytes to have fetched from there; 0 for a random read."""
        end = offset + size
        for index, (goes_on, window) in enumerate(self._streams):
            if -_SLACK_BYTES <= offset - goes_on <= _SLACK_BYTES:
                del self._streams[index]
                window = min(AHEAD_BYTES, max(block_bytes, 2 * window))
                self._streams.append((max(goes_on, end), window))
                return self._streams[-1]
        self._streams = [*self._streams[1 - _STREAMS :], (end, 0)]
        return end, 0
