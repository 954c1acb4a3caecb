"""One HTTP/1.1 exchange: the head of the response, and its body, straight to where the caller wants it.

Written for few and large copies: heads are cut out of a small buffer, bodies are received straight into the caller's
memory, of known length or in chunks. RFC 9112; what breaks it is an error, never a guess about where a body ends.
"""

import re
from collections.abc import Iterator, Mapping

from datamodel.errors import Corrupt, HeadraceError, Precondition, UserError
from ufs.http_errors import show_url, translated
from ufs.http_socket import Connection, Pool

_DRAIN_LIMIT = 64 << 10  # a body up to here is read off to keep its connection; a longer one costs more than a new one
_PIECE = 1 << 20
_INTERIM_LIMIT = 8
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: |$)")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;|$)")
_NO_BODY = (204, 304)


class Headers(Mapping[str, str]):
    """Header fields by name in any case; those sent several times are joined by commas."""

    __slots__ = ("_fields",)

    def __init__(self, lines: list[bytes]) -> None:
        fields: dict[str, str] = {}
        name = ""
        for line in lines:
            if line[:1] in (b" ", b"\t") and name:  # a folded line, which old servers send
                fields[name] += " " + line.decode("latin-1").strip()
                continue
            raw_name, colon, raw_value = line.partition(b":")
            if not colon:
                raise ConnectionError("the response has a header line without a colon")
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1").strip()
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
        self._fields = fields

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


