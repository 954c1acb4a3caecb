"""What surrounds every call: a slot, the log line, the error table, the metric.

An error that nobody expected becomes INTERNAL with a text that tells nothing; its stack is in the log. kubelet never
sees UNKNOWN, which it takes for a final answer.
"""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import Message

from csi.redaction import bounded, redacted
from datamodel.errors import Conflict, HeadraceError
from obs import logs
from obs.metrics import CSI_SECONDS

log = logs.get("csi")

SLOTS = 48
"""Stages and publishes at once. The pool has more threads, so that the other calls never wait behind these."""
_SLOW = frozenset({"NodeStageVolume", "NodePublishVolume"})
_CHANGES = _SLOW | {"NodeUnstageVolume", "NodeUnpublishVolume", "NotifyRegistrationStatus"}

_Behavior = Callable[[Any, grpc.ServicerContext], Any]
_Details = grpc.HandlerCallDetails
if TYPE_CHECKING:
    _Handler = grpc.RpcMethodHandler[Any, Any]  # not a generic class at run time


class Barrier(grpc.ServerInterceptor):
    """Wraps every unary call of a server."""

    def __init__(self, slots: int = SLOTS, clock: Callable[[], float] = time.monotonic) -> None:
        self._slots = threading.BoundedSemaphore(slots)
        self._clock = clock

    def intercept_service(
        self, continuation: "Callable[[_Details], _Handler | None]", handler_call_details: _Details
    ) -> "_Handler | None":
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        name, behavior = handler_call_details.method.rpartition("/")[2], handler.unary_unary
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._call(name, behavior, request, context),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _call(self, name: str, behavior: _Behavior, request: Message, context: grpc.ServicerContext) -> Any:
        started = self._clock()
        response, code, text = None, grpc.StatusCode.OK, ""
        try:
            response = self._in_slot(name, behavior, request, context)
        except HeadraceError as error:
            code, text = grpc.StatusCode[error.grpc_code], bounded(str(error)) or type(error).__name__
        except NotImplementedError:
            code, text = grpc.StatusCode.UNIMPLEMENTED, f"{name} is not offered by this driver"
        except Exception:
            log.error("rpc.crashed", rpc=name, exc_info=True)
            code, text = grpc.StatusCode.INTERNAL, "internal error; its stack is in the log of the CSI plugin"
        seconds = self._clock() - started
        CSI_SECONDS.labels(name, code.name).observe(seconds)
        _report(name, request, code, text, seconds)
        if code is not grpc.StatusCode.OK:
            context.abort(code, text)
        return response

    def _in_slot(self, name: str, behavior: _Behavior, request: Message, context: grpc.ServicerContext) -> Any:
        if name not in _SLOW:
            return behavior(request, context)
        if not self._slots.acquire(blocking=False):
            raise Conflict("too many volumes are being staged and published at once; try again")
        try:
            return behavior(request, context)
        finally:
            self._slots.release()


def _report(name: str, request: Message, code: grpc.StatusCode, text: str, seconds: float) -> None:
    ms = round(seconds * 1000, 1)
    if code is not grpc.StatusCode.OK:
        log.warning("rpc.refused", rpc=name, code=code.name, error=text, ms=ms, request=redacted(request))
    elif name in _CHANGES:
        log.info("rpc.answered", rpc=name, ms=ms, request=redacted(request))
    else:
        log.debug("rpc.answered", rpc=name, ms=ms)
