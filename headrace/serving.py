"""Runs a mount in this process, or in one that stays behind. The latter tells the former by a pipe how it went."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import msgspec

from datamodel.errors import HeadraceError, UserError
from fusemount.local import LocalMount, MountPlan
from obs import logs

log = logs.get("mount")

EXIT_INTERRUPTED = 130
_LOG_LIMIT_BYTES = 10 << 20


class _Message(msgspec.Struct, frozen=True):
    """One line in the pipe: *kind* is `warning`, `serving` or `failed`."""

    kind: str
    text: str = ""
    exit_code: int = 0


def in_foreground(plan: MountPlan) -> int:
    """Serve until SIGINT, SIGTERM or, when the terminal is closed, SIGHUP; returns the exit code.

    Raises:
        HeadraceError: as LocalMount.run.
    """
    if plan.log_file:
        _log_to(plan)
    return _serve(plan, on_serving=lambda: None, warn=_warn)


def in_background(plan: MountPlan) -> int:
    """Serve in a process that stays; return once it serves, or with its exit code.

    Raises:
        UserError: the log file cannot be written.
    """
    _prepare_log(Path(plan.log_file))
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        os._exit(_stay(plan, writer))
    os.close(writer)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with os.fdopen(reader, "rb") as pipe:
            return _await(plan, pipe.readline)
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        return EXIT_INTERRUPTED


def _await(plan: MountPlan, read: Callable[[], bytes]) -> int:
    while line := read():
        message = msgspec.json.decode(line, type=_Message)
        if message.kind == "serving":
            return 0
        _warn(message.text)
        if message.kind == "failed":
            return message.exit_code
    _warn(f"the mount ended before it served; its log is {plan.log_file}")
    return 1


def _stay(plan: MountPlan, writer: int) -> int:
    """In the child: whatever happens, this returns."""

    def tell(message: _Message) -> None:
        with contextlib.suppress(BrokenPipeError):  # who started us has gone
            os.write(writer, msgspec.json.encode(message) + b"\n")

    def note_serving() -> None:
        tell(_Message("serving"))
        os.close(writer)  # whoever waits for the end of the pipe need wait no more
        is_serving.append(True)

    is_serving: list[bool] = []
    try:
        os.setsid()
        os.chdir("/")  # a working directory keeps its file system busy
        _log_to(plan)
        return _serve(plan, on_serving=note_serving, warn=lambda text: tell(_Message("warning", text)))
    except HeadraceError as error:
        log.error("mount.failed", error=str(error))
        if not is_serving:
            tell(_Message("failed", str(error), error.exit_code))
        return error.exit_code
    except BaseException:  # the top of this process
        log.exception("mount.crashed")
        return 1


def _serve(plan: MountPlan, *, on_serving: Callable[[], None], warn: Callable[[str], None]) -> int:
    mount = LocalMount(plan, on_serving, warn)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` has it ignored
            signal.signal(number, lambda *_: mount.stop.set())
    return mount.run()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _warn(text: str) -> None:
    print(f"headrace mount: {text}", file=sys.stderr, flush=True)


def _prepare_log(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > _LOG_LIMIT_BYTES:
            path.rename(path.with_name(f"{path.name}.old"))
        with path.open("a"):
            pass
    except OSError as error:
        raise UserError(f"--log-file: {str(path)!r}: {error.strerror}; give a file that you may write") from error


def _log_to(plan: MountPlan) -> None:
    """From here on this process and its children write to the log, and to no terminal."""
    path = Path(plan.log_file)
    _prepare_log(path)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(file)
    logs.configure(plan.log_level)
