"""docs/configuration.md has every option of every command, where a reader looks for it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.main import COMMANDS, command_parser

ROOT = Path(__file__).resolve().parents[2]
FROM_ENVIRONMENT = ("image", "image_pull_policy")
PAGE = (ROOT / "docs/configuration.md").read_text()


def section(command: str) -> str:
    """The text below the command's heading, up to the next command's."""
    match = re.search(rf"^###? headrace {command}\n(.*?)(?=^###? headrace |^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert match is not None, f"no heading for headrace {command}"
    return match[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_described(command: str) -> None:
    text = section(command)

    for action in command_parser(command)._actions:
        for word in action.option_strings:
            if word.startswith("--") and word not in ("--help", "--log-level"):
                assert re.search(rf"{word}(?![\w-])", text), f"{word} is missing below headrace {command}"


@pytest.mark.parametrize("command", COMMANDS)
def test_no_option_is_described_that_is_not_there(command: str) -> None:
    known = {word for action in command_parser(command)._actions for word in action.option_strings}

    for row in re.findall(r"^\| (`-.*?) \|", section(command), re.MULTILINE):
        for word in re.findall(r"`(--?[a-z-]+)", row):
            assert word in known, f"headrace {command} has no {word}"


@pytest.mark.parametrize("command", COMMANDS)
def test_defaults_in_the_tables_are_those_of_the_parser(command: str) -> None:
    rows = section(command).splitlines()

    for action in command_parser(command)._actions:
        is_shown = action.option_strings and action.dest not in ("help", "log_level", *FROM_ENVIRONMENT)
        if not is_shown or isinstance(action.default, bool) or not isinstance(action.default, int | float | str):
            continue
        shown = f"{action.default:g}" if isinstance(action.default, float) else str(action.default)
        (row,) = [line for line in rows if f"`{action.option_strings[-1]}" in line.rpartition("|")[0].split(" | ")[0]]
        assert f"`{shown}`" in row, f"{action.option_strings[-1]}: its default is {shown}"


def test_tables_of_source_options_are_fresh() -> None:
    command = [sys.executable, str(ROOT / "scripts/generate-configuration"), "--check"]

    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert result.returncode == 0, result.stderr


def test_exit_codes_are_described() -> None:
    for code in (0, 1, 2, 130):
        assert f"\n| {code} | " in PAGE
