"""A view of a CSI message for the log: secrets blanked, everything bounded and escaped. Never changes the message."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from csi.fields import ALLOWED_FLAGS
from protos import csi_pb2

BLANK = "***"
TOKENS_KEY = "csi.storage.k8s.io/serviceAccount.tokens"
"""kubelet puts tokens under this key of the volume context, which the protocol does not mark as secret."""
FLAGS_FIELD = "mount_flags"
"""May hold passwords by the specification, so only flags we know are shown."""

_TEXT = 256
_ITEMS = 32


def redacted(message: Message) -> dict[str, object]:
    """The fields that are set, by name."""
    return {field.name: _shown(field, value) for field, value in message.ListFields()}


def _shown(field: FieldDescriptor, value: Any) -> object:
    if field.GetOptions().Extensions[csi_pb2.csi_secret]:
        return BLANK
    if isinstance(value, Mapping):
        return {_text(key): BLANK if key == TOKENS_KEY else _text(str(value[key])) for key in sorted(value)[:_ITEMS]}
    if field.name == FLAGS_FIELD:
        return [flag if flag in ALLOWED_FLAGS else BLANK for flag in list(value)[:_ITEMS]]
    if field.is_repeated:
        return [_one(item) for item in list(value)[:_ITEMS]]
    return _one(value)


def _one(value: object) -> object:
    if isinstance(value, Message):
        return redacted(value)
    return _text(value) if isinstance(value, str) else value


def _text(value: str) -> str:
    """Cut, and free of control characters, which could forge lines of a log."""
    cut = value if len(value) <= _TEXT else value[:_TEXT] + "…"
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in cut)


def bounded(text: str, limit: int = 1024) -> str:
    """An error message for the wire: printable, and never longer than *limit* characters."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(char if char.isprintable() else " " for char in cut)
