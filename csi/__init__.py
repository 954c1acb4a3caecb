"""The CSI node plugin: what kubelet asks for becomes mounts at the broker and a label on the node.

Adapter (`identity`, `node`, `interceptor`) -> core (`requests`, `arbitration`, `volumes`, `janitor`) -> `ports`. It
holds no privilege, touches no data and no path inside a FUSE mount, and knows no source of any dataset. Taking a volume
away needs neither the API server nor a living mount.
"""
