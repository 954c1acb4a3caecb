"""The command line: exit codes, messages for people, and arguments that make no sense."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.main import COMMANDS, command_parser


def run(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "headrace.main", *words],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    text = command_parser(command).format_help()

    assert f"headrace {command}" in text
    assert "example" in text


def test_no_command_is_wrong_usage() -> None:
    assert run().returncode == 2


def test_unknown_command_is_wrong_usage() -> None:
    assert run("moun").returncode == 2


def test_users_error_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    result = run("mount", "--cache-size", "plenty", "http://h/", str(tmp_path / "m"))

    assert result.returncode == 2
    assert (
        result.stderr == "headrace mount: --cache-size: 'plenty' is not a size; write e.g. 10Gi, 500M or 1073741824\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gopher://h/",), "scheme"),
        (("",), "is empty"),
        (("--option", "password=hunter2", "http://a/"), "--option-file"),
        (("/does/not/exist",), "neither a URL nor an existing path"),
        (("http://a/", "http://b/"), "needs a name"),
        (("a=http://a/", "a=http://b/"), "used twice"),
        (("--processes", "0", "http://a/"), "--processes"),
        (("--user", "nobody-at-all", "http://a/"), "does not exist"),
    ],
)
def test_wrong_mount_is_refused_before_anything_happens(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    if "--user" in words and os.geteuid():
        pytest.skip("--user is for root")
    result = run("mount", "--cache-dir", str(tmp_path / "cache"), *words, str(tmp_path / "m"))

    assert (result.returncode, message in result.stderr, "Traceback" in result.stderr) == (2, True, False)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("command", ["umount", "status"])
def test_folder_that_is_no_mount_is_said_so(tmp_path: Path, command: str) -> None:
    result = run(command, str(tmp_path))

    assert result.returncode == 1
    assert str(tmp_path) in result.stderr
    assert "Traceback" not in result.stderr


def test_worker_without_a_config_is_wrong_usage() -> None:
    result = run("worker")

    assert (result.returncode, "--config" in result.stderr) == (2, True)


def test_worker_with_a_wrong_config_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "worker.json").write_text('{"dataset": "x", "surces": []}')

    result = run("worker", "--config", str(tmp_path / "worker.json"))

    assert result.returncode == 2
    assert "worker.json" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["worker", "fuse"])
def test_config_that_is_not_there_is_said_so(tmp_path: Path, command: str) -> None:
    more = ("--broker-socket", "x") if command == "fuse" else ()
    result = run(command, "--config", str(tmp_path / "none.json"), *more)

    assert result.returncode == 2
    assert "none.json" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["load", "refresh"])
def test_path_that_is_in_no_mount_is_said_so(tmp_path: Path, command: str) -> None:
    result = run(command, str(tmp_path))

    assert (result.returncode, "not in a mount of headrace" in result.stderr) == (1, True)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("load", "--parallel", "0", "/"), "--parallel: 0"),
        (("load", "--rate", "fast", "/"), "--rate: 'fast' is not a size"),
        (("load", "--rate", "0", "/"), "--rate: '0' would never end"),
    ],
)
def test_wrong_load_is_wrong_usage(words: tuple[str, ...], message: str) -> None:
    result = run(*words)

    assert (result.returncode, message in result.stderr) == (2, True)


def test_mounts_are_listed_without_a_mountpoint(tmp_path: Path) -> None:
    result = run("status", "-o", "json", XDG_RUNTIME_DIR=str(tmp_path))

    assert result.returncode == 0
    assert result.stdout.startswith("[")


HEAVY = (
    "trio",
    "pyfuse3",
    "kubernetes",
    "grpc",
    "urllib3",
    "structlog",
    "msgspec",
    "prometheus_client",
    "yaml",
    "tqdm",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_imports_nothing_heavy(command: str) -> None:
    code = f"from headrace.main import main; main([{command!r}, '--help'])"
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, timeout=30, check=True
    )

    imported = set(re.findall(r"\| +([a-z0-9_]+)$", result.stderr, re.MULTILINE))
    assert "argparse" in imported
    assert imported.isdisjoint(HEAVY)
