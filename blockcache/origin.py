"""Where the bytes of one source come from: workers first, then the under file system. Blocking; used in threads."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from blockcache.catalog import Listed
from blockcache.circuit import Circuit
from datamodel.errors import Corrupt, HeadraceError, NotFound, Precondition, Unavailable, VersionChanged
from obs import logs
from obs.metrics import FETCH_BYTES, FETCH_ERRORS
from ufs.base import Entry, Sink, Stat, UnderFileSystem

log = logs.get("blockcache")
T = TypeVar("T")

_BATCH = 2000
_CIRCUIT_S = 2.0


class Origin:
    """Asks *layers* (name, file system) in order; one that is unavailable is left out for a moment.

    Errors of the last layer are the origin's; those of an earlier one are a warning and a metric. Where the last one is
    away it is left alone for a moment, too, and who asks hears so at once.
    """

    def __init__(self, name: str, layers: Sequence[tuple[str, UnderFileSystem]]) -> None:
        self.name, self._layers = name, tuple(layers)
        self._open_until = dict.fromkeys((layer for layer, _ in layers), 0.0)
        self._circuit = Circuit()
        self.has_ranges: bool | None = None
        """Whether a part of a file costs no more than the part: the server's nature; None until it was asked."""
        self.problem = ""

    def stat(self, path: str) -> Stat:
        stat = self._first(lambda ufs: ufs.stat(path))[1]
        if not stat.is_dir:
            self.has_ranges = stat.has_ranges
        return stat

    def list(self, path: str) -> Iterator[list[Listed]]:
        """Entries of a directory, in batches as they come. Sizes that the listing does not tell exactly are None.

        Errors come while iterating; what came before one is true, but it is not all.
        """
        layer, (entries, batch) = self._first(lambda ufs: _begin(ufs.list(path)))
        is_last = layer == self._layers[-1][0]
        while batch:
            yield [_listed(entry) for entry in batch]
            batch = self._last(lambda _: _batch(entries)) if is_last else _batch(entries)

    def read_range(self, path: str, version: str, offset: int, into: memoryview) -> str:
        """Fill *into* from *offset* of *version*; returns the name of the layer that had it.

        Raises:
            Corrupt: the file ends before *into* is full, so its size is not what was said.
        """

        def fill(ufs: UnderFileSystem) -> None:
            count = ufs.read_range(path, version, offset, into)
            if count != len(into):
                raise Corrupt(f"source {self.name!r}: {path!r} ends at {offset + count}, before its promised size")

        layer, _ = self._first(fill)
        FETCH_BYTES.labels(layer).inc(len(into))
        return layer

    def read_whole(self, path: str, limit: int) -> tuple[Stat, bytearray]:
        """A file of at most *limit* bytes as it is now, and its `Stat`; raises Precondition where it is longer."""
        layer, (stat, data) = self._first(lambda ufs: ufs.read_whole(path, limit))
        FETCH_BYTES.labels(layer).inc(len(data))
        return stat, data

    def read_from_start(self, path: str, version: str, sink: Sink) -> None:
        """All of *version* in order, for a source that cannot give a part of a file; workers are not asked."""
        self._last(lambda ufs: ufs.read_from_start(path, version, sink))

    def close(self) -> None:
        for _, ufs in self._layers:
            ufs.close()

    def _first(self, ask: Callable[[UnderFileSystem], T]) -> tuple[str, T]:
        for name, ufs in self._layers[:-1]:
            if time.monotonic() < self._open_until[name]:
                continue
            try:
                return name, ask(ufs)
            except (NotFound, Precondition, VersionChanged):
                continue  # a worker may not know a new file yet; the source decides
            except HeadraceError as error:
                self._open_until[name] = time.monotonic() + _CIRCUIT_S
                FETCH_ERRORS.labels(name).inc()
                log.warning("layer.unavailable", source=self.name, layer=name, error=str(error))
        return self._layers[-1][0], self._last(ask)

    def _last(self, ask: Callable[[UnderFileSystem], T]) -> T:
        name, ufs = self._layers[-1]
        self._circuit.check()  # outside of what notes failures: being refused here is none
        try:
            result = ask(ufs)
        except (Unavailable, Corrupt) as error:
            if isinstance(error, Unavailable):
                self._circuit.note_failure(str(error))
            self.problem = str(error)
            FETCH_ERRORS.labels(name).inc()
            raise
        except HeadraceError:
            self._circuit.note_success()  # it answers
            raise
        self._circuit.note_success()
        self.problem = ""
        return result


def _begin(entries: Iterator[Entry]) -> tuple[Iterator[Entry], list[Entry]]:
    return entries, _batch(entries)


def _batch(entries: Iterator[Entry]) -> list[Entry]:
    return list(islice(entries, _BATCH))


def _listed(entry: Entry) -> Listed:
    size = entry.size if entry.link_target is None else len(os.fsencode(entry.link_target))
    return Listed(
        entry.name, entry.is_dir, size, entry.mtime_ns, "", entry.link_target, entry.is_executable and not entry.is_dir
    )
