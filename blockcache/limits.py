"""How many files this process may have open, and how many cache files it keeps open because of that."""

import resource

_MOST_FILES = 4096
_FILES_FOR_OTHERS = 256  # sockets, the catalog's connections, what fetches open
_DESCRIPTORS_PER_FILE = 3  # data and map; one more for files that are in use although they left the list


def raise_open_files() -> None:
    """Take as many descriptors as the administrator allows; the default suits programs that use select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def kept_files() -> int:
    """Cache files to keep open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST_FILES
    return max(16, min(_MOST_FILES, (soft - _FILES_FOR_OTHERS) // _DESCRIPTORS_PER_FILE))
