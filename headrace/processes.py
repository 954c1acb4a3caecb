"""What the long-running commands share: waiting for the end, and health checks."""

import signal
import threading


def wait_for_end() -> None:
    """Block until SIGTERM or SIGINT."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
