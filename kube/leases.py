"""Leader election by a Lease object: at most one holder works, and a holder that cannot renew stops in time.

Only durations measured on this machine count: another candidate's lease is over when its record has not changed for
*lease_s* as we saw it, so clock skew between nodes does no harm. Writes carry the resourceVersion, so of two candidates
that try at once one gets a conflict. A holder gives up after *renew_s* without a successful renewal, well before
others may take over.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from datamodel.errors import Conflict, HeadraceError, NotFound
from kube.objects import spec_of
from kube.resources import LEASES
from kube.transport import Transport
from obs import logs

LEASE_S = 15.0
RENEW_S = 10.0
RETRY_S = 2.0

log = logs.get("kube")


class Election:
    """One candidate for one Lease. Use from one thread; `is_held` may be asked from any."""

    def __init__(
        self,
        transport: Transport,
        namespace: str,
        name: str,
        identity: str,
        *,
        lease_s: float = LEASE_S,
        renew_s: float = RENEW_S,
        retry_s: float = RETRY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._namespace = namespace
        self._name = name
        self._path = LEASES.path(namespace, name)
        self._identity = identity
        self._lease_s = lease_s
        self._renew_s = renew_s
        self._retry_s = retry_s
        self._clock = clock
        self._renewed: float | None = None
        self._seen: tuple[str, float] = ("", 0.0)

    @property
    def is_held(self) -> bool:
        """Whether we hold the lease and have renewed it in time."""
        return self._renewed is not None and self._clock() - self._renewed < self._renew_s

    def acquire(self, stopping: threading.Event) -> bool:
        """Wait until the lease is ours; False if *stopping* was set first."""
        while not stopping.is_set():
            if self.attempt():
                log.info("lease.acquired", lease=self._name, identity=self._identity)
                return True
            stopping.wait(self._retry_s)
        return False

    def hold(self, stopping: threading.Event) -> None:
        """Renew until *stopping* is set; returns early when the lease is lost."""
        while not stopping.wait(self._retry_s):
            if not self.attempt() and not self.is_held:
                self._renewed = None
                log.error("lease.lost", lease=self._name, identity=self._identity)
                return

    def attempt(self) -> bool:
        """Take or renew the lease once; False when it is another's, or the API server is away."""
        started = self._clock()
        try:
            taken = self._write(self._read())
        except Conflict:
            return False
        except HeadraceError as error:
            log.warning("lease.unreachable", lease=self._name, error=str(error))
            return False
        if taken:
            self._renewed = started
        return taken

    def _read(self) -> dict[str, Any] | None:
        try:
            return self._transport.get(self._path)
        except NotFound:
            return None

    def _write(self, lease: dict[str, Any] | None) -> bool:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        if lease is None:
            spec = self._spec(now, now, 0)
            metadata = {"name": self._name, "namespace": self._namespace}
            body = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}
            self._transport.create(LEASES.path(self._namespace), body)
            return True
        old = spec_of(lease)
        holder = old.get("holderIdentity") or ""
        if holder not in ("", self._identity) and not self._is_over(lease):
            return False
        is_ours = holder == self._identity
        acquired = old.get("acquireTime", now) if is_ours else now
        transitions = int(old.get("leaseTransitions") or 0) + (0 if is_ours else 1)
        self._transport.replace(self._path, {**lease, "spec": self._spec(acquired, now, transitions)})
        return True

    def _is_over(self, lease: dict[str, Any]) -> bool:
        spec = spec_of(lease)
        record = f"{spec.get('holderIdentity')} {spec.get('renewTime')}"
        now = self._clock()
        if self._seen[0] != record:
            self._seen = (record, now)
        return now - self._seen[1] >= float(spec.get("leaseDurationSeconds") or self._lease_s)

    def _spec(self, acquired: str, renewed: str, transitions: int) -> dict[str, Any]:
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(self._lease_s),
            "acquireTime": acquired,
            "renewTime": renewed,
            "leaseTransitions": transitions,
        }

    def release(self) -> None:
        """Give the lease up, so that the next candidate need not wait for its end; call when all work has stopped."""
        self._renewed = None
        try:
            lease = self._read()
            if lease is not None and spec_of(lease).get("holderIdentity") == self._identity:
                self._transport.replace(self._path, {**lease, "spec": {**lease["spec"], "holderIdentity": ""}})
        except HeadraceError as error:
            log.warning("lease.kept", lease=self._name, error=str(error))