class Reply:
    """A response whose body has not been read yet. Ends with `finish` or `abandon`, which give the connection back."""

    def __init__(self, connection: Connection, pool: Pool, method: str, url: str) -> None:
        """Wait for the head of the response to a *method* request.

        Raises:
            OSError: no response, or none in HTTP.
        """
        self.url = url
        self.is_directory_redirect = False
        """The server points at the same path with a slash at its end; the redirect was not followed."""
        self._connection: Connection | None = connection
        self._pool = pool
        minor, self.status, self.headers = _read_head(connection)
        wishes = self.headers.get("Connection", "").lower()
        self._is_kept = "close" not in wishes and (minor == b"1" or "keep-alive" in wishes)
        self._is_chunked = False
        self._left: int | None = 0
        """Bytes of the body, or of its present chunk, still to come; None for all until the connection ends."""
        if method != "HEAD" and self.status not in _NO_BODY:
            self._frame()

    @property
    def is_directory(self) -> bool:
        """Whether the address that answered, or that it points at, is one of a directory."""
        return self.is_directory_redirect or self.url.partition("?")[0].endswith("/")

    def _frame(self) -> None:
        coding = self.headers.get("Transfer-Encoding", "").lower()
        length = self.headers.get("Content-Length")
        if coding:
            if coding != "chunked":
                raise ConnectionError(f"the response has the transfer coding {coding!r}, which nobody asked for")
            self._is_chunked = True
            self._is_kept = self._is_kept and length is None  # both: perhaps an attack on something in between
        elif length is None:
            self._left, self._is_kept = None, False
        else:
            lengths = {part.strip() for part in length.split(",")}
            text = lengths.pop()
            if lengths or not re.fullmatch("[0-9]{1,19}", text):
                raise ConnectionError(f"the response has the Content-Length {length[:40]!r}")
            self._left = int(text)

    def read_into(self, into: memoryview) -> int:
        """Fill *into* from the body; less only at its end.

        Raises:
            Corrupt: the body is in chunks and breaks off.
        """
        with translated(self.url):
            return self._read_chunked(into) if self._is_chunked else self._read_plain(into)

    def _read_plain(self, into: memoryview) -> int:
        if self._connection is None:
            return 0
        if self._left is not None and self._left < len(into):
            into = into[: self._left]
        count = self._connection.read_into(into)
        if self._left is not None:
            self._left -= count
        if count < len(into):
            self._is_kept = False
        return count

    def _read_chunked(self, into: memoryview) -> int:
        filled = 0
        while filled < len(into) and self._is_chunked:
            if self._left == 0 and not self._next_chunk():
                break
            count = self._read_plain(into[filled:])
            filled += count
            if self._left and filled < len(into):
                raise self._too_early()
        return filled

    def _next_chunk(self) -> bool:
        """Go to the next chunk's bytes; False behind the last one."""
        connection = self._connection
        if connection is None:
            return False
        try:
            line = connection.read_until(b"\r\n") or connection.read_until(b"\r\n")  # the end of the chunk before
            size = _CHUNK.match(line)
            if size is None:
                raise ConnectionError("no chunk")
            self._left = int(size[1], 16)
            if self._left == 0:
                self._is_chunked = False
                while connection.read_until(b"\r\n"):
                    """Trailers tell nothing about a file."""
        except ConnectionError as error:
            raise self._too_early() from error
        return self._left > 0

    def _too_early(self) -> Corrupt:
        self._is_kept = False
        return Corrupt(f"{show_url(self.url)}: the source ended its response too early")

    def read_exactly(self, count: int) -> bytearray:
        """The whole body, which is promised to have *count* bytes.

        Raises:
            Corrupt: it is shorter.
        """
        content = bytearray(count)
        received = self.read_into(memoryview(content))
        if received < count:
            raise Corrupt(f"{show_url(self.url)}: the source promised {count} bytes and sent {received}")
        return content

    def read_chunks(self, limit: int) -> bytearray:
        """The whole of a body without Content-Length, which must come in chunks: else nobody can tell where it ends.

        Raises:
            Precondition: it is longer than *limit*.
            UserError: it has no chunks.
            Corrupt: it breaks off.
        """
        where = show_url(self.url)
        if not self._is_chunked:
            raise UserError(f"{where}: the source does not tell the file's size; it must send Content-Length")
        content = bytearray(limit + 1)
        received = self.read_into(memoryview(content))
        if received > limit:
            raise Precondition(f"{where}: has more than {limit} bytes")
        del content[received:]
        return content

    def read_all(self, limit: int) -> bytes:
        """The whole body.

        Raises:
            UserError: it is longer than *limit*.
            Corrupt: it is shorter than its Content-Length.
        """
        pieces, left = [], limit
        scratch = memoryview(bytearray(min(limit + 1, _PIECE)))
        while count := self.read_into(scratch[: left + 1]):
            pieces.append(bytes(scratch[:count]))
            left -= count
            if left < 0:
                raise UserError(f"{show_url(self.url)}: longer than {limit} bytes, too long for an index page")
        if self._left:
            raise self._too_early()
        return b"".join(pieces)

    def read_start(self, limit: int) -> bytes:
        """The first *limit* bytes of the body, or all if it is shorter."""
        start = bytearray(limit)
        return bytes(memoryview(start)[: self.read_into(memoryview(start))])

    def skip(self, count: int) -> int:
        """Read *count* bytes off the body and forget them; fewer only at its end."""
        scratch = memoryview(bytearray(min(count, _PIECE)))
        done = 0
        while done < count:
            step = self.read_into(scratch[: count - done])
            if step == 0:
                break
            done += step
        return done

    def finish(self) -> None:
        """Give the connection back: usable if the rest of the body is short, else closed."""
        connection = self._connection
        if connection is None:
            return
        if self._is_kept and (self._is_chunked or self._left):
            self._drain()
        if not self._is_kept or self._is_chunked or self._left:
            self.abandon()
            return
        self._connection = None
        self._pool.give(connection)

    def _drain(self) -> None:
        if self._left is not None and self._left > _DRAIN_LIMIT:
            return
        try:
            self.skip(_DRAIN_LIMIT + 1)
        except HeadraceError:  # what was wanted has arrived; only the connection is lost
            self._is_kept = False

    def abandon(self) -> None:
        """Close the connection: after an error, nobody knows what it would deliver next."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.drop(connection)


def _read_head(connection: Connection) -> tuple[bytes, int, Headers]:
    """Minor version, status and headers of the final response; interim ones (1xx) are passed over."""
    for _ in range(_INTERIM_LIMIT):
        lines = connection.read_until(b"\r\n\r\n").split(b"\r\n")
        if lines == [b""]:
            raise ConnectionResetError("the server closed the connection without a response")
        match = _STATUS.match(lines[0])
        if match is None or match[2] == b"101":
            raise ConnectionError("the server does not answer in HTTP/1.1")
        if match[2][:1] != b"1":
            return match[1], int(match[2]), Headers(lines[1:])
    raise ConnectionError("the server sends interim responses without end")
