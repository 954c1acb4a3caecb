"""`headrace status`: what a mount serves and holds."""

import argparse

SUMMARY = "Show what a mount of `headrace mount` serves, holds and uses."
EXAMPLES = """examples:
  headrace status /mnt/data
  headrace status /mnt/data -o json | jq .cache.cachedPercentage
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="default: %(default)s")


def run(arguments: argparse.Namespace) -> int:
    import json

    from datamodel.quantity import show_bytes
    from fusemount.local import mountpoint_of, read_status

    mountpoint = mountpoint_of(arguments.mountpoint)
    status = read_status(mountpoint)
    if arguments.output == "json":
        print(json.dumps(status, indent=2))
        return 0
    cache, reads, features = status["cache"], status["reads"], status["features"]
    for source in status["sources"]:
        print(f"source     {source['name']}: {source['url']}  {'healthy' if source['healthy'] else source['problem']}")
    print(f"seen       {status['files']} files, {show_bytes(cache['totalBytes'])}")
    print(
        f"cached     {show_bytes(cache['cachedBytes'])} of {show_bytes(cache['quotaBytes'])} quota, "
        f"{cache['cachedPercentage']}% of what was seen"
    )
    print(f"reads      {reads['hits']} from the cache, {reads['misses']} fetched, {show_bytes(reads['bytes'])} in all")
    for process in status["processes"]:
        print(f"process    {process['role']} {process['pid']}, {show_bytes(process['rssBytes'])}")
    print(f"kernel     passthrough {_yes(features['passthrough'])}, survives kill -9 {_yes(features['survivesKill'])}")
    return 0


def _yes(value: bool) -> str:
    return "yes" if value else "no"
