"""The results as JSON and as the tables of docs/benchmarks.md."""

import json
import re
from pathlib import Path
from typing import Any

from rows import ROWS, Cell, Table
from systems import PEERS, SYSTEMS

_BEGIN, _END = "<!-- bench:begin -->", "<!-- bench:end -->"
_S3_PEERS = ("rclone-s3", "juicefs", "s3fs")
_COSTLY = ("headrace", "headrace-plain", "headrace-s3", *PEERS)


def to_json(table: Table, facts: dict[str, Any]) -> str:
    rows = {row: {system: cell.plain() for system, cell in cells.items()} for row, cells in table.items()}
    return json.dumps({**facts, "rows": rows}, indent=1) + "\n"


def from_json(file: Path) -> tuple[Table, dict[str, Any]]:
    facts = json.loads(file.read_text())
    rows = facts.pop("rows")
    return {row: {name: Cell.of(plain) for name, plain in cells.items()} for row, cells in rows.items()}, facts


def merged(results: list[tuple[Table, dict[str, Any]]]) -> tuple[Table, dict[str, Any]]:
    """Several runs as one table. Systems are compared within a row only, so a row comes from one run as a whole."""
    table: Table = {}
    facts: dict[str, Any] = {}
    for rows, more in results:
        table |= rows
        if facts:
            more = more | {
                "command": f"{facts['command']}`, `{more['command']}",
                "runs": facts["runs"] if facts["runs"] == more["runs"] else f"{facts['runs']} and {more['runs']}",
                "failures": facts["failures"] + more["failures"],
                "commands": facts["commands"] | more["commands"],
            }
        facts = more
    return table, facts


def to_markdown(table: Table, facts: dict[str, Any]) -> str:
    """The facts, the table of medians with its ratios, the table of costs, and the commands."""
    systems = [name for name in SYSTEMS if any(name in cells for cells in table.values())]
    costly = [name for name in systems if name in _COSTLY]
    parts = [_facts(facts), _medians(table, systems), "What it cost:", _costs(table, costly)]
    if any(len(cell.values) > 1 for cells in table.values() for cell in cells.values()):
        parts.append(_folded("Lowest and highest of all runs", _ranges(table, systems)))
    if facts["failures"]:
        parts.append("Failed:\n\n" + "\n".join(f"- {text}" for text in facts["failures"]))
    commands = "\n".join(facts["commands"].values())
    parts.append(_folded("The command lines", f"```\n{commands}\n```"))
    return "\n\n".join(parts) + "\n"


def publish(text: str, page: Path) -> None:
    """Put *text* between the markers of *page*."""
    pattern = re.compile(f"{_BEGIN}.*{_END}", re.DOTALL)
    page.write_text(pattern.sub(lambda _: f"{_BEGIN}\n{text}{_END}", page.read_text()))


def _facts(facts: dict[str, Any]) -> str:
    machine, versions = facts["machine"], facts["versions"]
    lines = [
        f"{facts['date']}: `{facts['command']}`, medians of {facts['runs']}.",
        f"{machine['processor']}, {machine['memory']}, {machine['system']}, Linux {machine['kernel']}, "
        f"{machine['fileSystem']}.",
        ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
    ]
    return "\n".join(lines)


def _medians(table: Table, systems: list[str]) -> str:
    ratios = ["best peer", "best S3 peer (Headrace, S3)", "native", "curl"]
    head = ["", *(SYSTEMS[name].title for name in systems), *(f"÷ {name}" for name in ratios)]
    lines = [head, ["---"] * len(head)]
    for name, row in ROWS.items():
        if not (cells := table.get(name)):
            continue
        lines.append([
            f"{row.title} ({row.unit})",
            *(_show_median(cells.get(system)) for system in systems),
            _ratio(name, cells, "headrace", PEERS),
            _ratio(name, cells, "headrace-s3", _S3_PEERS),
            _ratio(name, cells, "headrace", ("native",)),
            _ratio(name, cells, "headrace", ("curl",)),
        ])  # fmt: skip
    return _lines(lines)


def _costs(table: Table, systems: list[str]) -> str:
    head = ["CPU, peak memory", *(SYSTEMS[name].title for name in systems), "origin (of Headrace)"]
    lines = [head, ["---"] * len(head)]
    for name, row in ROWS.items():
        if cells := table.get(name):
            shown = [_show_cost(cells.get(system), row.per_gib) for system in systems]
            origin = cells.get("headrace")
            lines.append([row.title, *shown, _per(origin.origin_cpu_s, origin, row.per_gib) if origin else ""])
    return _lines(lines)


def _ranges(table: Table, systems: list[str]) -> str:
    head = ["", *(SYSTEMS[name].title for name in systems)]
    lines = [head, ["---"] * len(head)]
    for name, row in ROWS.items():
        if cells := table.get(name):
            lines.append([f"{row.title} ({row.unit})", *(_show_range(cells.get(system)) for system in systems)])
    return _lines(lines)


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def _lines(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _ratio(row: str, cells: dict[str, Cell], ours: str, others: tuple[str, ...]) -> str:
    """How many times as fast *ours* is as the best of *others*."""
    theirs = [cells[name].median for name in others if name in cells]
    if ours not in cells or not theirs:
        return ""
    if ROWS[row].more_is_better:
        return f"**{cells[ours].median / max(theirs):.2f}**"
    return f"**{min(theirs) / cells[ours].median:.2f}**"


def _show_median(cell: Cell | None) -> str:
    return "" if cell is None else _show(cell.median)


def _show_range(cell: Cell | None) -> str:
    return "" if cell is None else f"{_show(min(cell.values))}–{_show(max(cell.values))}"


def _show(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _show_cost(cell: Cell | None, per_gib: bool) -> str:
    if cell is None or not any(cell.rss_bytes):
        return ""
    return f"{_per(cell.cpu_s, cell, per_gib)}, {max(cell.rss_bytes) / 2**20:,.0f} MiB"


def _per(cpu_s: list[float], cell: Cell, per_gib: bool) -> str:
    middle = sorted(range(len(cpu_s)), key=lambda run: cpu_s[run])[len(cpu_s) // 2]
    if per_gib and cell.gib[middle]:
        return f"{cpu_s[middle] / cell.gib[middle]:.2f} s/GiB"
    return f"{cpu_s[middle]:.2f} s"
