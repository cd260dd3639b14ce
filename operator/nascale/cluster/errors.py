"""What can go wrong at the API server, by what is to be done about it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final


class ClusterError(Exception):
    """A request that the API server did not carry out.

    Attributes:
        reason: One of a bounded set of words, for metrics and logs.
        retry_after_seconds: What the server asked for, or ``None``.
    """

    reason = "Cluster"

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ConflictError(ClusterError):
    """A precondition failed: what we knew of the object is out of date. Look again at once."""

    reason = "Conflict"


class AlreadyExistsError(ClusterError):
    """An object of this name exists."""

    reason = "AlreadyExists"


class ForeignObjectError(ClusterError):
    """An object of this name exists and belongs to somebody else: a person has to decide."""

    reason = "ForeignObject"


class NotFoundError(ClusterError):
    """There is no such object (any more), or the kind is not installed."""

    reason = "NotFound"


class FencedError(ClusterError):
    """This process may not write any more: it has lost its Lease, and another replica may be at work."""

    reason = "Fenced"


class ForbiddenError(ClusterError):
    """The operator's rights, a quota or an admission policy say no. Retried with back-off."""

    reason = "Forbidden"


class UnauthorizedError(ClusterError):
    """The credentials are not accepted (expired, revoked). Retried with fresh ones."""

    reason = "Unauthorized"


class InvalidError(ClusterError):
    """The API server refuses the document itself: our bug or a newer schema. Retried with back-off."""

    reason = "Invalid"


class UnavailableError(ClusterError):
    """Infrastructure: overload, restart, network. Retried with back-off."""

    reason = "Unavailable"


REASONS: Final = tuple(
    error.reason
    for error in (
        ConflictError,
        AlreadyExistsError,
        ForeignObjectError,
        NotFoundError,
        FencedError,
        ForbiddenError,
        UnauthorizedError,
        InvalidError,
        UnavailableError,
    )
)
"""What a request can fail for."""


def error_class(code: int, status_reason: str) -> type[ClusterError]:
    """Choose the class for an HTTP status and the ``reason`` of the API server's Status document."""
    if code == HTTPStatus.CONFLICT:
        return AlreadyExistsError if status_reason == "AlreadyExists" else ConflictError
    by_code: dict[int, type[ClusterError]] = {
        HTTPStatus.NOT_FOUND: NotFoundError,
        HTTPStatus.FORBIDDEN: ForbiddenError,
        HTTPStatus.UNAUTHORIZED: UnauthorizedError,
        HTTPStatus.GONE: ConflictError,
        HTTPStatus.REQUEST_TIMEOUT: UnavailableError,
        HTTPStatus.TOO_MANY_REQUESTS: UnavailableError,
    }
    if code in by_code:
        return by_code[code]
    return UnavailableError if code >= HTTPStatus.INTERNAL_SERVER_ERROR else InvalidError
