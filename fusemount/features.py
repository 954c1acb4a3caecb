"""Which features a mount makes use of, and for each that is off the reason why. Values only."""

import os
from dataclasses import dataclass

from broker.wire import Attached
from fusemount.report import Features

_DISABLE = "HEADRACE_DISABLE"


def is_disabled(feature: str) -> bool:
    """Whether the user took *feature* away, to compare with or in doubt: `HEADRACE_DISABLE=passthrough,shim,push`."""
    return feature in os.environ.get(_DISABLE, "").split(",")


@dataclass(frozen=True, slots=True)
class Connected:
    """How a daemon is connected to its kernel. *attached* is None where it mounted by itself, without a broker."""

    shim: bool
    wanted: str = "large-files"
    no_open: bool = False
    attached: Attached | None = None

    @property
    def passthrough_problem(self) -> str:
        """Why no file is read by passthrough; empty where nothing speaks against it."""
        if is_disabled("passthrough"):
            return f"taken away by {_DISABLE}"
        if self.attached is None:
            return "it takes root, or a broker"
        if not self.shim:
            return "the FUSE shim was not built"
        if self.no_open:
            return "files are opened without a message, as suits small ones"
        return "" if self.attached.passthrough else "the kernel does not offer it; it came with Linux 6.9"


def features_of(connected: Connected, passthrough_refused: str) -> tuple[Features, dict[str, str]]:
    """Features in use, and reasons by the name of those that are not. *passthrough_refused*: by the kernel, and why."""
    attached, shim = connected.attached, connected.shim
    no_broker = "it takes root, or a broker"
    problems = {
        "passthrough": connected.passthrough_problem or passthrough_refused,
        "survivesKill": _resend_problem(attached) or "",
        "readAheadKiB": no_broker if attached is None else attached.read_ahead_problem,
        "processes": "" if attached is not None and shim else "one only: several take a broker and the FUSE shim",
        "profile": "" if connected.no_open == (connected.wanted == "small-files") else _profile_problem(connected),
        "cacheDirectories": "" if shim else "the FUSE shim was not built",
        "shortCuts": "" if shim else "the FUSE shim was not built",
    }
    reasons = {name: why for name, why in problems.items() if why}
    features = Features(
        passthrough="passthrough" not in reasons,
        survives_kill="survivesKill" not in reasons,
        read_ahead_kib=attached.read_ahead_kib if attached is not None else 0,
        profile="small-files" if connected.no_open else "large-files",
        cache_directories=shim,
        short_cuts=shim,
    )
    return features, reasons


def _resend_problem(attached: Attached | None) -> str:
    if attached is None:
        return "it takes root, or a broker"
    return "" if attached.resend else "the kernel cannot ask again what was lost; it can since Linux 6.9"


def _profile_problem(connected: Connected) -> str:
    if not connected.shim:
        return "small-files takes the FUSE shim, which was not built"
    return "the mount was made for another profile; it holds until the next mount"
