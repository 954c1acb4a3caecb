"""client.json: what is accepted, what is refused, and that it survives a round trip."""

import json
from typing import Any

import pytest

from datamodel.client import ClientConfig, Source, Tier, decode_client_config, encode_client_config
from datamodel.errors import UserError

PLAIN: dict[str, Any] = {
    "dataset": "ns/name",
    "sources": [{"name": "a", "url": "http://a/", "path": "/"}],
    "tiers": [{"path": "/cache", "quota_bytes": 1}],
}


def test_round_trip_keeps_everything() -> None:
    config = ClientConfig(
        dataset="ns/name",
        sources=(Source(name="a", url="http://a/", path="/a", options={"username": "u"}),),
        tiers=(Tier(path="/m", quota_bytes=1, high=0.9, low=0.1), Tier(path="/d", quota_bytes=2)),
        listing_ttl_s=1.5,
    )

    assert decode_client_config(encode_client_config(config)) == config


def test_defaults_are_filled_in() -> None:
    config = decode_client_config(json.dumps(PLAIN))

    assert (config.workers.replicas, config.block_bytes, config.processes) == (0, 1 << 20, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"tiers": []},
        {"sources": [{"name": "a", "url": "u", "path": "a"}]},
        {"sources": [{"name": "a", "url": "u", "path": "/../a"}]},
        {"sources": [{"name": "a", "url": "u", "path": "/./a"}]},
        {"sources": [{"name": "a", "url": "u", "path": "/x/y"}]},
        {"sources": [{"name": n, "url": "u", "path": "/a"} for n in "ab"]},
        {"sources": [{"name": "a", "url": "u", "path": "/"}, {"name": "b", "url": "u", "path": "/b"}]},
        {"unknown": 1},
        {"dataset": 5},
        {"sources": None},
    ],
    ids=str,
)
def test_wrong_config_is_the_users_error(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        decode_client_config(json.dumps({**PLAIN, **changes}))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_what_is_no_json_object_is_the_users_error(text: bytes) -> None:
    with pytest.raises(UserError, match=r"mine\.json"):
        decode_client_config(text, "mine.json")
