"""The published table: medians, ratios and costs out of the JSON of a run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

_RUN = Path(__file__).parents[2] / "bench/run.py"


def cell(*values: float, cpu_s: float = 0.0) -> dict[str, object]:
    runs = len(values)
    return {
        "values": list(values), "cpuSeconds": [cpu_s] * runs, "originCpuSeconds": [0.5] * runs,
        "peakRssBytes": [64 << 20] * runs, "gib": [2.0] * runs,
    }  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Path:
    file = tmp_path / "results.json"
    rows = {
        "large_cold": {
            "headrace": cell(900.0, 1000.0, 5000.0, cpu_s=3.0),
            "rclone": cell(250.0),
            "juicefs": cell(500.0),
            "native": cell(4000.0),
        },
        "mount_known": {"headrace": cell(0.5), "s3fs": cell(0.25)},
    }
    facts = {
        "date": "2026-11-21", "command": "bench/run.py", "runs": 3, "failures": ["run 2, small, s3fs: EIO"],
        "machine": {"processor": "2 × X", "memory": "8 GiB", "kernel": "6.18", "system": "Debian", "fileSystem": "-"},
        "versions": {"rclone": "1"}, "commands": {"rclone large": "rclone mount"}, "rows": rows,
    }  # fmt: skip
    file.write_text(json.dumps(facts))
    return file


def show(results: Path, *words: str) -> str:
    command = [sys.executable, _RUN, "--from", results, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def line_of(text: str, beginning: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {beginning}"))
    return [part.strip() for part in line.strip("|").split("|")]


def test_a_row_shows_the_median_and_the_ratios_to_the_best_peer_and_the_limits(results: Path) -> None:
    row = line_of(show(results), "1 large file, cold, sequential (MiB/s)")

    assert "1,000" in row
    assert "**2.00**" in row
    assert "**0.25**" in row


def test_the_ratio_of_times_says_how_many_times_as_fast_we_are(results: Path) -> None:
    assert "**0.50**" in line_of(show(results), "… mounted again: until the first stat answers (s)")


def test_the_lowest_and_highest_figure_of_each_row_are_told(results: Path) -> None:
    text = show(results)

    assert "900–5,000" in line_of(text[text.index("Lowest and highest") :], "1 large file, cold, sequential")


def test_costs_are_per_gib_read(results: Path) -> None:
    text = show(results)

    assert "1.50 s/GiB, 64 MiB" in line_of(text[text.index("CPU, peak memory") :], "1 large file, cold, sequential")


def test_failures_are_published_too(results: Path) -> None:
    assert "- run 2, small, s3fs: EIO" in show(results)


def test_publishing_replaces_what_stood_between_the_markers_and_nothing_else(results: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench:begin -->\nwhat was\n<!-- bench:end -->\nafter\n")

    show(results, "--markdown", str(page))

    text = page.read_text()
    assert text.startswith("before\n<!-- bench:begin -->\n2026-11-21: `bench/run.py`")
    assert text.endswith("<!-- bench:end -->\nafter\n")
    assert "what was" not in text


def test_results_of_two_runs_become_one_table(results: Path, tmp_path: Path) -> None:
    other = json.loads(results.read_text())
    other["command"] = "bench/run.py --workload flat"
    other["rows"] = {"flat_cold": {"headrace": cell(7777.0)}}
    file = tmp_path / "other.json"
    file.write_text(json.dumps(other))

    text = show(results, str(file))

    assert "7,777" in line_of(text, "one folder of many files: names, first (names/s)")
    assert "1,000" in line_of(text, "1 large file, cold, sequential (MiB/s)")
    assert "`bench/run.py`, `bench/run.py --workload flat`" in text
