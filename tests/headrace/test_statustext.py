"""The status as people read it."""

from typing import Any

from headrace.statustext import lines

STATUS: dict[str, Any] = {
    "dataset": "local/m",
    "mountpoint": "/mnt/data",
    "cacheDir": "/var/cache/headrace/x",
    "logFile": "/var/log/headrace/mnt-data.log",
    "sources": [
        {"name": "a", "url": "http://a/", "healthy": True, "problem": ""},
        {"name": "b", "url": "http://b/", "healthy": False, "problem": "connection refused"},
    ],
    "cache": {"quotaBytes": 20 << 30, "cachedBytes": 1 << 30, "totalBytes": 4 << 30, "cachedPercentage": 25.0},
    "files": 1234,
    "processes": [{"pid": 1, "role": "broker", "rssBytes": 30 << 20}],
    "features": {"passthrough": False, "survivesKill": True},
    "reads": {"hits": 3, "misses": 1, "bytes": 1 << 20},
}


def test_what_is_needed_most_is_there() -> None:
    text = "\n".join(lines(STATUS))

    assert "a: http://a/  healthy" in text
    assert "b: http://b/  NOT HEALTHY: connection refused" in text
    assert "1,234 files, 4.00GiB, seen so far" in text
    assert "1.00GiB, 25.0% of that; quota 20.00GiB" in text
    assert "75.0% from the cache" in text
    assert "survives kill -9 yes" in text
    assert "/var/log/headrace/mnt-data.log" in text


def test_feature_that_is_off_says_why() -> None:
    text = "\n".join(lines(STATUS | {"reasons": {"passthrough": "needs Linux 6.9"}}))

    assert "passthrough no: needs Linux 6.9" in text


def test_newer_keys_are_shown_and_unknown_features_as_they_are_called() -> None:
    cache = STATUS["cache"] | {"tiers": [{"path": "/mem", "quotaBytes": 2 << 30, "cachedBytes": 1 << 30}]}
    features = {"readAheadKiB": 4096, "somethingNew": "yes and no"}
    reads = STATUS["reads"] | {"bytesPerSecond": 1 << 20}

    text = "\n".join(
        lines(STATUS | {"cache": cache, "features": features, "reads": reads, "listing": {"complete": True}})
    )

    assert "all of it listed" in text
    assert "/mem: 1.00GiB of 2.00GiB" in text
    assert "read-ahead KiB 4096" in text
    assert "somethingNew yes and no" in text
    assert "1.00MiB/s now" in text
