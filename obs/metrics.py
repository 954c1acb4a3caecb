"""Every metric of the project, with unit and bounded labels. Names: `fluid_<part>_<thing>_<unit>[_total]`."""

from prometheus_client import Counter, Gauge, Histogram

CSI_SECONDS = Histogram("fluid_csi_rpc_seconds", "Duration of CSI calls.", ["rpc", "code"])
BROKER_MOUNTS = Gauge("fluid_broker_mounts", "FUSE mounts the broker keeps alive.")
BROKER_RESENDS = Counter("fluid_broker_resends_total", "Times the kernel was asked to resend after a daemon died.")
FUSE_REQUESTS = Counter("fluid_fuse_requests_total", "FUSE requests answered by the daemon.", ["op"])
FUSE_ERRORS = Counter("fluid_fuse_request_errors_total", "FUSE requests answered with an unexpected error.", ["op"])
FUSE_STORED_BYTES = Counter("fluid_fuse_stored_bytes_total", "Bytes put into the kernel's page cache unasked.")
READ_BYTES = Counter("fluid_cache_read_bytes_total", "Bytes delivered to readers by where they came from.", ["source"])
FETCH_BYTES = Counter(
    "fluid_cache_fetch_bytes_total", "Bytes fetched into the cache by where they came from.", ["source"]
)
FETCH_ERRORS = Counter("fluid_cache_fetch_errors_total", "Fetches that failed.", ["source"])
CORRUPT_BLOCKS = Counter(
    "fluid_cache_corrupt_blocks_total", "Cached blocks or files that did not match their checksum and were dropped."
)
EVICTED_BYTES = Counter("fluid_cache_evicted_bytes_total", "Bytes evicted from the cache.")
DEMOTED_BYTES = Counter("fluid_cache_demoted_bytes_total", "Bytes taken from a tier that was full to the next.")
RECONCILE_SECONDS = Histogram("fluid_controller_reconcile_seconds", "Duration of one reconcile.", ["kind", "result"])
