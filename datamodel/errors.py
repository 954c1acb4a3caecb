"""Errors sorted by who has to act, and the one table that turns them into errno and gRPC codes.

A message names the field, its value and the cure. Secrets never go into a message. Rooms raise these classes and
nothing else across their borders; only adapters (FUSE, gRPC, Kubernetes events, the command line) translate them.
"""

import errno


class HeadraceError(Exception):
    """Base of every error that a room raises on purpose."""

    errno = errno.EIO
    grpc_code = "INTERNAL"
    exit_code = 1


class UserError(HeadraceError):
    """The request or the manifest is wrong; retrying without a change cannot help."""

    errno = errno.EINVAL
    grpc_code = "INVALID_ARGUMENT"
    exit_code = 2


class NotFound(HeadraceError):
    """The named thing does not exist."""

    errno = errno.ENOENT
    grpc_code = "NOT_FOUND"


class PermissionRefused(HeadraceError):
    """The caller, or the credentials it gave, may not do this."""

    errno = errno.EACCES
    grpc_code = "PERMISSION_DENIED"


class Conflict(HeadraceError):
    """Something else is in the way: another operation in flight, or a state that excludes the request."""

    errno = errno.EBUSY
    grpc_code = "ABORTED"


class Precondition(HeadraceError):
    """A step that must come first has not happened."""

    errno = errno.EBUSY
    grpc_code = "FAILED_PRECONDITION"


class AlreadyDifferent(HeadraceError):
    """It exists already, but not as asked for."""

    errno = errno.EEXIST
    grpc_code = "ALREADY_EXISTS"


class Unavailable(HeadraceError):
    """A dependency does not answer now; the same request may succeed later."""

    grpc_code = "UNAVAILABLE"

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(Unavailable):
    """The time the caller gave ran out."""

    errno = errno.ETIMEDOUT
    grpc_code = "DEADLINE_EXCEEDED"


class VersionChanged(HeadraceError):
    """The source file is no longer the version that was pinned; nothing of the new one was delivered."""

    errno = errno.ESTALE
    grpc_code = "ABORTED"


class Corrupt(HeadraceError):
    """Bytes do not match their checksum or their promised length."""

    grpc_code = "DATA_LOSS"


class OutOfSpace(HeadraceError):
    """The tier has no room left."""

    errno = errno.ENOSPC
    grpc_code = "RESOURCE_EXHAUSTED"
