"""The FUSE client: a pyfuse3 adapter over the cached dataset, its daemon processes, and who keeps them alive.

The daemons are unprivileged: the broker mounts, they get a fuse device. Only `adapter.py` and `session.py` import
pyfuse3, and only after `shim.py` had its say.
"""
