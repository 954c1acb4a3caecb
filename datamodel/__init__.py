"""Values that every room shares: names, paths, errors, CRD types, settings. No I/O, no clock, no logging."""
