"""What a decision is made of: single writes to the API server, in order. Values only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kube.objects import Object
from kube.resources import Resource

WARNING, NORMAL = "Warning", "Normal"


@dataclass(frozen=True)
class Apply:
    """Make the object as in *body*, owning these fields."""

    resource: Resource
    body: Object


@dataclass(frozen=True)
class Create:
    """Make the object if there is none. *accept_existing*: one that is there already will do."""

    resource: Resource
    body: Object
    accept_existing: bool = False

    def __repr__(self) -> str:
        """Without the body, which may be a Secret."""
        return f"Create({self.resource.kind} {self.body['metadata']['name']})"


@dataclass(frozen=True)
class Patch:
    """Merge *body* into the object or its subresource; an object that is gone is fine."""

    resource: Resource
    namespace: str
    name: str
    body: Mapping[str, Any]
    subresource: str = ""


@dataclass(frozen=True)
class Delete:
    """Delete the object with this UID; any UID when it is empty."""

    resource: Resource
    namespace: str
    name: str
    uid: str = ""


@dataclass(frozen=True)
class Post:
    """Post an Event about *about*; *once*: never repeat it."""

    about: Object
    kind: str
    reason: str
    message: str
    once: bool = False


@dataclass(frozen=True)
class Gone:
    """Ask the API server itself that no object of ours is left; if one is, the rest of the plan must wait.

    Local copies lag behind: an object made a moment ago may be missing in them, and would be left behind for ever.
    """

    resource: Resource
    namespace: str
    name: str
    is_ours: Callable[[Object], bool] = field(compare=False)


@dataclass(frozen=True)
class Unread:
    """Ask the API server itself that no pod reads the claim; if one does, the rest of the plan must wait.

    A pod created a moment ago may be missing in our local copies, and its volume would be taken from under it.
    """

    namespace: str
    claim: str
    is_reader: Callable[[Object], bool] = field(compare=False)


Action = Apply | Create | Patch | Delete | Post | Gone | Unread


@dataclass(frozen=True)
class Plan:
    """Actions in order. *waiting* names the step that deletion waits in; *again_s* is when to look again anyway.

    *ends* is the UID of the runtime that is over when the plan is done: local copies may show it a little longer.
    """

    actions: tuple[Action, ...] = ()
    waiting: str = ""
    again_s: float | None = None
    ends: str = ""


def patch_of(current: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch that gives *current* the values of *wanted*; None there means absent. Lists are replaced."""
    patch: dict[str, Any] = {}
    for key, value in wanted.items():
        old = current.get(key)
        if value is None:
            if key in current:
                patch[key] = None
        elif isinstance(value, Mapping) and isinstance(old, Mapping):
            gone = {name: None for name in old if name not in value}
            inner = patch_of(old, {**gone, **value})
            if inner:
                patch[key] = inner
        elif old != value:
            patch[key] = value
    return patch
