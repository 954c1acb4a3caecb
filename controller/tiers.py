"""Tiered stores, as both kinds of runtime spell them, into `Tier` values. Pure."""

from controller.engines import DEFAULT_TIER_BYTES, MEMORY, Tier
from datamodel.cacheruntime import RuntimeLevel
from datamodel.errors import UserError
from datamodel.quantity import parse_bytes
from datamodel.shapes import Level

_ORDER = {MEMORY: 0, "SSD": 1, "HDD": 2}
DEFAULT = (Tier("SSD", DEFAULT_TIER_BYTES),)
"""A runtime that says nothing gets one emptyDir."""


def classic_tiers(field: str, levels: tuple[Level, ...]) -> tuple[Tier, ...]:
    """Tiers of a classic runtime, nearest first.

    Raises:
        UserError: a level without a quota, with a bad one, or with a path that is no folder.
    """
    tiers: list[Tier] = []
    for index, level in enumerate(levels):
        tiers += _classic_level(f"{field}.levels[{index}]", level)
    return tuple(sorted(tiers, key=lambda tier: _ORDER[tier.medium]))


def runtime_tiers(field: str, levels: tuple[RuntimeLevel, ...]) -> tuple[Tier, ...]:
    """Tiers of a CacheRuntime, in the order given.

    Raises:
        UserError: a level with none or several volumes, unequal lists, or a bad quota.
    """
    if sum(level.process_memory is not None for level in levels) > 1:
        raise UserError(f"{field}.levels: processMemory may be used by one level only")
    tiers: list[Tier] = []
    for index, level in enumerate(levels):
        tiers += _runtime_level(f"{field}.levels[{index}]", level)
    return tuple(tiers)


def check_folder(field: str, path: str) -> str:
    """*path* without a trailing slash, if it is an absolute folder other than / itself.

    Raises:
        UserError: it is not.
    """
    parts = path.rstrip("/").split("/")
    if parts[0] != "" or len(parts) < 2 or any(part in ("", ".", "..") for part in parts[1:]):
        raise UserError(f"{field}: {path!r} must be an absolute folder without '.' or '..', and not / itself")
    return "/".join(parts)


def _classic_level(field: str, level: Level) -> list[Tier]:
    high, low = _watermarks(field, level.high, level.low)
    paths = [path.strip() for path in level.path.split(",") if path.strip()]
    quotas = _quotas(field, level, max(1, len(paths)))
    if level.volume_type == "emptyDir":
        return [Tier(level.mediumtype, quota, high, low) for quota in quotas]
    if not paths:
        raise UserError(f"{field}.path: missing; name a folder of the node such as /var/lib/cache")
    folders = [check_folder(f"{field}.path", path) for path in paths]
    return [Tier(level.mediumtype, quota, high, low, folder) for quota, folder in zip(quotas, folders, strict=True)]


def _quotas(field: str, level: Level, count: int) -> list[int]:
    if level.quota_list:
        quotas = [_quota(f"{field}.quotaList", part) for part in level.quota_list.split(",")]
        if len(quotas) != count:
            raise UserError(f"{field}.quotaList: {len(quotas)} quotas for {count} paths; give one for each")
        return quotas
    if level.quota is None:
        raise UserError(f"{field}.quota: missing; set a size such as 10Gi")
    return [_quota(f"{field}.quota", level.quota) // count] * count


def _runtime_level(field: str, level: RuntimeLevel) -> list[Tier]:
    high, low = _watermarks(field, level.high, level.low)
    given = [part for part in (level.process_memory, level.empty_dir, level.host_path) if part is not None]
    if len(given) != 1:
        raise UserError(f"{field}: set exactly one of processMemory, emptyDir and hostPath, not {len(given)}")
    if level.process_memory is not None:
        return [Tier(MEMORY, _quota(f"{field}.processMemory.quota", level.process_memory.quota), high, low)]
    if level.empty_dir is not None:
        medium = MEMORY if level.empty_dir.medium == "Memory" else "SSD"
        return [Tier(medium, _quota(f"{field}.emptyDir.quota", level.empty_dir.quota), high, low)]
    assert level.host_path is not None
    paths, quotas = level.host_path.paths, level.host_path.quotas
    if len(paths) != len(quotas):
        raise UserError(f"{field}.hostPath: {len(paths)} paths but {len(quotas)} quotas; give one for each")
    return [
        Tier("SSD", _quota(f"{field}.hostPath.quotas", quota), high, low, check_folder(f"{field}.hostPath.paths", path))
        for path, quota in zip(paths, quotas, strict=True)
    ]


def _quota(field: str, value: int | str) -> int:
    quota = parse_bytes(field, str(value))
    if quota <= 0:
        raise UserError(f"{field}: {value!r} leaves no room; set a size such as 10Gi")
    return quota


def _watermarks(field: str, high: str, low: str) -> tuple[float, float]:
    top, bottom = _fraction(f"{field}.high", high, 0.95), _fraction(f"{field}.low", low, 0.7)
    if bottom > top:
        raise UserError(f"{field}.low: {low!r} is above high {high!r}; eviction would never stop")
    return top, bottom


def _fraction(field: str, text: str, default: float) -> float:
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise UserError(f"{field}: {text!r} is not a fraction; write e.g. {default}")
    return value
