"""The controller as a running thing: watches, workers, reports, resync, lease. The only part with threads."""

import threading
import time
from collections.abc import Callable

from controller.apply import Writer
from controller.caches import Caches, Key
from controller.decide import complaint, decide
from controller.nodelabels import count_patches
from controller.observe import datasets_on, observe
from controller.plan import Create, Plan
from controller.reports import Reports
from controller.settings import Settings
from controller.snapshot import Snapshot
from datamodel.errors import Conflict, HeadraceError, PermissionRefused, Unavailable, UserError
from kube.events import Recorder
from kube.leases import Election
from kube.objects import uid_of
from kube.resources import NODES, SECRETS
from kube.transport import Transport
from kube.workqueue import WorkQueue
from obs import logs, metrics

STALE_S = 900.0
"""A watch that has heard nothing for so long makes the process unhealthy; an API server may well be away for less."""
_STOP_S = 20.0

log = logs.get("controller")


class Controller:
    """Keeps the cluster as Datasets and runtimes ask for, from `start()` to `stop()`."""

    def __init__(
        self,
        transport: Transport,
        settings: Settings,
        *,
        workers: int = 4,
        is_leading: Callable[[], bool] = lambda: True,
    ) -> None:
        self._settings = settings
        self._is_leading = is_leading
        self._queue: WorkQueue[Key] = WorkQueue()
        self._writer = Writer(transport, Recorder(transport))
        self.caches = Caches(transport, self._queue.add)
        self._reports = Reports(self.caches, self._queue.add, period_s=settings.report_period_s)
        self._stopping = threading.Event()
        self._tokens: dict[Key, str] = {}
        self._ended: dict[Key, str] = {}
        self._waiting: dict[Key, tuple[str, float]] = {}
        self._threads = [
            threading.Thread(target=self._work, name=f"reconcile-{index}", daemon=True) for index in range(workers)
        ]
        self._threads.append(threading.Thread(target=self._resync, name="resync", daemon=True))
        self._threads.append(
            threading.Thread(target=self._reports.run, args=(self._stopping,), name="reports", daemon=True)
        )
        self._has_started = False

    def start(self) -> None:
        """Start working. The caches must have been started and listed before."""
        self._has_started = True
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish what is under way and end all threads; a write in flight has its own deadline."""
        self._stopping.set()
        self._queue.close()
        end = time.monotonic() + _STOP_S
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))
        self.caches.stop()

    def unhealthy(self) -> str:
        """For the liveness probe: what only a restart can cure, or an empty string."""
        if self._has_started and not self._stopping.is_set():
            dead = [thread.name for thread in self._threads if not thread.is_alive()]
            if dead:
                return f"threads have ended: {', '.join(dead)}"
        return self.caches.silent(STALE_S)

    def reconcile(self, key: Key) -> float | None:
        """Look at *key* and do what is needed; returns when to look again anyway, in seconds.

        Raises:
            HeadraceError: it could not be done; look again later.
        """
        namespace, name = key
        if not namespace:
            self._count_datasets(name)
            return None
        snapshot = self._observe(key)
        plan = decide(snapshot, self._settings)
        self._note_waiting(key, plan)
        if not plan.actions:
            return plan.again_s
        if not self._is_leading():
            raise Unavailable("the lease is not ours now")
        try:
            self._writer.run(plan)
        except (UserError, PermissionRefused) as error:
            # The API server refused what the user's spec leads to: say so where the user looks.
            self._writer.run(Plan(tuple(complaint(snapshot, error))))
            raise
        self._note_done(key, snapshot, plan)
        return plan.again_s

    def _count_datasets(self, name: str) -> None:
        node = self.caches.stores[NODES].get("", name)
        patches = count_patches(node, datasets_on(self.caches, name)) if node is not None else ()
        if patches and self._is_leading():
            self._writer.run(Plan(patches))

    def _observe(self, key: Key) -> Snapshot:
        step, since = self._waiting.get(key, ("", 0.0))
        return observe(
            self.caches,
            key,
            reports=self._reports.of(key[0]),
            token_for=self._tokens.get(key, ""),
            ended=self._ended.get(key, ""),
            waited={step: time.monotonic() - since} if step else {},
        )

    def _note_waiting(self, key: Key, plan: Plan) -> None:
        step, _ = self._waiting.get(key, ("", 0.0))
        if not plan.waiting:
            self._waiting.pop(key, None)
        elif plan.waiting != step:
            self._waiting[key] = (plan.waiting, time.monotonic())

    def _note_done(self, key: Key, snapshot: Snapshot, plan: Plan) -> None:
        runtime = snapshot.runtime
        if plan.ends:
            self._ended[key] = plan.ends
        if runtime is None:
            self._tokens.pop(key, None)
        elif any(isinstance(action, Create) and action.resource is SECRETS for action in plan.actions):
            self._tokens[key] = uid_of(runtime)

    def _work(self) -> None:
        while (key := self._queue.get()) is not None:
            started = time.monotonic()
            result = self._attempt(key)
            self._queue.done(key)
            metrics.RECONCILE_SECONDS.labels("Dataset", result).observe(time.monotonic() - started)

    def _attempt(self, key: Key) -> str:
        name = "/".join(key)
        try:
            again_s = self.reconcile(key)
        except Conflict as error:
            delay_s = self._queue.add_failed(key)
            log.info("reconcile.conflicted", key=name, error=str(error), again_s=round(delay_s, 2))
            return "conflict"
        except HeadraceError as error:
            at_least_s = error.retry_after_s if isinstance(error, Unavailable) else None
            delay_s = self._queue.add_failed(key, at_least_s or 0.0)
            log.warning("reconcile.failed", key=name, error=str(error), again_s=round(delay_s, 2))
            return "failed"
        except Exception:
            # One object that trips over a mistake of ours must not stop the others.
            delay_s = self._queue.add_failed(key)
            log.exception("reconcile.crashed", key=name, again_s=round(delay_s, 2))
            return "crashed"
        self._queue.forget(key)
        if again_s is not None:
            self._queue.add_after(key, again_s)
        return "done"

    def _resync(self) -> None:
        while not self._stopping.wait(self._settings.resync_s):
            # Secrets are created but never read, so a deleted one is only made again by trying.
            self._tokens.clear()
            self._ended.clear()
            for key in self.caches.known():
                self._queue.add(key)


def serve(controller: Controller, election: Election | None, stopping: threading.Event) -> int:
    """Work while the lease is ours (or always, without an election) until *stopping* is set; returns the exit code.

    A lost lease ends the process: nothing half-done of this one may mix with what the next leader does.
    """
    controller.caches.start()
    while controller.caches.unlisted() and not stopping.wait(0.05):
        continue
    if stopping.is_set() or (election is not None and not election.acquire(stopping)):
        return 0
    log.info("controller.started")
    controller.start()
    if election is None:
        stopping.wait()
    else:
        election.hold(stopping)
    lost = not stopping.is_set()
    controller.stop()
    if election is not None and not lost:
        election.release()
    log.info("controller.stopped", lost_lease=lost)
    return 1 if lost else 0
