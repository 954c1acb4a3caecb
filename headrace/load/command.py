"""Runs a `Loader` for `headrace load` and tells the user about it."""

import queue
import sys
import time
from collections.abc import Sequence

from datamodel.errors import HeadraceError
from datamodel.quantity import show_bytes
from fusemount.localcontrol import Place, read_status
from headrace.load.progress import Bar, Lines, Progress, Quiet, show_time
from headrace.load.reader import Count, Loader

EXIT_INTERRUPTED = 130
_TICK_S = 0.2


def load(places: Sequence[Place], *, bytes_per_s: int, parallel: int, is_quiet: bool) -> int:
    """Load *places*; returns the exit code: 0, 1 where files failed, 130 interrupted."""
    progress: Progress = Quiet() if is_quiet else Bar() if sys.stderr.isatty() else Lines()
    loader = Loader([_path(place) for place in places], parallel=parallel, bytes_per_s=bytes_per_s)
    total_files, total_bytes = _totals(places)
    start = time.monotonic()
    is_interrupted = False
    with progress:
        try:
            loader.start()
            while not loader.finished.wait(_TICK_S):
                _tell_failures(loader, progress)
                _show(loader.count, progress, total_files, total_bytes, time.monotonic() - start)
        except KeyboardInterrupt:
            loader.stop()
            is_interrupted = True
        _tell_failures(loader, progress)
    elapsed_s = time.monotonic() - start
    count = loader.count
    if is_interrupted:
        print(
            f"headrace load: interrupted; {_done(count, elapsed_s)}. The same command goes on from here",
            file=sys.stderr,
        )
        return EXIT_INTERRUPTED
    if count.failed or not count.is_walked:
        print(f"headrace load: {_done(count, elapsed_s)}; {count.failed:,} could not be loaded", file=sys.stderr)
        return 1
    if not is_quiet:
        print(f"headrace load: {_done(count, elapsed_s)}", file=sys.stderr)
    return 0


def _path(place: Place) -> str:
    return f"{place.mountpoint}/{place.inside}" if place.inside else str(place.mountpoint)


def _totals(places: Sequence[Place]) -> tuple[int, int]:
    """Files and bytes of one whole mount, if it has listed everything; (0, 0) where that is not known.

    Warns of a dataset that its cache cannot hold.
    """
    if len(places) != 1 or places[0].inside:
        return 0, 0
    try:
        status = read_status(places[0].mountpoint)
    except HeadraceError:
        return 0, 0  # a pod's volume, or another user's mount: it loads all the same
    if not status.get("listing", {}).get("complete"):
        return 0, 0
    total, quota = int(status["cache"]["totalBytes"]), int(status["cache"]["quotaBytes"])
    if total > quota:
        print(
            f"headrace load: {show_bytes(total)} do not fit in the cache of {show_bytes(quota)}: what is read first "
            "makes room for what comes later; mount with a larger --cache-size, or load a part",
            file=sys.stderr,
        )
    return int(status["files"]), total


def _show(count: Count, progress: Progress, total_files: int, total_bytes: int, elapsed_s: float) -> None:
    if count.is_walked:
        total_files, total_bytes = count.found_files, count.found_bytes
    progress.show(count, total_files, total_bytes, elapsed_s)


def _tell_failures(loader: Loader, progress: Progress) -> None:
    while True:
        try:
            path, why = loader.failures.get_nowait()
        except queue.Empty:
            return
        progress.tell(f"{path}: {why}")


def _done(count: Count, elapsed_s: float) -> str:
    rate = show_bytes(round(count.loaded_bytes / elapsed_s)) if elapsed_s > 0 else "0.00B"
    return (
        f"{count.loaded_files:,} files, {show_bytes(count.loaded_bytes)} loaded in {show_time(elapsed_s)} ({rate}/s), "
        f"{count.cached_files:,} were cached"
    )
