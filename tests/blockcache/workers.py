"""A real worker in a thread, for tests of its clients: over a local folder, on a free port of loopback."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from blockcache.dataset import open_dataset
from blockcache.origin import Origin
from blockcache.peer import PeerFileSystem
from blockcache.server import BlockServer
from datamodel.client import ClientConfig, Source, Tier, Workers
from ufs.base import UnderFileSystem
from ufs.local import LocalFileSystem

TOKEN = "t0ken"


class RunningWorker:
    """Serves *ufs*, with its cache in *cache*, from `start` to `stop`."""

    def __init__(self, ufs: UnderFileSystem, cache: Path, *, listing_ttl_s: float = 0.0, quota_bytes: int = 1 << 30):
        self._config = ClientConfig(
            dataset="default/test",
            sources=(Source(name="source", url="local:///", path="/"),),
            tiers=(Tier(path=str(cache), quota_bytes=quota_bytes),),
            listing_ttl_s=listing_ttl_s,
        )
        self._ufs = ufs
        self._thread = threading.Thread(target=trio.run, args=(self._run,))
        self._serving = threading.Event()
        self.port = 0

    def start(self) -> None:
        self._thread.start()
        assert self._serving.wait(10)

    def stop(self) -> None:
        self._trio.run_sync_soon(self._scope.cancel)
        self._thread.join()

    async def _run(self) -> None:
        self._trio = trio.lowlevel.current_trio_token()
        origins = {"/": Origin("source", [("source", self._ufs)])}
        async with open_dataset(self._config, origins) as dataset, trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            self.port = await nursery.start(BlockServer(dataset, TOKEN).serve, 0)
            self._serving.set()


@contextmanager
def running_worker(
    ufs: UnderFileSystem | Path, cache: Path, *, listing_ttl_s: float = 0.0, quota_bytes: int = 1 << 30
) -> Iterator[RunningWorker]:
    source = LocalFileSystem(str(ufs)) if isinstance(ufs, Path) else ufs
    worker = RunningWorker(source, cache, listing_ttl_s=listing_ttl_s, quota_bytes=quota_bytes)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


@contextmanager
def peer_of(worker: RunningWorker, token: str = TOKEN, prefix: str = "/") -> Iterator[PeerFileSystem]:
    peer = PeerFileSystem(Workers(replicas=1, host_pattern="127.0.0.1", port=worker.port), token, prefix)
    try:
        yield peer
    finally:
        peer.close()
