"""What the core needs from outside, as small protocols: the mount broker, the node's labels, the fuse daemons."""

from collections.abc import Mapping
from typing import Protocol

from broker.client import MountedRuntime, VolumeStatistics
from datamodel.names import RuntimeKey


class Mounts(Protocol):
    """The broker's FUSE mounts. Raises errors of datamodel.errors; Unavailable when the broker is away."""

    def mount(self, key: RuntimeKey, token: str, *, daemon_uid: int, deadline_s: float) -> None: ...
    def wait_served(self, key: RuntimeKey, deadline_s: float) -> None: ...
    def unmount(self, key: RuntimeKey, deadline_s: float) -> None: ...
    def runtimes(self, deadline_s: float) -> list[MountedRuntime]: ...
    def statistics(self, key: RuntimeKey, deadline_s: float) -> VolumeStatistics: ...


class Binds(Protocol):
    """The broker's binds of a mount into pods."""

    def bind(
        self,
        key: RuntimeKey,
        target: str,
        *,
        sub_path: str = "",
        read_only: bool,
        no_exec: bool = False,
        deadline_s: float,
    ) -> None: ...
    def unbind(self, target: str, deadline_s: float) -> None: ...


class Broker(Mounts, Binds, Protocol):
    """The whole broker, as broker.client.BrokerControl offers it."""


class NodeLabels(Protocol):
    """The labels of our own node. A label with value `true` calls a runtime's fuse pod to this node."""

    def put(self, key: str) -> None:
        """Set label *key*; set already is fine. Raises Unavailable."""

    def remove(self, key: str) -> None:
        """Remove label *key*; absent is fine. Raises Unavailable."""

    def present(self) -> frozenset[str]:
        """Keys on the node now, never from a cache. Raises Unavailable."""

    def is_missing(self, key: str) -> bool:
        """Whether the last known state of the node lacks *key*; False while nothing is known. Asks nobody."""


class DaemonStarter(Protocol):
    """Who starts the processes that serve a mount, and who knows the token they show to the broker."""

    @property
    def uid(self) -> int:
        """The user those processes run as."""

    def token(self, key: RuntimeKey, secrets: Mapping[str, str]) -> str:
        """The runtime's token, from *secrets* or from our own store; empty when nobody gave one."""

    def start(self, key: RuntimeKey) -> None:
        """See to it that daemons for *key* are coming; started already is fine."""

    def stop(self, key: RuntimeKey) -> None:
        """End the daemons of *key*; ended already is fine."""
