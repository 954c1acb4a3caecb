"""A worker: the cached dataset of one runtime behind the block server, until SIGTERM."""

import contextlib
import signal
from typing import Any

import trio

from blockcache.assemble import open_origins
from blockcache.dataset import CachedDataset, open_dataset
from blockcache.server import BlockServer
from datamodel.client import ClientConfig
from datamodel.errors import HeadraceError, Unavailable
from obs import logs

log = logs.get("worker")

_CRAWL_PERIOD_S, _LOOK_PERIOD_S = 600.0, 10.0
_PAGE = 1000


class Worker:
    """Serves *config* to holders of *token*. `status` may be called from any thread."""

    def __init__(self, config: ClientConfig, token: str) -> None:
        self._config, self._token = config, token
        self._dataset: CachedDataset | None = None
        self._is_crawled = False
        self.is_ready = False

    async def run(self, port: int) -> None:
        """Serve on *port* until SIGTERM or SIGINT."""
        origins = open_origins(self._config, with_workers=False)
        async with open_dataset(self._config, origins) as dataset, trio.open_nursery() as nursery:
            self._dataset = dataset
            server = BlockServer(dataset, self._token)
            try:
                bound = await nursery.start(server.serve, port)
            except OSError as error:
                raise Unavailable(f"--port: {port} cannot be had: {error}") from error
            nursery.start_soon(self._crawl_for_ever, dataset)
            self.is_ready = True
            log.info("worker.serving", port=bound, dataset=self._config.dataset)
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
                async for number in received:
                    log.info("worker.stopping", signal=signal.Signals(number).name)
                    break
            self.is_ready = False
            nursery.cancel_scope.cancel()

    async def _crawl_for_ever(self, dataset: CachedDataset) -> None:
        """List every folder, so that the totals are the dataset's and not of what was read; and again as they age."""
        due = trio.current_time()
        while True:
            if trio.current_time() >= due:
                outcomes = [await _crawl(dataset, source) for source in dataset.tree.source_ids]
                if all(outcomes):
                    self._is_crawled, due = True, trio.current_time() + _CRAWL_PERIOD_S
            await trio.sleep(_LOOK_PERIOD_S)
            await _look_at_troubled(dataset)

    def status(self) -> dict[str, Any]:
        """What the controller sums up: sizes in bytes, counters since start. Totals are null until all is listed."""
        dataset = self._dataset
        if dataset is None:
            return {}
        files, total = dataset.catalog.totals()
        counters = dataset.counters
        return {
            "quotaBytes": dataset.tiers.quota_bytes,
            "cachedBytes": dataset.tiers.cached_bytes,
            "files": files,
            "totalBytes": total if self._is_crawled else None,
            "reads": {"hits": counters.hits, "misses": counters.misses, "bytes": counters.bytes},
            "sources": [
                {"name": origin.name, "healthy": not origin.problem, "problem": origin.problem}
                for origin in dataset.origins.values()
            ],
        }


async def _crawl(dataset: CachedDataset, source: int) -> bool:
    """Visit every directory of one source once; False when one could not be listed, which ends the visit."""
    waiting = [source]
    while waiting:
        directory = waiting.pop()
        try:
            await dataset.tree.ensure_listed(directory)
        except HeadraceError as error:
            log.warning("crawl.broken_off", error=str(error))
            return False
        after = 0
        while page := dataset.catalog.children(directory, after, _PAGE):
            waiting += [child.id for child in page if child.is_dir]
            after = page[-1].id
            await trio.lowlevel.checkpoint()
    return True


async def _look_at_troubled(dataset: CachedDataset) -> None:
    """Ask each source that failed last time, so that its recovery is noticed although nobody reads from it."""
    for origin in dataset.origins.values():
        if origin.problem:
            with contextlib.suppress(HeadraceError):  # it is still in trouble, and its problem says so
                await trio.to_thread.run_sync(origin.list, "", abandon_on_cancel=True)
