"""The body of a request: within its size and its time, unpacked."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

from runtime.serving.decoding import RequestError

Receive = Callable[[], Awaitable[dict[str, Any]]]
Headers = dict[bytes, bytes]


class ClientGoneError(Exception):
    """The client has closed the connection before its request was whole."""


async def receive_body(headers: Headers, receive: Receive, *, most: int, timeout_s: float) -> bytes:
    """The whole body as it was sent.

    Args:
        headers: Of the request, by lower-case name.
        receive: ASGI's.
        most: Bytes that it may have.
        timeout_s: For all of it.

    Raises:
        RequestError: 413 or 408; it is too large, or too slow.
        ClientGoneError: There is nobody to answer.
    """
    if int(headers.get(b"content-length", 0)) > most:
        raise _too_large(most)
    parts, size, more = [], 0, True
    try:
        async with asyncio.timeout(timeout_s):
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
        raise RequestError(408, f"body: got {size:,} bytes within {timeout_s:g} s; expected all of it.") from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def unpack_body(body: bytes, headers: Headers, *, most: int) -> bytes:
    """The body without its Content-Encoding.

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
