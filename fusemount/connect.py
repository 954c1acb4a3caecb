"""How a daemon finds its broker, which may come after it: the pod may be up before the volume was staged."""

import socket

import trio

from broker.client import BrokerSession
from datamodel.errors import Unavailable
from obs import logs

log = logs.get("fusemount")

_ATTACH_DEADLINE_S = 10.0
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.05, 1.0


async def attach(path: str, token: str, reports: socket.socket | None, *, blocking: bool) -> BrokerSession:
    """Attach as soon as there is a broker on the socket *path*.

    Raises:
        Unavailable: the supervisor at the other end of *reports* is gone, and with it who would need us.
        PermissionRefused: wrong token or wrong user.
    """
    pause_s, told = _FIRST_PAUSE_S, False
    while True:
        try:
            return await trio.to_thread.run_sync(
                lambda: BrokerSession(path, token, blocking=blocking, deadline_s=_ATTACH_DEADLINE_S)
            )
        except Unavailable as error:
            if not told:
                log.info("broker.awaited", socket=path, error=str(error))
                told = True
            pause_s = min(_LAST_PAUSE_S, pause_s * 1.5)
            with trio.move_on_after(pause_s):
                await _until_ended(reports)
                raise Unavailable("the supervisor is gone") from error


async def _until_ended(reports: socket.socket | None) -> None:
    """Nobody writes to a daemon that was told to start, so what makes *reports* readable is its end."""
    if reports is None:
        await trio.sleep_forever()
    else:
        await trio.lowlevel.wait_readable(reports)
