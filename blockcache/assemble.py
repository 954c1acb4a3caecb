"""Builds the origins of a configuration: for each source its under file system, with the workers in front if any."""

import hashlib
from pathlib import Path
from urllib.parse import urlsplit

from blockcache.origin import Origin
from blockcache.peer import PeerFileSystem
from datamodel.client import ClientConfig, Source, decode_client_config
from datamodel.errors import Unavailable, UserError
from ufs.base import UnderFileSystem
from ufs.registry import open_source


def read_config(path: str) -> ClientConfig:
    """The configuration in the file *path*.

    Raises:
        UserError: it cannot be read, or something in it is wrong.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"--config: {path!r}: {error.strerror}") from error
    return decode_client_config(text, path)


def read_token(config: ClientConfig) -> str:
    """The runtime's token; empty where none is configured.

    Raises:
        Unavailable: the file cannot be read.
    """
    if not config.token_file:
        return ""
    try:
        return Path(config.token_file).read_text().strip()
    except OSError as error:
        raise Unavailable(f"token_file: {config.token_file!r}: {error.strerror}") from error


def identity_of(source: Source) -> str:
    """Text that differs where *source* is another one, so that names and bytes of it are not taken for this one's."""
    address = urlsplit(source.url)
    host = address.netloc.rpartition("@")[2]  # whoever asks: the data is the same
    endpoints = sorted(f"{name}={value}" for name, value in source.options.items() if "endpoint" in name)
    text = "\n".join([address.scheme, host, address.path.rstrip("/"), address.query, *endpoints])
    return hashlib.sha256(text.encode()).hexdigest()  # a query may hold a secret


def open_origins(config: ClientConfig) -> dict[str, Origin]:
    """Origins by absolute path in the dataset; close each when done.

    Raises:
        UserError: a source has an unknown scheme or option.
    """
    origins = {}
    for source in config.sources:
        layers: list[tuple[str, UnderFileSystem]] = []
        if config.workers.replicas:
            layers.append(("worker", PeerFileSystem(config.workers, read_token(config), source.path)))
        layers.append(("source", open_source(source)))
        origins[source.path] = Origin(source.name, layers)
    return origins
