"""SFTP that checks whom it talks to: fsspec's own class trusts whatever host answers, and waits for it for ever."""

from pathlib import Path
from typing import Any

import paramiko
from fsspec.implementations.sftp import SFTPFileSystem

_SYSTEM_HOSTS = Path("/etc/ssh/ssh_known_hosts")


class CheckedSFTPFileSystem(SFTPFileSystem):  # type: ignore[misc]  # fsspec has no types
    """SFTP to a host whose key is in *known_hosts_file*, else in those of the user and the system."""

    def __init__(
        self,
        host: str,
        *,
        known_hosts_file: str | None,
        has_any_host_key: bool,
        read_timeout_s: float,
        use_listings_cache: bool = False,
        **arguments: Any,
    ) -> None:
        # All classes of fsspec take *use_listings_cache*; this one would hand it on to the connection.
        self._known_hosts_file = known_hosts_file
        self._read_timeout_s = read_timeout_s
        policy = paramiko.AutoAddPolicy() if has_any_host_key else paramiko.RejectPolicy()
        super().__init__(host, host_key_policy=policy, **arguments)

    def _connect(self) -> None:
        self.client = paramiko.SSHClient()
        if self._known_hosts_file is not None:
            self.client.load_system_host_keys(self._known_hosts_file)
        else:
            self.client.load_system_host_keys()
            if _SYSTEM_HOSTS.exists():
                self.client.load_system_host_keys(str(_SYSTEM_HOSTS))
        self.client.set_missing_host_key_policy(self.host_key_policy)
        self.client.connect(self.host, **self.ssh_kwargs)
        self.ftp = self.client.open_sftp()
        channel = self.ftp.get_channel()
        if channel is not None:
            channel.settimeout(self._read_timeout_s)
