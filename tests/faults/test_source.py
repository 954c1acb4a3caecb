"""A source that fails in every way that HTTP allows: right bytes or a clean error, and it heals by itself."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.origin import Asked, Fault, FaultyOrigin, Plan, sometimes
from tests.faults.readers import outcomes, reading
from tests.faults.sizes import MIB, READERS, cases, in_full
from tests.faults.watching import status
from tests.fusemount.mounts import content, mounted, until

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("private_mounts")]

IMPATIENT = ("--option", "read-timeout=1", "--ttl", "0")
PASSING = {
    "status-500": Fault(status=500),
    "status-503": Fault(status=503, retry_after_s=0),
    "status-429": Fault(status=429, retry_after_s=1),
    "cut": Fault(cut_after=100_000),
    "cut-at-once": Fault(cut_after=0),
    "promises-more": Fault(extra_length=1000),
    "promises-less": Fault(extra_length=-1000),
    "no-answer": Fault(refuses=True),
    "whole-file": Fault(ignores_range=True),
    "stalls": Fault(stall_after=100_000),
}
LASTING = {name: fault for name, fault in PASSING.items() if name not in ("whole-file", "promises-less", "status-429")}
CLEAN = {"EIO", "ETIMEDOUT"}


def by_name(plans: dict[str, Plan]) -> Plan:
    return lambda asked: plans[asked.name](asked) if asked.name in plans else None


def always(fault: Fault) -> Plan:
    return lambda asked: fault if asked.method == "GET" else None


@pytest.fixture
def origin() -> Iterator[FaultyOrigin]:
    with FaultyOrigin() as made:
        yield made


def below(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in files.items()}


def fill(origin: FaultyOrigin, names: list[str], size: int = 3 * MIB + 11) -> dict[str, bytes]:
    files = {name: content(size + number, number) for number, name in enumerate(names)}
    for name, data in files.items():
        origin.put(name, data)
    return files


def test_faults_that_pass_are_noticed_by_no_reader(origin: FaultyOrigin, tmp_path: Path) -> None:
    files = fill(origin, list(PASSING), 6 * MIB)
    origin.plan = by_name({name: sometimes(fault, every=3, name=name) for name, fault in PASSING.items()})

    with mounted(tmp_path, *IMPATIENT, origin.url) as mount, reading(mount.path, files, READERS) as readers:
        assert readers.finish() == []
        until(lambda: status(mount)["sources"][0]["healthy"])


def test_faults_that_last_are_clean_errors_and_heal_without_a_restart(origin: FaultyOrigin, tmp_path: Path) -> None:
    broken = fill(origin, list(LASTING))
    origin.plan = by_name({name: always(fault) for name, fault in LASTING.items()})
    origin.put("sound", sound := content(2 * MIB, 77))
    with FaultyOrigin() as other:
        lost = fill(other, ["cached", "unknown"])
        with mounted(tmp_path, *IMPATIENT, f"broken={origin.url}", f"lost={other.url}") as mount:
            assert outcomes(mount.path / "lost", {"cached": lost["cached"]}) == {"cached": ""}
            assert (mount.path / "lost" / "unknown").stat().st_size == len(lost["unknown"])
            port = other.stop()
            wanted = below("broken", broken) | below("lost", lost) | {"broken/sound": sound}

            found = outcomes(mount.path, wanted)

            assert found.pop("broken/sound") == found.pop("lost/cached") == ""
            assert found.pop("broken/promises-more") in CLEAN | {""}  # all that was asked for did come
            assert {name: outcome for name, outcome in found.items() if outcome not in CLEAN} == {}
            assert {source["name"]: source["healthy"] for source in status(mount)["sources"]}["lost"] is False
            assert "Traceback" not in mount.log.read_text()

            origin.plan = lambda asked: None
            origin.release()
            other.start(port)
            until(lambda: set(outcomes(mount.path, wanted).values()) == {""})
            until(lambda: all(source["healthy"] for source in status(mount)["sources"]))


def test_length_that_the_source_does_not_keep_is_an_error_and_never_zeros(origin: FaultyOrigin, tmp_path: Path) -> None:
    files = fill(origin, ["small", "large"], 3 * MIB)
    files["small"] = files["small"][:5000]
    origin.put("small", files["small"])
    origin.plan = lambda asked: Fault(extra_length=4096) if asked.name and asked.method == "HEAD" else None
    with mounted(tmp_path, *IMPATIENT, origin.url) as mount:
        assert mount.path.joinpath("large").stat().st_size == len(files["large"]) + 4096

        found = outcomes(mount.path, files)
        assert set(found.values()) <= {*CLEAN, "ESTALE"}, found

        origin.plan = lambda asked: None
        until(lambda: set(outcomes(mount.path, files).values()) == {""})


@pytest.mark.parametrize("ignores_conditions", cases([True], [False]))
def test_file_that_changes_while_it_is_read_is_never_mixed(
    origin: FaultyOrigin, tmp_path: Path, ignores_conditions: bool
) -> None:
    old, new = content(12 * MIB, 1), content(12 * MIB, 2)
    origin.put("f", old)

    def change_in_the_middle(asked: Asked) -> Fault | None:
        if asked.method == "GET" and asked.offset >= 4 * MIB and not changed:
            changed.append(asked)
            origin.put("f", new)
        return Fault(ignores_conditions=ignores_conditions)

    changed: list[Asked] = []
    origin.plan = change_in_the_middle
    with mounted(tmp_path, *IMPATIENT, origin.url) as mount:
        assert outcomes(mount.path, {"f": old})["f"] in ("", "ESTALE")
        assert changed
        until(lambda: outcomes(mount.path, {"f": new}) == {"f": ""})
        assert (mount.path / "f").read_bytes() == new


@in_full
def test_file_that_is_removed_is_read_to_its_cached_end_and_not_found_again(
    origin: FaultyOrigin, tmp_path: Path
) -> None:
    files = fill(origin, ["goes", "stays"])
    with mounted(tmp_path, *IMPATIENT, origin.url) as mount:
        assert outcomes(mount.path, files) == {"goes": "", "stays": ""}
        with (mount.path / "goes").open("rb") as reader:
            assert reader.read(1000) == files["goes"][:1000]

            origin.remove("goes")
            until(lambda: os.listdir(mount.path) == ["stays"])

            assert reader.read() == files["goes"][1000:]
        with pytest.raises(FileNotFoundError):
            (mount.path / "goes").open("rb")


@in_full
def test_source_without_ranges_is_read_once_from_its_start(origin: FaultyOrigin, tmp_path: Path) -> None:
    files = fill(origin, ["whole"], 24 * MIB)
    origin.plan = lambda asked: Fault(ignores_range=True)
    with mounted(tmp_path, *IMPATIENT, origin.url) as mount, reading(mount.path, files, READERS) as readers:
        assert readers.finish() == []
    sent = [asked for asked in origin.asked if asked.method == "GET" and asked.name == "whole"]
    assert len([asked for asked in sent if asked.length > 1]) <= 4  # a process may read it while another does


@in_full
def test_unknown_names_of_a_source_that_is_away_are_errors_and_not_missing(
    origin: FaultyOrigin, tmp_path: Path
) -> None:
    fill(origin, ["known"])
    with mounted(tmp_path, *IMPATIENT, origin.url) as mount:
        (mount.path / "known").read_bytes()
        origin.plan = lambda asked: Fault(status=503)

        assert (mount.path / "known").stat().st_size > 0
        with pytest.raises(OSError, match=r"Input/output|timed out"):
            (mount.path / "unknown").stat()

        origin.plan = lambda asked: None
        with pytest.raises(FileNotFoundError):
            until(lambda: bool((mount.path / "unknown").stat()))
