"""`headrace mount`: remote data as a local folder."""

import argparse

SUMMARY = "Serve remote data as a folder: read once from the source, then from the cache on this machine."
EXAMPLES = """examples:
  headrace mount http://mirror.example/datasets/ /mnt/data              # until Ctrl-C
  headrace mount --background http://mirror.example/datasets/ /mnt/data # until `headrace umount /mnt/data`
  headrace mount train=http://a.example/train/ test=http://b.example/test/ /mnt/sets
  headrace mount /net/slow/archive /mnt/fast --cache-size 50GiB --memory-size 4GiB
  headrace mount -f dataset.yaml /mnt/data                              # the manifest that a cluster takes

secrets come from the environment or from files, never from the command line:
  HEADRACE_OPTION_PASSWORD=... headrace mount --option username=me https://a.example/ /mnt/a
  headrace mount --option-file train:bearer-token=token.txt train=https://a.example/ /mnt/a

As root the mount survives the death of its daemons, and complete files are read by the kernel itself. As a normal
user (with fusermount3) one plain process serves it. The cache stays after the mount ends; the same sources find it.
After a crash or kill -9, the same command again takes the dead mount's place and goes on with its cache.

exit codes: 0 unmounted, 1 a source, the cache or the mount point is not to be had, 2 wrong usage, 130 ended before it
served.  All options with their reasons: docs/configuration.md
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="*", metavar="SOURCE", help="[NAME=]URL, or a local path")
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", help="an empty folder; made if missing")
    parser.add_argument("--background", action="store_true", help="return as soon as the mount serves")
    parser.add_argument("--log-file", metavar="FILE", help="where to log (default: the terminal; in the background a "
                        "file of /var/log/headrace, or of ~/.local/state/headrace)")  # fmt: skip
    manifest = parser.add_argument_group("instead of sources")
    manifest.add_argument("-f", "--file", metavar="FILE", help="a Dataset, and perhaps its runtime, as YAML")
    manifest.add_argument("--dataset", metavar="NAME", help="the one to mount, where FILE has several")
    _add_cache_arguments(parser.add_argument_group("cache"))
    _add_source_arguments(parser.add_argument_group("sources"))
    _add_file_system_arguments(parser.add_argument_group("file system"))


def _add_cache_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--cache-dir", metavar="DIR", help="default: a folder per set of sources below /var/cache/headrace, or ~/.cache"
    )
    group.add_argument("--cache-size", metavar="SIZE", help="quota of the cache on disk (default: 20GiB)")
    group.add_argument(
        "--memory-size", metavar="SIZE", help="of a cache in memory in front of it, gone with the mount (default: 0)"
    )


def _add_source_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="[NAME:]KEY=VALUE",
        help="of every source that takes it, or of the one called NAME; repeatable",
    )
    group.add_argument(
        "--option-file",
        action="append",
        default=[],
        metavar="[NAME:]KEY=FILE",
        help="the same with the value in a file: for secrets; repeatable",
    )
    group.add_argument(
        "--ttl", type=float, default=300.0, metavar="SECONDS", help="believe a listing so long (default: %(default)g)"
    )
    group.add_argument("--no-crawl", action="store_true", help="list folders only when they are used")


def _add_file_system_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--processes", type=int, default=2, metavar="N", help="daemon processes (default: %(default)s)")
    group.add_argument(
        "--profile",
        choices=["auto", "large-files", "small-files"],
        default="auto",
        help="what to tune the mount for (default: %(default)s, by the sizes of the files)",
    )
    group.add_argument("--file-mode", default="0444", metavar="MODE", help="of files, octal (default: %(default)s)")
    group.add_argument("--folder-mode", default="0555", metavar="MODE", help="of folders (default: %(default)s)")
    group.add_argument("--owner", metavar="USER[:GROUP]", help="of files and folders (default: root)")
    group.add_argument("--allow-other", action="store_true", help="without root: let other users read, too")
    group.add_argument(
        "--user",
        metavar="NAME",
        help="the daemons' user (default: who called sudo; else nobody, or root for local sources)",
    )


def run(arguments: argparse.Namespace) -> int:
    import os

    from headrace import serving
    from headrace.mountplan import plan_of
    from headrace.options import ENVIRONMENT_PREFIX

    plan = plan_of(arguments, os.environ)
    secrets = set(plan.option_values.values())
    for name, value in list(os.environ.items()):
        if name.startswith(ENVIRONMENT_PREFIX) or value in secrets:
            del os.environ[name]  # the daemons, which may be another user's, get them in files
    return serving.in_background(plan) if arguments.background else serving.in_foreground(plan)
