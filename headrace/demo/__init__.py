"""`headrace demo`: the whole path of a node on this machine, with real mounts and no cluster."""
