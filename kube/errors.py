"""How the API server's answers become this project's errors."""

import json
from collections.abc import Mapping

from datamodel.errors import Conflict, HeadraceError, NotFound, PermissionRefused, Unavailable, UserError

_MESSAGE_LIMIT = 1000


class Gone(NotFound):
    """The resourceVersion to resume from is too old (410): list again."""


def error_of(status: int, body: bytes, headers: Mapping[str, str], request: str) -> HeadraceError:
    """The error for a refused *request* ("GET /api/v1/…"), with the server's own message."""
    message = f"{request}: {status} {_message(body)}"
    if status == 404:
        return NotFound(message)
    if status == 409:
        return Conflict(message)
    if status == 410:
        return Gone(message)
    if status in (400, 405, 406, 413, 415, 422):
        return UserError(message)
    if status in (401, 403):
        return PermissionRefused(message)
    return Unavailable(message, _retry_after_s(headers))


def _message(body: bytes) -> str:
    try:
        status = json.loads(body)
    except ValueError:
        return body[:_MESSAGE_LIMIT].decode(errors="replace").strip()
    message = status.get("message", "") if isinstance(status, dict) else ""
    return str(message)[:_MESSAGE_LIMIT]


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "")
    return float(value) if value.isdigit() else None
