"""What a daemon process tells its supervisor twice a second, and what the supervisor shows of all of them."""

from collections import deque
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


class Tier(msgspec.Struct, frozen=True, rename="camel"):
    path: str
    quota_bytes: int
    cached_bytes: int


class Features(msgspec.Struct, frozen=True, rename="camel"):
    """What of the kernel and of this project a mount makes use of. Where one is off, `Status.reasons` says why."""

    passthrough: bool = False
    """The kernel reads complete files by itself."""
    survives_kill: bool = False
    """Readers wait for a new daemon when one is killed, and see no error."""
    read_ahead_kib: int = msgspec.field(default=0, name="readAheadKiB")
    """How far the kernel reads ahead of a sequential reader; 0: its own default."""
    processes: int = 1
    """Daemon processes that serve the mount together."""
    profile: str = "large-files"
    """`small-files`: opened without a message to a daemon, and pushed into the page cache."""
    cache_directories: bool = False
    """The kernel keeps listings."""
    short_cuts: bool = False
    """What is at hand is answered without a turn of the event loop."""


class Report(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Counters since the process started; sizes in bytes."""

    pid: int
    ready: bool
    standby: bool = False
    """It waits to take the place of a daemon that ends, and has nothing else to tell."""
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
    pushed_bytes: int = 0
    sources: tuple[SourceHealth, ...]
    tiers: tuple[Tier, ...] = ()
    is_listed: bool = False
    features: Features = Features()
    reasons: dict[str, str] = {}


class Process(msgspec.Struct, frozen=True, rename="camel"):
    """*role* is `broker` (with the supervisor), `daemon`, or `standby`: it takes the place of a daemon that ends."""

    pid: int
    role: str
    rss_bytes: int


class Cache(msgspec.Struct, frozen=True, rename="camel"):
    quota_bytes: int = 0
    cached_bytes: int = 0
    total_bytes: int = 0
    cached_percentage: float = 0.0
    tiers: tuple[Tier, ...] = ()


class Listing(msgspec.Struct, frozen=True, rename="camel"):
    complete: bool = False
    """Every folder of the dataset was listed, so that the number of files and their sizes are the true ones."""


class Reads(msgspec.Struct, frozen=True, rename="camel"):
    """Reads that reached a daemon; what the kernel served from its cache or by passthrough is not among them."""

    hits: int = 0
    misses: int = 0
    bytes: int = 0
    hit_ratio: float = 0.0
    """Share of the reads that needed no source, 0 to 1; 0 where there were none."""
    bytes_per_second: int = 0
    """Over the last seconds."""
    pushed_bytes: int = 0
    """Put into the kernel's page cache ahead of any reader."""


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """`headrace status -o json` and the /status view of fuse and worker pods. An interface: only ever add to it."""

    dataset: str
    sources: tuple[SourceHealth, ...]
    cache: Cache
    files: int
    processes: tuple[Process, ...]
    features: Features
    reads: Reads
    reasons: dict[str, str] = {}
    """Why a feature is off, by its name in *features*."""
    listing: Listing = Listing()


class Rate:
    """Bytes per second over the last seconds."""

    def __init__(self, over_s: float = 5.0) -> None:
        self._over_s = over_s
        self._points: deque[tuple[float, int]] = deque()

    def note(self, now: float, total_bytes: int) -> None:
        """*total_bytes* were read until *now* (seconds of any clock)."""
        self._points.append((now, total_bytes))
        while len(self._points) > 2 and self._points[1][0] <= now - self._over_s:
            self._points.popleft()

    @property
    def per_second(self) -> int:
        if len(self._points) < 2:
            return 0
        (start, before), (end, after) = self._points[0], self._points[-1]
        return max(0, int((after - before) / max(end - start, 0.001)))


def summarize(
    dataset: str,
    reports: list[Report],
    earlier: Reads,
    processes: tuple[Process, ...],
    *,
    survives_kill: bool,
    bytes_per_second: int = 0,
) -> Status:
    """One status out of the daemons' last *reports*; *earlier* counts what ended processes had served."""
    reports = [report for report in reports if not report.standby]
    newest = max(reports, key=lambda report: report.total_bytes, default=None)
    cache = Cache()
    if newest is not None:
        cached, total = max(report.cached_bytes for report in reports), newest.total_bytes
        percentage = round(min(100.0, 100 * cached / total), 1) if total else 0.0
        cache = Cache(newest.quota_bytes, cached, total, percentage, newest.tiers)
    features, reasons = _features(reports, survives_kill=survives_kill)
    return Status(
        dataset=dataset,
        sources=_worst(reports),
        cache=cache,
        files=newest.files if newest else 0,
        processes=processes,
        features=features,
        reads=_reads(reports, earlier, bytes_per_second),
        reasons=reasons,
        listing=Listing(any(report.is_listed for report in reports)),
    )


def _reads(reports: list[Report], earlier: Reads, bytes_per_second: int) -> Reads:
    hits = earlier.hits + sum(report.hits for report in reports)
    misses = earlier.misses + sum(report.misses for report in reports)
    delivered = earlier.bytes + sum(report.read_bytes for report in reports)
    ratio = round(hits / (hits + misses), 4) if hits + misses else 0.0
    pushed = earlier.pushed_bytes + sum(report.pushed_bytes for report in reports)
    return Reads(hits, misses, delivered, ratio, bytes_per_second, pushed)


def _features(reports: list[Report], *, survives_kill: bool) -> tuple[Features, dict[str, str]]:
    """As the daemons see them: a feature that one of them lost is lost."""
    if not reports:
        return Features(survives_kill=survives_kill), {}
    reasons = {name: why for report in reports for name, why in report.reasons.items()}
    first = reports[0].features
    features = msgspec.structs.replace(
        first,
        passthrough=all(report.features.passthrough for report in reports),
        survives_kill=survives_kill and first.survives_kill,
        processes=len(reports),
    )
    return features, reasons


def _worst(reports: list[Report]) -> tuple[SourceHealth, ...]:
    """Each source as the daemon sees it that has trouble with it, if one has: they ask it at different times."""
    sources = {source.name: source for report in reports for source in report.sources}
    troubled = {source.name: source for report in reports for source in report.sources if not source.healthy}
    return tuple((sources | troubled).values())


def status_json(status: Status) -> dict[str, Any]:
    """*status* as plain values for JSON."""
    plain: dict[str, Any] = msgspec.to_builtins(status)
    return plain


def _count(status: Status, role: str) -> int:
    return sum(process.role == role for process in status.processes)


class MountCollector(Collector):
    """Metrics of a mount out of its daemons' reports, for the supervisor's /metrics."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        status = self._status()
        for name, text, value in (
            ("fluid_fuse_daemons", "Daemon processes of this mount.", _count(status, "daemon")),
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
