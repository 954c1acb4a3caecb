"""The mount broker: the one privileged process of a node.

It makes FUSE mounts, answers the kernel's INIT with our own choice of features, keeps every fuse fd open so that a
daemon may die without its readers noticing, registers files for passthrough on a daemon's behalf, and binds mounts
into pods by file descriptor. It knows runtime keys and trusted folders; it knows no dataset, no CSI, no Kubernetes,
and it never touches a path inside a FUSE mount itself, because such a call can hang.
"""
