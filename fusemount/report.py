"""What a daemon process tells its supervisor twice a second, and what the supervisor shows of all of them."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class SourceHealth(msgspec.Struct, frozen=True):
    name: str
    url: str
    healthy: bool
    problem: str = ""


class LastWords(msgspec.Struct, frozen=True, tag=True):
    """Why a daemon ends."""

    text: str


class Report(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Counters since the process started; sizes in bytes."""

    pid: int
    ready: bool
    passthrough: bool
    detached: bool = False
    """The broker that made this mount is gone: who reads it now is served on, but new readers need another daemon."""
    quota_bytes: int
    cached_bytes: int
    files: int
    total_bytes: int
    hits: int
    misses: int
    read_bytes: int
    rss_bytes: int
    sources: tuple[SourceHealth, ...]


class Process(msgspec.Struct, frozen=True, rename="camel"):
    pid: int
    role: str
    rss_bytes: int


class Cache(msgspec.Struct, frozen=True, rename="camel"):
    quota_bytes: int = 0
    cached_bytes: int = 0
    total_bytes: int = 0
    cached_percentage: float = 0.0


class Features(msgspec.Struct, frozen=True, rename="camel"):
    passthrough: bool = False
    survives_kill: bool = False


class Reads(msgspec.Struct, frozen=True, rename="camel"):
    """Reads that reached a daemon; what the kernel served from its cache or by passthrough is not among them."""

    hits: int = 0
    misses: int = 0
    bytes: int = 0


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """`headrace status -o json` and the /status view of fuse and worker pods. An interface: only ever add to it."""

    dataset: str
    sources: tuple[SourceHealth, ...]
    cache: Cache
    files: int
    processes: tuple[Process, ...]
    features: Features
    reads: Reads


def summarize(
    dataset: str, reports: list[Report], earlier: Reads, processes: tuple[Process, ...], *, survives_kill: bool
) -> Status:
    """One status out of the daemons' last *reports*; *earlier* counts what ended processes had served."""
    newest = max(reports, key=lambda report: report.total_bytes, default=None)
    cache = Cache()
    if newest is not None:
        cached, total = max(report.cached_bytes for report in reports), newest.total_bytes
        cache = Cache(newest.quota_bytes, cached, total, round(min(100.0, 100 * cached / total), 1) if total else 0.0)
    return Status(
        dataset=dataset,
        sources=_worst(reports),
        cache=cache,
        files=newest.files if newest else 0,
        processes=processes,
        features=Features(any(report.passthrough for report in reports), survives_kill),
        reads=Reads(
            earlier.hits + sum(report.hits for report in reports),
            earlier.misses + sum(report.misses for report in reports),
            earlier.bytes + sum(report.read_bytes for report in reports),
        ),
    )


def _worst(reports: list[Report]) -> tuple[SourceHealth, ...]:
    """Each source as the daemon sees it that has trouble with it, if one has: they ask it at different times."""
    sources = {source.name: source for report in reports for source in report.sources}
    troubled = {source.name: source for report in reports for source in report.sources if not source.healthy}
    return tuple((sources | troubled).values())


def status_json(status: Status) -> dict[str, Any]:
    """*status* as plain values for JSON."""
    plain: dict[str, Any] = msgspec.to_builtins(status)
    return plain


class MountCollector(Collector):
    """Metrics of a mount out of its daemons' reports, for the supervisor's /metrics."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        status = self._status()
        for name, text, value in (
            ("fluid_fuse_daemons", "Daemon processes of this mount.", len(status.processes)),
            ("fluid_cache_quota_bytes", "What the tiers may hold.", status.cache.quota_bytes),
            ("fluid_cache_bytes", "What the tiers hold.", status.cache.cached_bytes),
            ("fluid_dataset_bytes", "Size of the files seen so far.", status.cache.total_bytes),
            ("fluid_dataset_files", "Files seen so far.", status.files),
        ):
            yield GaugeMetricFamily(name, text, value=value)
        reads = CounterMetricFamily("fluid_fuse_reads", "Reads that reached a daemon.", labels=["result"])
        reads.add_metric(["hit"], status.reads.hits)
        reads.add_metric(["miss"], status.reads.misses)
        yield reads
        yield CounterMetricFamily("fluid_fuse_read_bytes", "Bytes that daemons delivered.", value=status.reads.bytes)
