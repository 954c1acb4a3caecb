"""A worker: the cached dataset of one runtime behind the block server, until SIGTERM."""

import signal
from typing import Any

import msgspec
import trio

from blockcache.assemble import open_origins
from blockcache.dataset import CachedDataset, open_dataset
from blockcache.server import BlockServer
from datamodel.client import ClientConfig, Workers
from datamodel.errors import Unavailable
from obs import logs

log = logs.get("worker")


class Worker:
    """Serves *config* to holders of *token*. `status` may be called from any thread."""

    def __init__(self, config: ClientConfig, token: str) -> None:
        # What the clients are told of their workers, a worker is told as well; it asks none.
        self._config, self._token = msgspec.structs.replace(config, workers=Workers()), token
        self._dataset: CachedDataset | None = None
        self.is_ready = False

    async def run(self, port: int) -> None:
        """Serve on *port* until SIGTERM or SIGINT."""
        origins = open_origins(self._config)
        async with open_dataset(self._config, origins) as dataset, trio.open_nursery() as nursery:
            self._dataset = dataset
            server = BlockServer(dataset, self._token)
            try:
                bound = await nursery.start(server.serve, port)
            except OSError as error:
                raise Unavailable(f"--port: {port} cannot be had: {error}") from error
            self.is_ready = True
            log.info("worker.serving", port=bound, dataset=self._config.dataset)
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
                async for number in received:
                    log.info("worker.stopping", signal=signal.Signals(number).name)
                    break
            self.is_ready = False
            nursery.cancel_scope.cancel()

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
            "totalBytes": total if dataset.crawler.is_complete else None,
            "reads": {"hits": counters.hits, "misses": counters.misses, "bytes": counters.bytes},
            "sources": [
                {"name": origin.name, "healthy": not origin.problem, "problem": origin.problem}
                for origin in dataset.origins.values()
            ],
        }
