"""The status of a mount as lines for people. Pure: it shows whatever keys there are."""

from collections.abc import Iterator, Mapping
from typing import Any

from datamodel.quantity import show_bytes

_FEATURES = {
    "passthrough": "passthrough",
    "survivesKill": "survives kill -9",
    "cacheDirectories": "kernel keeps listings",
    "readAheadKiB": "read-ahead KiB",
    "processes": "processes",
    "profile": "profile",
    "shortCuts": "answers on the spot",
}
"""Features by their name in the status; others are shown as they are called."""


def lines(status: Mapping[str, Any]) -> Iterator[str]:
    """*status* as `headrace status` prints it."""
    yield _line("mount", f"{status.get('mountpoint', '')}  ({status.get('dataset', '')})")
    for source in status["sources"]:
        health = "healthy" if source["healthy"] else f"NOT HEALTHY: {source['problem']}"
        yield _line("source", f"{source['name']}: {source['url']}  {health}")
    yield from _cache(status)
    yield from _reads(status["reads"])
    for process in status["processes"]:
        yield _line("process", f"{process['role']} {process['pid']}, {show_bytes(process['rssBytes'])}")
    yield from _features(status["features"], status.get("reasons", {}))
    if status.get("logFile"):
        yield _line("log", status["logFile"])


def _cache(status: Mapping[str, Any]) -> Iterator[str]:
    cache, listing = status["cache"], status.get("listing", {})
    what = "all of it listed" if listing.get("complete") else "seen so far"
    yield _line("dataset", f"{status['files']:,} files, {show_bytes(cache['totalBytes'])}, {what}")
    yield _line(
        "cached",
        f"{show_bytes(cache['cachedBytes'])}, {cache['cachedPercentage']}% of that; "
        f"quota {show_bytes(cache['quotaBytes'])}",
    )
    for tier in cache.get("tiers", ()):
        yield _line("tier", f"{tier['path']}: {show_bytes(tier['cachedBytes'])} of {show_bytes(tier['quotaBytes'])}")
    if not cache.get("tiers") and status.get("cacheDir"):
        yield _line("tier", status["cacheDir"])


def _reads(reads: Mapping[str, Any]) -> Iterator[str]:
    count = reads["hits"] + reads["misses"]
    ratio = f", {100 * reads['hits'] / count:.1f}% from the cache" if count else ""
    rate = f", {show_bytes(round(reads['bytesPerSecond']))}/s now" if "bytesPerSecond" in reads else ""
    yield _line("reads", f"{reads['hits']:,} from the cache, {reads['misses']:,} fetched{ratio}")
    yield _line("", f"{show_bytes(reads['bytes'])} through daemons{rate}")


def _features(features: Mapping[str, Any], reasons: Mapping[str, str]) -> Iterator[str]:
    for name, value in features.items():
        reason = f": {reasons[name]}" if reasons.get(name) else ""
        yield _line("feature", f"{_FEATURES.get(name, name)} {_shown(value)}{reason}")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _line(label: str, text: str) -> str:
    return f"{label:<10} {text}"
