"""Where the bytes of one source come from: workers first, then the under file system. Blocking; used in threads."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from blockcache.catalog import Listed
from blockcache.circuit import Circuit
from datamodel.errors import Corrupt, HeadraceError, NotFound, Precondition, Unavailable, VersionChanged
from obs import logs
from obs.metrics import FETCH_BYTES, FETCH_ERRORS
from ufs.base import Sink, Stat, UnderFileSystem

log = logs.get("blockcache")
T = TypeVar("T")

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
        self.problem = ""

    def stat(self, path: str) -> Stat:
        return self._first(lambda ufs: ufs.stat(path))[1]

    def list(self, path: str) -> list[Listed]:
        """Entries of a directory. Sizes that the listing does not tell exactly are None."""
        return self._first(
            lambda ufs: [Listed(entry.name, entry.is_dir, entry.size, entry.mtime_ns) for entry in ufs.list(path)]
        )[1]

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
