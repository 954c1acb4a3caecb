"""Lists of conditions that only change when something changed, so that status writes stay rare. Pure."""

from collections.abc import Sequence
from typing import Any

Conditions = list[dict[str, Any]]
TRUE, FALSE = "True", "False"


def with_condition(
    conditions: Sequence[dict[str, Any]], kind: str, status: str, reason: str, message: str, now: str, *, seen: str
) -> Conditions:
    """*conditions* with this one set, at its old place or at the end; *seen* names the field for the last look.

    `lastTransitionTime` moves with the status only, as API conventions ask.
    """
    result = [dict(item) for item in conditions]
    new = {"type": kind, "status": status, "reason": reason, "message": message, seen: now, "lastTransitionTime": now}
    for index, old in enumerate(result):
        if old.get("type") != kind:
            continue
        if all(old.get(key) == new[key] for key in ("status", "reason", "message")):
            return result
        if old.get("status") == status:
            new["lastTransitionTime"] = old.get("lastTransitionTime", now)
        result[index] = new
        return result
    return [*result, new]


def without_condition(conditions: Sequence[dict[str, Any]], kind: str) -> Conditions:
    """*conditions* without those of one type."""
    return [dict(item) for item in conditions if item.get("type") != kind]
