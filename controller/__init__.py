"""The control plane: what Dataset and runtime objects ask for becomes workloads, volumes, labels and status.

Level-triggered: `reconcile(key)` takes a snapshot from local copies, `decide` (pure) gives a plan, `apply` does it.
"""
