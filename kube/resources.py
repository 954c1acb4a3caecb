"""Where each kind lives on the API server. A `Resource` is a value; it does no I/O."""

from dataclasses import dataclass

from datamodel.names import GROUP, VERSION


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object: `group` is empty for the core API."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """URL path of the collection, of one object, or of its subresource; no namespace means all namespaces."""
        parts = [f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/".join(parts)


NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
PODS = Resource("", "v1", "pods", "Pod")
SECRETS = Resource("", "v1", "secrets", "Secret")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
SERVICES = Resource("", "v1", "services", "Service")
EVENTS = Resource("", "v1", "events", "Event")
PVS = Resource("", "v1", "persistentvolumes", "PersistentVolume", namespaced=False)
PVCS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
STATEFUL_SETS = Resource("apps", "v1", "statefulsets", "StatefulSet")
DAEMON_SETS = Resource("apps", "v1", "daemonsets", "DaemonSet")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)

DATASETS = Resource(GROUP, VERSION, "datasets", "Dataset")
ALLUXIO_RUNTIMES = Resource(GROUP, VERSION, "alluxioruntimes", "AlluxioRuntime")
CACHE_RUNTIMES = Resource(GROUP, VERSION, "cacheruntimes", "CacheRuntime")
CACHE_RUNTIME_CLASSES = Resource(GROUP, VERSION, "cacheruntimeclasses", "CacheRuntimeClass", namespaced=False)
