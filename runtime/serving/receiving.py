"""Receives and unpacks the body of a request, within limits on its size and time."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

from runtime.serving.observations import RequestError

Receive = Callable[[], Awaitable[dict[str, Any]]]
Headers = dict[bytes, bytes]


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete."""


class Deadlines:
    """Ends waits that last too long, from one timer for all: a timer for each costs more than all else in `receive`.

    Args:
        timeout_s: Limit of each wait in seconds; exceeded by up to the interval between calls of `expire`.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._waiting: dict[asyncio.Task[Any], float] = {}

    def __enter__(self) -> None:
        """Starts the wait of the current task."""
        self._waiting[_current_task()] = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Ends the wait; raises TimeoutError if `expire` ended it."""
        task = _current_task()
        if self._waiting.pop(task, None) is None and kind is asyncio.CancelledError:
            task.uncancel()
            raise TimeoutError

    def expire(self) -> None:
        """Cancels the tasks whose wait has exceeded the limit."""
        before = time.monotonic() - self.timeout_s
        for task in [task for task, since in self._waiting.items() if since < before]:
            del self._waiting[task]
            task.cancel()


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def receive_body(headers: Headers, receive: Receive, *, most: int, deadlines: Deadlines) -> bytes:
    """Receives the whole body, still encoded.

    Args:
        headers: Headers of the request, by lower-case name.
        receive: ASGI's receive function.
        most: Largest allowed size in bytes.
        deadlines: Time limit of the whole body.

    Raises:
        RequestError: 413 if the body is too large, 408 if it is too slow.
        ClientGoneError: The client closed the connection.
    """
    if int(headers.get(b"content-length", 0)) > most:
        raise _too_large(most)
    parts = []
    size = 0
    more = True
    try:
        with deadlines:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                more = message.get("more_body", False)
                if size > most:
                    raise _too_large(most)
    except TimeoutError:
        raise RequestError(
            408, f"body: got {size:,} bytes within {deadlines.timeout_s:g} s; expected all of it."
        ) from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def unpack_body(body: bytes, headers: Headers, *, most: int) -> bytes:
    """Decodes the Content-Encoding of a body.

    Raises:
        RequestError: 415, 413 or 400; the encoding is unknown, or the content too large, or broken.
    """
    encoding = headers.get(b"content-encoding", b"").strip().lower()
    if encoding in (b"", b"identity"):
        return body
    if encoding not in (b"gzip", b"x-gzip"):
        raise RequestError(415, f"Content-Encoding: got {encoding.decode('latin-1')!r}; expected gzip or none.")
    parts: list[bytes] = []
    left = most
    while body:  # gzip data may be several members in a row
        member: Any = zlib.decompressobj(wbits=31)
        try:
            parts.append(member.decompress(body, left + 1))
        except zlib.error as error:
            raise RequestError(400, f"body: got bytes that gzip cannot unpack ({error}).") from None
        left -= len(parts[-1])
        if left < 0:
            raise _too_large(most)
        if not member.eof:
            raise RequestError(400, "body: got gzip data that ends too early.")
        body = member.unused_data
    return b"".join(parts)


def _too_large(most: int) -> RequestError:
    return RequestError(413, f"body: got more than {most:,} bytes; expected at most that. Send less at a time.")
