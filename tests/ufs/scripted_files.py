"""One file on a scripted server, and how tests read it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.ufs.servers import Answer, Request, ScriptedServer, answer
from ufs.http import HttpFileSystem, HttpSettings
from ufs.http_socket import Limits

BODY = bytes(range(256)) * 16
ETAG = '"v1"'
VERSION = f"etag:{ETAG};size:{len(BODY)}"
SETTINGS = HttpSettings(limits=Limits(connect_timeout_s=5, read_timeout_s=0.3))


@contextmanager
def served(
    script: Callable[[Request], Answer], path: str = "", settings: HttpSettings = SETTINGS
) -> Iterator[tuple[HttpFileSystem, ScriptedServer]]:
    with ScriptedServer(script) as server:
        ufs = HttpFileSystem(server.url + path, settings)
        yield ufs, server
        ufs.close()


def read(ufs: HttpFileSystem, offset: int = 0, length: int = 100, version: str = VERSION) -> bytes:
    room = bytearray(length)
    count = ufs.read_range("file", version, offset, memoryview(room))
    return bytes(room[:count])


def part(
    first: int, last: int, total: int = len(BODY), body: bytes | None = None, then: str = "keep", **headers: str
) -> Answer:
    sent = BODY[first : last + 1] if body is None else body
    return answer(
        206, sent, then=then, headers={"Content_Range": f"bytes {first}-{last}/{total}", "ETag": ETAG, **headers}
    )


def honest(request: Request) -> Answer:
    """A server without faults, for one file."""
    if request.method == "HEAD":
        return answer(200, head=True, Content_Length=str(len(BODY)), ETag=ETAG, Accept_Ranges="bytes")
    first, last = request.headers["range"].removeprefix("bytes=").split("-")
    return part(int(first), min(int(last), len(BODY) - 1))
