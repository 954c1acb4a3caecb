"""Asking a source again after an error that may pass, for as long as a reader can be kept waiting."""

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from datamodel.errors import Corrupt, DeadlineExceeded, Unavailable
from obs import logs

log = logs.get("blockcache")
T = TypeVar("T")

RETRY_FOR_S = 15.0
_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 0.1, 3.0


async def patiently(ask: Callable[[], Awaitable[T]], source: str, path: str) -> T:
    """What *ask* returns at last; waits as the source wishes, else a growing, jittered while.

    Raises:
        DeadlineExceeded: the source was away, or sent garbage, for 15 s. Any other error of *ask* comes at once.
    """
    give_up = trio.current_time() + RETRY_FOR_S
    backoff_s = _FIRST_BACKOFF_S
    while True:
        try:
            return await ask()
        except (Unavailable, Corrupt) as error:
            wait_s = max(getattr(error, "retry_after_s", None) or 0.0, backoff_s * random.uniform(0.5, 1.5))
            if trio.current_time() + wait_s > give_up:
                raise DeadlineExceeded(f"{path!r}: given up after {RETRY_FOR_S:.0f} s: {error}") from error
            log.warning("fetch.retried", source=source, path=path, error=str(error))
        backoff_s = min(_LAST_BACKOFF_S, 2 * backoff_s)
        await trio.sleep(wait_s)
