"""The rows of the table: what is measured, in which unit, and how the figures of all runs become one."""

import statistics
from dataclasses import dataclass, field

from machine import Cost


@dataclass(frozen=True, slots=True)
class Row:
    """*more_is_better* is false for times. *limit* names systems whose figure is what the origin itself can do."""

    title: str
    unit: str
    more_is_better: bool = True
    per_gib: bool = False


ROWS = {
    "large_cold": Row("1 large file, cold, sequential", "MiB/s", per_gib=True),
    "large_warm": Row("… warm, page cache dropped through the mount", "MiB/s", per_gib=True),
    "large_kept": Row("… warm, page cache kept", "MiB/s", per_gib=True),
    "random_1": Row("… warm, random 4 KiB, 1 thread", "reads/s", per_gib=True),
    "random_8": Row("… warm, random 4 KiB, 8 threads", "reads/s", per_gib=True),
    "large_disk": Row("… warm, all page cache dropped (cache on disk)", "MiB/s", per_gib=True),
    "random_8_disk": Row("… the same, random 4 KiB, 8 threads", "reads/s", per_gib=True),
    "mmap_cold": Row("1 large file, cold, mmap by 4 threads", "MiB/s", per_gib=True),
    "mmap_kept": Row("… again", "MiB/s", per_gib=True),
    "small_first": Row("128 KiB files, shuffled, first epoch", "files/s", per_gib=True),
    "small_second": Row("… second epoch", "files/s", per_gib=True),
    "small_disk": Row("… third epoch, all page cache dropped", "files/s", per_gib=True),
    "find_cold": Row("tree of 1,000 files a folder: find, first", "names/s"),
    "find_again": Row("… find again", "names/s"),
    "stat_kept": Row("… stat of random names, after find", "stats/s"),
    "stat_dropped": Row("… the same, names dropped from the kernel", "stats/s"),
    "mount_known": Row("… mounted again: until the first stat answers", "s", more_is_better=False),
    "find_known": Row("… mounted again: find", "names/s"),
    "flat_cold": Row("one folder of many files: names, first", "names/s"),
    "flat_again": Row("… names again", "names/s"),
    "flat_stat": Row("… names and attributes, names dropped from the kernel", "names/s"),
    "flat_stat_kept": Row("… names and attributes again", "names/s"),
}


@dataclass(slots=True)
class Cell:
    """All that was measured of one row for one system; the lists have one item per run."""

    values: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    origin_cpu_s: list[float] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)
    gib: list[float] = field(default_factory=list)

    def add(self, value: float, gib: float, cost: Cost, origin: Cost) -> None:
        self.values.append(round(value, 4))
        self.gib.append(gib)
        self.cpu_s.append(round(cost.cpu_s, 3))
        self.origin_cpu_s.append(round(origin.cpu_s, 3))
        self.rss_bytes.append(cost.peak_rss_bytes)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def plain(self) -> dict[str, object]:
        """For JSON."""
        return {
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "values": self.values,
            "cpuSeconds": self.cpu_s,
            "originCpuSeconds": self.origin_cpu_s,
            "peakRssBytes": self.rss_bytes,
            "gib": [round(gib, 4) for gib in self.gib],
        }

    @classmethod
    def of(cls, plain: dict[str, list[float]]) -> "Cell":
        """What `plain` gave."""
        return cls(plain["values"], plain["cpuSeconds"], plain["originCpuSeconds"],
                   [int(value) for value in plain["peakRssBytes"]], plain["gib"])  # fmt: skip


Table = dict[str, dict[str, Cell]]
"""Row name → system name → cell."""
