"""Errors as gRPC statuses: the one table, and the wrappers that apply it.

What raises a `MeterdError` is answered with its sentence; anything else is a fault of ours:
the caller hears that much, the log gets the rest.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc

from meterd import errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from typing import NoReturn

_log = logging.getLogger("meterd")

STATUSES: tuple[tuple[type[errors.MeterdError], grpc.StatusCode], ...] = (
    (errors.NotFound, grpc.StatusCode.NOT_FOUND),
    (errors.InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.InvalidSetting, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.ConfigurationRefused, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.BatchBroken, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.SequenceGap, grpc.StatusCode.OUT_OF_RANGE),
    (errors.NotIdentified, grpc.StatusCode.UNAUTHENTICATED),
    (errors.NotAllowed, grpc.StatusCode.PERMISSION_DENIED),
    (errors.NotPossibleNow, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.Refused, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.Unavailable, grpc.StatusCode.UNAVAILABLE),
)
"""The first class that an error is an instance of decides."""

FAULT = "a fault in meterd; its log says more"

Servicer = TypeVar("Servicer")
Request = TypeVar("Request")
Answer = TypeVar("Answer")


def status_of(error: BaseException) -> grpc.StatusCode:
    """The status that an error is answered with; INTERNAL for what only a bug raises."""
    for kind, status in STATUSES:
        if isinstance(error, kind):
            return status
    return grpc.StatusCode.INTERNAL


async def refuse(context: object, error: Exception) -> NoReturn:
    """End a call with the status and sentence of an error."""
    # The stubs' context is both grpc's and grpc.aio's; ours is the latter alone.
    call = cast("grpc.aio.ServicerContext[Any, Any]", context)
    status = status_of(error)
    if status is grpc.StatusCode.INTERNAL:
        _log.error("%s", FAULT, exc_info=error)
        await call.abort(status, FAULT)
    await call.abort(status, str(error))


def answers(
    method: Callable[[Servicer, Request, object], Awaitable[Answer]],
) -> Callable[[Servicer, Request, object], Awaitable[Answer]]:
    """Make a method with one answer end its call by the table where it raises."""

    @functools.wraps(method)
    async def answered(self: Servicer, request: Request, context: object) -> Answer:
        try:
            return await method(self, request, context)
        except Exception as error:
            await _end(context, error)

    return answered


def streams(
    method: Callable[[Servicer, Request, object], AsyncIterator[Answer]],
) -> Callable[[Servicer, Request, object], AsyncIterator[Answer]]:
    """Make a method with many answers end its call by the table where it raises."""

    @functools.wraps(method)
    async def streamed(self: Servicer, request: Request, context: object) -> AsyncIterator[Answer]:
        try:
            async for answer in method(self, request, context):
                yield answer
        except Exception as error:
            await _end(context, error)

    return streamed


async def _end(context: object, error: Exception) -> NoReturn:
    # What `context.abort` itself raised passes: the call has its status already.
    if isinstance(error, grpc.aio.AbortError):
        raise error
    await refuse(context, error)
