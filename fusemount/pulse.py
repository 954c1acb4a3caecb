"""Tells a daemon process that will not come back to its readers from one that is only slow.

A stopped process (SIGSTOP, a debugger) and one that waits for something that never comes send no reports and use no
CPU. One that works, or waits for a turn of a busy CPU or for a slow disk, sends none for a while either, but it moves
or the kernel says what it waits for; it is given much longer. Time passes here only as far as the watcher itself was
running, so a machine that was suspended, or too busy for the watcher, raises no alarm.
"""

from dataclasses import dataclass
from pathlib import Path

STOPPED_AFTER_S = 1.0
SILENT_AFTER_S = 3.0
PATIENCE_S = 15.0


@dataclass(frozen=True, slots=True)
class Vital:
    """What the kernel says of a process: *state* as in proc(5), *cpu_ticks* it has used in all."""

    state: str
    cpu_ticks: int


@dataclass(slots=True)
class Pulse:
    """Of one process; `beat` with every report, `look` with every turn of its watcher."""

    silent_s: float = 0.0
    stopped_s: float = 0.0
    _ticks_at_beat: int | None = None

    def beat(self) -> None:
        """It said something."""
        self.silent_s = 0.0
        self._ticks_at_beat = None

    def look(self, elapsed_s: float, vital: Vital) -> str:
        """Why this process is to be replaced, after *elapsed_s* more of the watcher's time; empty while it is not."""
        self.silent_s += elapsed_s
        self.stopped_s = self.stopped_s + elapsed_s if vital.state in "Tt" else 0.0
        if self._ticks_at_beat is None:
            self._ticks_at_beat = vital.cpu_ticks
        if self.stopped_s >= STOPPED_AFTER_S:
            return "stopped"
        is_idle = vital.state == "S" and vital.cpu_ticks == self._ticks_at_beat
        if self.silent_s >= (SILENT_AFTER_S if is_idle else PATIENCE_S):
            return "silent"
        return ""


def vital_of(pid: int) -> Vital:
    """Raises OSError where the process is gone. Format: proc(5), /proc/pid/stat."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return Vital(fields[0].decode(), int(fields[11]) + int(fields[12]))
