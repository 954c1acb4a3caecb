"""The API server as this project sees it: transport, resources, reflectors, work queue, lease, events.

Raw dicts only. Nothing here knows a dataset; only this room imports the `kubernetes` package.
"""
