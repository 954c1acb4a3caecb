def pack_names(
    rows: list[tuple[int, bytes, int, int, int, int, int, int, int]],
    incarnation_bits: int,
    uid: int,
    gid: int,
    file_mode: int,
    folder_mode: int,
    settled_ttl_s: float,
    incomplete_ttl_s: float,
    unlisted_ttl_s: float,
    /,
) -> tuple[bytes, list[int]]: ...
