"""FTP with reads from the middle of a file: fsspec's own class aborts a transfer in a way that few servers answer."""

import ftplib

from fsspec.implementations.ftp import FTPFileSystem


class RangedFTPFileSystem(FTPFileSystem):  # type: ignore[misc]  # fsspec has no types
    """FTP whose files can be read from any offset, straight into memory."""

    ftp: ftplib.FTP

    def read_into(self, path: str, offset: int, into: memoryview) -> int:
        """Fill *into* from *offset* of *path*; less where the file ends. RFC 3659 section 5 (REST), 959 (RETR)."""
        self.ftp.voidcmd("TYPE I")
        data = self.ftp.transfercmd(f"RETR {path}", rest=offset or None)
        filled = 0
        with data:
            while filled < len(into) and (count := data.recv_into(into[filled:])):
                filled += count
        try:
            self.ftp.voidresp()
        except (ftplib.error_temp, ftplib.error_perm):
            if filled < len(into):
                raise  # else the server says that we hung up, which we did
        return filled
