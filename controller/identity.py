"""Labels and names by which a dataset's objects know each other. Pure."""

from dataclasses import dataclass
from typing import Any

from controller.engines import CACHE, Engine, RuntimeSpec
from datamodel import names
from kube.objects import Object, labels_of, name_of, owners_of, uid_of

MANAGED_BY = "fluid"
MANAGED_SELECTOR = f"{names.MANAGED_BY_LABEL}={MANAGED_BY}"
WORKER, FUSE, CLEANUP = "worker", "fuse", "cleanup"
_CACHE_NAME = "cacheruntime.fluid.io/name"
_CACHE_COMPONENT = "cacheruntime.fluid.io/component-name"


@dataclass(frozen=True)
class Identity:
    """Names that follow from the Dataset's namespace, name and UID; the UID stands in for names that are too long."""

    namespace: str
    name: str
    uid: str

    @property
    def dataset_id(self) -> str:
        return names.dataset_id(self.namespace, self.name, self.uid)

    @property
    def volume(self) -> str:
        return names.volume_name(self.namespace, self.name)

    @property
    def fuse_label(self) -> str:
        return names.fuse_label(self.namespace, self.name, self.uid)

    @property
    def cache_label(self) -> str:
        return names.cache_label(self.namespace, self.name, self.uid)

    @property
    def exclusive(self) -> str:
        """Value of the node label of Exclusive placement."""
        value = f"{self.namespace}_{self.name}"
        return value if len(value) <= 63 else self.uid

    def node_keys(self, engine: Engine) -> tuple[str, ...]:
        """Every node label with this dataset in its key, but the fuse label."""
        place = (self.namespace, self.name, self.uid)
        capacities = [names.capacity_label(engine.type, part, *place) for part in ("m", "d", "t")]
        return (self.cache_label, names.engine_label(engine.type, *place), *capacities)


def dataset_uid(dataset: Object | None, runtime: Object | None) -> str:
    """UID of the Dataset, from itself or from the runtime it owned."""
    if dataset is not None:
        return uid_of(dataset)
    owners = owners_of(runtime) if runtime is not None else []
    return next((str(owner["uid"]) for owner in owners if owner.get("kind") == "Dataset"), "")


def selector(spec: RuntimeSpec, component: str) -> dict[str, str]:
    """Labels that select a component's pods; they can never change."""
    if spec.engine is CACHE:
        shown = {WORKER: spec.worker_set, FUSE: spec.fuse_set}.get(component, f"{spec.name}-{component}")
        return {_CACHE_COMPONENT: shown, _CACHE_NAME: spec.name}
    return {"app": "alluxio", "release": spec.name, "role": f"alluxio-{component}"}


def selector_text(spec: RuntimeSpec) -> str:
    """The worker selector as text, for the scale subresource."""
    return ",".join(f"{key}={value}" for key, value in sorted(selector(spec, WORKER).items()))


def labels(spec: RuntimeSpec, identity: Identity, component: str) -> dict[str, str]:
    """Labels of a component's objects and pods."""
    return {
        **selector(spec, component),
        names.MANAGED_BY_LABEL: MANAGED_BY,
        names.DATASET_ID_LABEL: identity.dataset_id,
    }


def runtime_name(item: Object) -> str:
    """Name of the runtime that an object of ours belongs to; empty for others' objects."""
    given = labels_of(item)
    if given.get(names.MANAGED_BY_LABEL) != MANAGED_BY:
        return ""
    return given.get(_CACHE_NAME) or given.get("release", "")


def owner_reference(runtime: Object) -> dict[str, Any]:
    """What marks an object as the runtime's, for the garbage collector and for us."""
    return {
        "apiVersion": runtime["apiVersion"],
        "kind": runtime["kind"],
        "name": name_of(runtime),
        "uid": uid_of(runtime),
        "controller": True,
        "blockOwnerDeletion": True,
    }
