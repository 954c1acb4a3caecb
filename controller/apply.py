"""Does what a plan says, one write after the other. The first that fails ends it; the next look starts over."""

from controller.plan import Action, Apply, Create, Delete, Gone, Patch, Plan, Post, Unread
from datamodel.errors import Conflict, NotFound
from kube.events import Recorder
from kube.objects import name_of, namespace_of
from kube.resources import PODS
from kube.transport import Transport
from obs import logs

FIELD_MANAGER = "headrace-controller"

log = logs.get("controller")


class Writer:
    """Writes to the API server. Thread-safe."""

    def __init__(self, transport: Transport, recorder: Recorder) -> None:
        self._transport = transport
        self._recorder = recorder

    def run(self, plan: Plan) -> None:
        """Do all actions of *plan* in order.

        Raises:
            HeadraceError: one failed; those before it are done.
        """
        for action in plan.actions:
            self._do(action)
            if not isinstance(action, Post | Gone | Unread):
                log.info("object.written", action=_shown(action))

    def _do(self, action: Action) -> None:
        match action:
            case Apply(resource, body):
                self._transport.apply(resource.path(namespace_of(body), name_of(body)), body, manager=FIELD_MANAGER)
            case Create(resource, body, accept_existing):
                self._create(resource.path(namespace_of(body)), action, accept_existing)
            case Patch(resource, namespace, name, body, subresource):
                self._patch(resource.path(namespace, name, subresource), action)
            case Delete(resource, namespace, name, uid):
                self._transport.delete(resource.path(namespace, name), uid=uid or None)
            case Post(about, kind, reason, message, once):
                self._recorder.post(about, kind, reason, message, once=once)
            case Gone():
                self._check_gone(action)
            case Unread(namespace, claim, is_reader):
                for pod in self._transport.get(PODS.path(namespace))["items"]:
                    if is_reader(pod):
                        raise Conflict(f"Pod {namespace}/{name_of(pod)} reads claim {claim}")

    def _create(self, path: str, action: Create, accept_existing: bool) -> None:
        try:
            self._transport.create(path, action.body)
        except Conflict:
            if not accept_existing:
                raise

    def _patch(self, path: str, action: Patch) -> None:
        try:
            self._transport.merge_patch(path, action.body)
        except NotFound:
            log.debug("object.vanished", action=_shown(action))

    def _check_gone(self, action: Gone) -> None:
        try:
            found = self._transport.get(action.resource.path(action.namespace, action.name))
        except NotFound:
            return
        if action.is_ours(found):
            raise Conflict(f"{action.resource.kind} {action.namespace}/{action.name} is still there")


def _shown(action: Action) -> str:
    """A line for the log: what was done to which object, never its content."""
    match action:
        case Apply(resource, body) | Create(resource, body):
            target = f"{resource.kind} {namespace_of(body)}/{name_of(body)}"
        case Patch(resource, namespace, name, _, subresource):
            target = f"{resource.kind} {namespace}/{name} {subresource}".rstrip()
        case Delete(resource, namespace, name) | Gone(resource, namespace, name):
            target = f"{resource.kind} {namespace}/{name}"
        case Unread(namespace, claim):
            target = f"{namespace}/{claim}"
        case Post(about, _, reason):
            target = f"{reason} on {namespace_of(about)}/{name_of(about)}"
    return f"{type(action).__name__} {target}"
