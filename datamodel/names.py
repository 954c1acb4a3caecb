"""Every name, label, annotation and path that is part of the contract with users, Fluid's tooling and kubelet.

Source of the contract: Fluid's API (`data.fluid.io/v1alpha1`). One place, so that a search finds who writes what.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from datamodel.errors import UserError

GROUP = "data.fluid.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
DRIVER = "fuse.csi.fluid.io"
STORAGE_CLASS = "fluid"
BUILTIN_CLASS = "headrace"

RUNTIME_ROOT = "/runtime-mnt"
KUBELET_DIR = "/var/lib/kubelet"
DAEMON_UID = 65534
"""Numeric user of the daemons in fuse pods and of the workers: nobody."""

LABEL_PREFIX = "fluid.io/"
DATASET_ID_LABEL = "fluid.io/dataset-id"
DATASET_LABEL = "fluid.io/dataset"
PLACEMENT_LABEL = "fluid.io/dataset-placement"
MANAGED_BY_LABEL = "fluid.io/managed-by"
CREATED_BY_ANNOTATION = "CreatedBy"
CREATED_BY = "fluid"
DATASET_NUM_LABEL = "fluid.io/dataset-num"
EXCLUSIVE_LABEL = "fluid_exclusive"
STORAGE_ANNOTATION = "pvc.fluid.io/resources.requests.storage"
TIER_NODES_ANNOTATION = "headrace.io/tier-nodes"
"""On a runtime: nodes whose folders hold, or once held, cache files of its workers."""
DATASET_FINALIZER = "fluid-dataset-controller-finalizer"

# volumeAttributes of the PV, as Fluid spells them
ATTRIBUTE_PATH = "fluid_path"
ATTRIBUTE_SUB_PATH = "fluid_sub_path"
ATTRIBUTE_MOUNT_TYPE = "mount_type"
ATTRIBUTE_NAMESPACE = "runtime_namespace"
ATTRIBUTE_NAME = "runtime_name"
ATTRIBUTE_LABEL_KEY = "mount_pod_node_selector_key"
ATTRIBUTE_CLEAN_POLICY = "clean_policy"

TOKEN_KEY = "token"
"""Key of the runtime's token in its Secret, and of the stage secret that kubelet passes to NodeStageVolume."""

_LABEL_KEY_LIMIT = 63  # Fluid counts the prefix too
_DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def check_name(field: str, value: str) -> str:
    """Return *value* if it is a DNS-1123 label, which is safe in a path, a label and a host name.

    Raises:
        UserError: it is not; the message names *field*.
    """
    if not _DNS_1123.fullmatch(value):
        raise UserError(
            f"{field}: {value!r} is not a DNS-1123 label; use at most 63 of a-z, 0-9 and '-', "
            "starting and ending with a letter or digit"
        )
    return value


def is_dns_1035(value: str) -> bool:
    """Whether *value* may name a Dataset or a Runtime (Fluid's rule: starts with a letter)."""
    return _DNS_1035.fullmatch(value) is not None


def _keyed(prefix: str, namespace: str, name: str, uid: str) -> str:
    key = f"{LABEL_PREFIX}{prefix}{namespace}-{name}"
    return key if len(key) < _LABEL_KEY_LIMIT or not uid else f"{LABEL_PREFIX}{prefix}{uid}"


def fuse_label(namespace: str, name: str, uid: str = "") -> str:
    """Node label that makes the fuse DaemonSet run on a node: `fluid.io/f-<ns>-<name>`.

    Keys of 63 characters and more carry the Dataset's *uid* in place of the names, as in Fluid.
    """
    return _keyed("f-", namespace, name, uid)


def cache_label(namespace: str, name: str, uid: str = "") -> str:
    """Node label of nodes that hold a worker: `fluid.io/s-<ns>-<name>`."""
    return _keyed("s-", namespace, name, uid)


def engine_label(engine: str, namespace: str, name: str, uid: str = "") -> str:
    """Node label of nodes that hold a worker of one engine: `fluid.io/s-<engine>-<ns>-<name>`."""
    return _keyed(f"s-{engine}-", namespace, name, uid)


def capacity_label(engine: str, part: str, namespace: str, name: str, uid: str = "") -> str:
    """Node label with a worker's capacity: *part* is m (memory), d (disk) or t (total)."""
    return _keyed(f"s-h-{engine}-{part}-", namespace, name, uid)


def dataset_id(namespace: str, name: str, uid: str = "") -> str:
    """Value of `fluid.io/dataset-id`."""
    value = f"{namespace}-{name}"
    return value if len(value) < _LABEL_KEY_LIMIT or not uid else uid


def volume_name(namespace: str, name: str) -> str:
    """Name of the PersistentVolume, which is also its CSI volume handle."""
    return f"{namespace}-{name}"


@dataclass(frozen=True, slots=True, order=True)
class RuntimeKey:
    """Identity of one runtime on a node: `<engine>/<namespace>/<name>`, e.g. `alluxio/default/cifar10`.

    Raises:
        UserError: a part is not a DNS-1123 label, so it could leave the runtime root.
    """

    engine: str
    namespace: str
    name: str

    def __post_init__(self) -> None:
        check_name("engine", self.engine)
        check_name(ATTRIBUTE_NAMESPACE, self.namespace)
        check_name(ATTRIBUTE_NAME, self.name)

    def __str__(self) -> str:
        return f"{self.engine}/{self.namespace}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> "RuntimeKey":
        """The inverse of `str(key)`."""
        parts = text.split("/")
        if len(parts) != 3:
            raise UserError(f"runtime key: {text!r} is not <engine>/<namespace>/<name>")
        return cls(*parts)

    @classmethod
    def of_fuse_path(cls, root: str, path: str) -> "RuntimeKey":
        """Key of the runtime whose mount is *path* = `<root>/<engine>/<ns>/<name>/fuse`.

        Raises:
            UserError: *path* has another form, e.g. `..` in it or another root.
        """
        parts = path.removeprefix(f"{root}/").split("/") if path.startswith(f"{root}/") else []
        if len(parts) != 4 or parts[3] not in ("fuse", f"{parts[0]}-fuse"):
            raise UserError(
                f"{ATTRIBUTE_PATH}: {path!r} is not {root}/<engine>/<namespace>/<name>/fuse; "
                "it is written by the controller and must not be edited"
            )
        return cls(*parts[:3])


@dataclass(frozen=True, slots=True)
class RuntimePaths:
    """Where one runtime lives on a node. All absolute; made by the broker, owned by the daemons' user where noted."""

    base: PurePosixPath

    @classmethod
    def of(cls, key: RuntimeKey, root: str = RUNTIME_ROOT) -> "RuntimePaths":
        return cls(PurePosixPath(root, key.engine, key.namespace, key.name))

    @property
    def mount(self) -> PurePosixPath:
        """The FUSE mount, bound into pods."""
        return self.base / "fuse"

    @property
    def run(self) -> PurePosixPath:
        """Folder with the broker's socket for the daemons."""
        return self.base / "run"

    @property
    def socket(self) -> PurePosixPath:
        """The broker's SOCK_SEQPACKET socket for this runtime's daemons."""
        return self.run / "broker.sock"

    @property
    def cache(self) -> PurePosixPath:
        """Catalog and cache files of this node; owned by the daemons' user."""
        return self.base / "cache"
