"""The cache: catalog of names, sparse files of blocks, fetching from peers and sources, and the block server.

Library of the fuse client and of the worker. Knows neither FUSE nor Kubernetes. A tier or a peer that fails is a
warning, never a failed read while a source is left.
"""
