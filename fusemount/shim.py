"""Loads the FUSE shim so that pyfuse3 binds to it. Import this before pyfuse3; the plain path works without it."""

import os
import sys
from types import ModuleType


def load() -> ModuleType | None:
    """The shim with its symbols visible to libraries loaded later, or None where it was not built."""
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)
    try:
        from fusemount import _shim
    except ImportError:
        return None
    finally:
        sys.setdlopenflags(flags)
    return _shim
