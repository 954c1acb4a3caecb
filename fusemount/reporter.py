"""What one daemon process tells of itself, twice a second: to its supervisor, or where it has none to a status file."""

import contextlib
import json
import os
import socket
from pathlib import Path

import msgspec
import trio

from blockcache.dataset import CachedDataset
from datamodel.client import Source
from fusemount.report import (
    Features,
    LastWords,
    Process,
    Rate,
    Reads,
    Report,
    SourceHealth,
    Tier,
    status_json,
    summarize,
)  # fmt: skip
from fusemount.xattrs import without_secrets

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Reporter:
    """Writes to *reports*, a supervisor's socket, and to *status_file*; either may be None."""

    def __init__(self, reports: socket.socket | None, status_file: Path | None) -> None:
        self._reports, self._status_file = reports, status_file
        self._rate = Rate()
        self.ready = self.detached = False
        self.pushed_bytes = 0

    def report(self, dataset: CachedDataset, features: Features, reasons: dict[str, str]) -> bool:
        """Tell how *dataset* is served. False when a supervisor there was is gone."""
        report = self._describe(dataset, features, reasons)
        if self._status_file is not None:
            self._write_status(dataset.config.dataset, report)
        return self._reports is None or self._send(report)

    def forget_supervisor(self) -> None:
        """It is gone, and we go on without."""
        self._reports = None

    def last_words(self, text: str) -> None:
        """Why this process ends."""
        if self._reports is not None:
            with contextlib.suppress(OSError):  # the supervisor is gone, or behind; the log has it too
                self._reports.send(msgspec.json.encode(LastWords(text)), socket.MSG_DONTWAIT)

    def _describe(self, dataset: CachedDataset, features: Features, reasons: dict[str, str]) -> Report:
        files, total = dataset.catalog.totals()
        return Report(
            pid=os.getpid(),
            ready=self.ready,
            detached=self.detached,
            quota_bytes=dataset.tiers.quota_bytes,
            cached_bytes=dataset.tiers.cached_bytes,
            files=files,
            total_bytes=total,
            hits=dataset.counters.hits,
            misses=dataset.counters.misses,
            read_bytes=dataset.counters.bytes,
            rss_bytes=resident_bytes(),
            pushed_bytes=self.pushed_bytes,
            sources=tuple(_health(dataset, source) for source in dataset.config.sources),
            tiers=_tiers(dataset),
            is_listed=dataset.catalog.is_complete,
            features=features,
            reasons=reasons,
        )

    def _write_status(self, name: str, report: Report) -> None:
        assert self._status_file is not None
        self._rate.note(trio.current_time(), report.read_bytes)
        me = Process(report.pid, "daemon", report.rss_bytes)
        status = summarize(name, [report], Reads(), (me,), survives_kill=False, bytes_per_second=self._rate.per_second)
        new = self._status_file.with_suffix(".new")
        new.write_text(json.dumps(status_json(status), indent=2))
        new.rename(self._status_file)

    def _send(self, report: Report) -> bool:
        assert self._reports is not None
        try:
            self._reports.send(msgspec.json.encode(report), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True  # the supervisor is behind; the next report says it all
        except OSError:
            return False
        return True


def await_go(reports: socket.socket) -> bool:
    """Tell the supervisor that we could start at once, and wait to be told to; False when it is gone."""
    waiting = Report(
        pid=os.getpid(), ready=False, standby=True, quota_bytes=0, cached_bytes=0, files=0, total_bytes=0, hits=0,
        misses=0, read_bytes=0, rss_bytes=resident_bytes(), sources=(),
    )  # fmt: skip
    try:
        reports.send(msgspec.json.encode(waiting))
        return bool(reports.recv(16))
    except (BrokenPipeError, ConnectionResetError):
        return False


def resident_bytes() -> int:
    """Memory of this process; format: proc(5), /proc/self/statm."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


def _health(dataset: CachedDataset, source: Source) -> SourceHealth:
    problem = dataset.origins[source.path].problem
    return SourceHealth(source.name, without_secrets(source.url), not problem, problem)


def _tiers(dataset: CachedDataset) -> tuple[Tier, ...]:
    return tuple(Tier(*tier) for tier in dataset.tiers.status())
