"""One status out of several daemons' reports."""

import json

from prometheus_client import CollectorRegistry, generate_latest

from fusemount.report import MountCollector, Process, Reads, Report, SourceHealth, Status, status_json, summarize


def report(pid: int, **changes: object) -> Report:
    values: dict[str, object] = {
        "ready": True, "quota_bytes": 1000, "cached_bytes": 0, "files": 1, "total_bytes": 100,
        "hits": 0, "misses": 0, "read_bytes": 0, "rss_bytes": 1, "sources": (SourceHealth("s", "http://s/", True),),
    }  # fmt: skip
    return Report(pid=pid, **{**values, **changes})  # type: ignore[arg-type]  # checked by the Struct's users below


def summary(*reports: Report, earlier: Reads = Reads()) -> Status:  # noqa: B008  # a frozen value
    processes = tuple(Process(found.pid, "daemon", found.rss_bytes) for found in reports)
    return summarize("ns/name", list(reports), earlier, processes, survives_kill=True)


def test_reads_of_all_daemons_add_up_with_those_of_ended_ones() -> None:
    status = summary(
        report(1, hits=1, misses=2, read_bytes=3), report(2, hits=10, misses=20, read_bytes=30),
        earlier=Reads(100, 200, 300),
    )  # fmt: skip

    assert status.reads == Reads(111, 222, 333, hit_ratio=0.3333)


def test_sizes_are_those_of_who_knows_most_and_never_added() -> None:
    status = summary(report(1, cached_bytes=50, total_bytes=100), report(2, cached_bytes=40, total_bytes=200, files=2))

    assert (status.cache.cached_bytes, status.cache.total_bytes, status.files) == (50, 200, 2)
    assert status.cache.cached_percentage == 25.0


def test_percentage_is_never_above_a_hundred_and_zero_of_nothing() -> None:
    assert summary(report(1, cached_bytes=500, total_bytes=100)).cache.cached_percentage == 100.0
    assert summary(report(1, cached_bytes=0, total_bytes=0)).cache.cached_percentage == 0.0


def test_trouble_that_one_daemon_met_is_shown() -> None:
    away = SourceHealth("s", "http://s/", False, "no route")

    assert summary(report(1, total_bytes=500), report(2, sources=(away,))).sources == (away,)
    assert summary(report(1, sources=(away,)), report(2, total_bytes=500)).sources == (away,)


def test_nothing_heard_yet_is_a_status_too() -> None:
    assert summary().cache.total_bytes == 0


def test_json_has_the_names_that_users_rely_on() -> None:
    plain = json.loads(json.dumps(status_json(summary(report(7)))))

    assert plain.keys() == {
        "dataset", "sources", "cache", "files", "processes", "features", "reads", "reasons", "listing",
    }  # fmt: skip
    assert plain["cache"].keys() == {"quotaBytes", "cachedBytes", "totalBytes", "cachedPercentage", "tiers"}
    assert plain["reads"].keys() == {"hits", "misses", "bytes", "hitRatio", "bytesPerSecond", "pushedBytes"}
    assert plain["listing"] == {"complete": False}
    assert plain["processes"] == [{"pid": 7, "role": "daemon", "rssBytes": 1}]
    assert plain["features"] == {
        "passthrough": False, "survivesKill": False, "readAheadKiB": 0, "processes": 1, "profile": "large-files",
        "cacheDirectories": False, "shortCuts": False,
    }  # fmt: skip
    assert plain["sources"] == [{"name": "s", "url": "http://s/", "healthy": True, "problem": ""}]


def test_metrics_are_taken_from_the_status() -> None:
    registry = CollectorRegistry()
    registry.register(MountCollector(lambda: summary(report(1, hits=3, cached_bytes=5))))

    text = generate_latest(registry).decode()

    assert 'fluid_fuse_reads_total{result="hit"} 3.0' in text
    assert "fluid_cache_bytes 5.0" in text
