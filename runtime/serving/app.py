"""The ASGI application of a worker: SageMaker's hosting contract.

Source: Amazon SageMaker's container contracts for real-time inference, batch transform and multi-model endpoints.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import sys
import time
import zlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import orjson

from runtime.errors import JobError
from runtime.serving.counters import Counters
from runtime.serving.registry import Registry
from runtime.serving.requests import JSON, RequestError, decode
from runtime.serving.responses import choose_type, encode
from runtime.serving.served_policy import ServedPolicy, load_policy

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_ATTRIBUTES = b"x-amzn-sagemaker-custom-attributes"
# Above this a request is computed in a thread, so that a health check need not wait for it.
_INLINE_BYTES = 64 * 1024
_GZIP_FROM_BYTES = 1024
_PARENT_CHECK_S = 1.0


@dataclass(frozen=True)
class Settings:
    """Of a server, the same for each worker.

    Attributes:
        model: Model directory; None for a multi-model endpoint, which starts with none.
        shared: Folder that the workers share.
        parent: Process id of the one that started the workers.
        workers: How many there are.
        default_accept: Content type to answer with where the client does not say.
        max_body_bytes: Of a request, unpacked.
        timeout_s: For receiving a request, and for computing it.
        access_log: Whether each request prints a JSON line.
        models_mb: Memory for the models of a multi-model endpoint; None for what the machine has left.
    """

    model: Path | None
    shared: Path
    parent: int
    workers: int = 1
    default_accept: str = ""
    max_body_bytes: int = 100 * 2**20
    timeout_s: float = 60.0
    access_log: bool = False
    models_mb: float | None = None


@dataclass(frozen=True)
class Answer:
    """A response: status, body, content type, and what the counters want to know."""

    status: int
    body: bytes = b""
    kind: str = JSON
    observations: int = 0


class App:
    """The application; built in the parent, used in each worker.

    Args:
        settings: Of the server.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.policy: ServedPolicy | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection event, as ASGI has it."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            raise NotImplementedError(scope["type"])  # uvicorn refuses the protocol upgrade

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._threads = ThreadPoolExecutor(max_workers=1)
        self._counters = Counters(self.settings.shared)
        self._registry = Registry(self.settings.shared, memory_mb=self.settings.models_mb)
        loop = asyncio.get_running_loop()
        watch = asyncio.create_task(self._end_with_parent())
        self._loading = loop.run_in_executor(self._threads, self._load)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        watch.cancel()
        await self._loading
        self._threads.shutdown()
        await send({"type": "lifespan.shutdown.complete"})

    def _load(self) -> None:
        if self.settings.model is None:
            self._say_once("ready", "ready; models are loaded by POST /models")
            return
        try:
            self.policy = load_policy(self.settings.model)
        except JobError as error:
            self._say_once("failed", f"not ready: {error}")
        except Exception as error:  # whatever onnxruntime raises for a model that it cannot run
            self._say_once("failed", f"not ready: {self.settings.model}: {type(error).__name__}: {error}")
        else:
            shape = ", ".join(map(str, self.policy.observation_shape))
            self._say_once("ready", f"ready: {self.policy.name}, observations (batch, {shape})")

    def _say_once(self, name: str, text: str) -> None:
        """Only the first worker says it."""
        try:
            os.close(os.open(self.settings.shared / f"said-{name}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        sys.stderr.write(f"serve: {text}\n")
        sys.stderr.flush()

    async def _end_with_parent(self) -> None:
        """A worker whose parent was killed would hold the port for ever."""
        while os.getppid() == self.settings.parent:
            await asyncio.sleep(_PARENT_CHECK_S)
        os._exit(1)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers = dict(scope["headers"])
        try:
            body = await self._body(headers, receive)
            started = time.perf_counter()
            # The raw path, as a model's name may hold an escaped slash.
            answer = await self._route(scope["method"], scope["raw_path"].decode("latin-1"), headers, body)
        except RequestError as error:
            answer = _refuse(error.status, str(error))
        except _GoneError:
            return
        except Exception as error:
            sys.stderr.write(f"serve: error: {scope['method']} {scope['path']}: {type(error).__name__}: {error}\n")
            answer = _refuse(500, f"internal error: {type(error).__name__}")
        await _send(answer, headers, send)
        seconds = time.perf_counter() - started
        if scope["path"].endswith(("/invocations", "/invoke")):
            self._counters.count(answer.status, answer.observations, seconds)
        if self.settings.access_log:
            _log(scope, answer, seconds)

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """The whole body, unpacked.

        Raises:
            RequestError: It is too large, too slow, or packed in a way that we do not know.
        """
        most = self.settings.max_body_bytes
        too_large = RequestError(
            413, f"body: got more than {most:,} bytes; expected at most that. Send less at a time."
        )
        if int(headers.get(b"content-length", 0)) > most:
            raise too_large
        message = await receive()
        body = message.get("body", b"")
        if message.get("more_body"):
            parts, size = [body], len(body)
            try:
                async with asyncio.timeout(self.settings.timeout_s):
                    while message.get("more_body"):
                        message = await receive()
                        parts.append(message.get("body", b""))
                        size += len(parts[-1])
                        if size > most:
                            raise too_large
            except TimeoutError:
                raise RequestError(408, f"body: not received within {self.settings.timeout_s:g} s.") from None
            body = b"".join(parts)
        if message["type"] == "http.disconnect":
            raise _GoneError
        packing = headers.get(b"content-encoding", b"identity").strip().lower()
        if packing == b"gzip":
            return _unpack(bytes(body), most, too_large)
        if packing != b"identity":
            raise RequestError(415, f"Content-Encoding: got {packing.decode('latin-1')!r}; expected gzip or none.")
        return bytes(body)

    async def _route(self, method: str, path: str, headers: dict[bytes, bytes], body: bytes) -> Answer:
        route = _ROUTES.get(path)
        if route is None:
            return await self._route_models(method, path, headers, body)
        expected, handler = route
        if method != expected:
            return _refuse(405, f"{path}: got {method}; expected {expected}.")
        return await handler(self, headers, body)

    async def _ping(self, _: dict[bytes, bytes], __: bytes) -> Answer:
        return Answer(200 if self.policy is not None or self.settings.model is None else 503)

    async def _execution_parameters(self, _: dict[bytes, bytes], __: bytes) -> Answer:
        parameters = {
            "MaxConcurrentTransforms": self.settings.workers,
            "MaxPayloadInMB": min(6, self.settings.max_body_bytes // 2**20),
        }
        return Answer(200, orjson.dumps(parameters))

    async def _metrics(self, _: dict[bytes, bytes], __: bytes) -> Answer:
        return Answer(200, self._counters.text().encode(), "text/plain; version=0.0.4")

    async def _invocations(self, headers: dict[bytes, bytes], body: bytes) -> Answer:
        if self.policy is None:  # another worker may have been ready, and told so, before this one
            await self._loading
        if self.policy is None:
            raise RequestError(503, "no policy is loaded; the server's log says why.")
        return await self._invoke(self.policy, headers, body)

    async def _invoke(self, policy: ServedPolicy, headers: dict[bytes, bytes], body: bytes) -> Answer:
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        accept = headers.get(b"accept", b"").decode("latin-1")
        if accept in ("", "*/*"):
            accept = self.settings.default_accept
        if len(body) <= _INLINE_BYTES:
            return _compute(policy, body, content_type, accept)
        return await self._in_thread(lambda: _compute(policy, body, content_type, accept))

    async def _in_thread(self, work: Callable[[], Answer]) -> Answer:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                return await loop.run_in_executor(self._threads, work)
        except TimeoutError:
            raise RequestError(
                503, f"not computed within {self.settings.timeout_s:g} s. Send fewer observations at a time."
            ) from None

    async def _route_models(self, method: str, path: str, headers: dict[bytes, bytes], body: bytes) -> Answer:
        """`/models`, `/models/NAME`, `/models/NAME/invoke`."""
        parts = path.strip("/").split("/")
        name = unquote(parts[1]) if len(parts) > 1 else ""
        match method, parts[0], len(parts), parts[2:]:
            case "GET", "models", 1, _:
                return Answer(200, orjson.dumps({"models": [self._describe(name) for name in self._registry.names()]}))
            case "POST", "models", 1, _:
                return await self._in_thread(lambda: self._load_model(body))
            case "GET", "models", 2, _:
                return Answer(200, orjson.dumps(self._describe(name)))
            case "DELETE", "models", 2, _:
                self._registry.unload(name)
                return Answer(200, orjson.dumps({"status": f"model {name!r} is unloaded"}))
            case "POST", "models", 3, ["invoke"]:
                return await self._invoke(self._registry.get(name), headers, body)
        if parts[0] == "models" and (len(parts) < 3 or parts[2:] == ["invoke"]):
            return _refuse(405, f"{path}: got {method}.")
        return _refuse(404, f"{path[:100]}: there is nothing here.")

    def _describe(self, name: str) -> dict[str, str]:
        return {"modelName": name, "modelUrl": self._registry.url_of(name)}

    def _load_model(self, body: bytes) -> Answer:
        try:
            request = json.loads(body)
            name, url = request["model_name"], request["url"]
        except (ValueError, KeyError, TypeError):
            request = name = url = None
        if not isinstance(name, str) or not isinstance(url, str):
            raise RequestError(400, 'body: expected {"model_name": "…", "url": "/opt/ml/models/…/model"}.')
        self._registry.load(name, url)
        return Answer(200, orjson.dumps({"status": f"model {name!r} is loaded"}))


class _GoneError(Exception):
    """The client has closed the connection."""


_Handler = Callable[[App, dict[bytes, bytes], bytes], Awaitable[Answer]]
_ROUTES: dict[str, tuple[str, _Handler]] = {
    "/ping": ("GET", App._ping),
    "/invocations": ("POST", App._invocations),
    "/execution-parameters": ("GET", App._execution_parameters),
    "/metrics": ("GET", App._metrics),
}


def _compute(policy: ServedPolicy, body: bytes, content_type: str, accept: str) -> Answer:
    call = decode(body, content_type, policy)
    kind = choose_type(accept, call)
    outputs = policy.run(call.observations, call.outputs)
    return Answer(200, encode(outputs, call, kind, policy), kind, len(call.observations))


def _refuse(status: int, message: str) -> Answer:
    return Answer(status, orjson.dumps({"error": message}))


def _unpack(body: bytes, most: int, too_large: RequestError) -> bytes:
    unpacker: Any = zlib.decompressobj(wbits=31)  # gzip's framing
    try:
        unpacked: bytes = unpacker.decompress(body, most + 1)
    except zlib.error as error:
        raise RequestError(400, f"body: got bytes that gzip cannot unpack ({error}).") from None
    if len(unpacked) > most:
        raise too_large
    if not unpacker.eof:
        raise RequestError(400, "body: got gzip data that ends too early.")
    return unpacked


async def _send(answer: Answer, headers: dict[bytes, bytes], send: Send) -> None:
    body = answer.body
    out = [(b"content-type", answer.kind.encode())]
    if _ATTRIBUTES in headers:
        out.append((_ATTRIBUTES, headers[_ATTRIBUTES]))
    if len(body) >= _GZIP_FROM_BYTES and b"gzip" in headers.get(b"accept-encoding", b""):
        body = gzip.compress(body, compresslevel=1)
        out.append((b"content-encoding", b"gzip"))
    out.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": out})
    await send({"type": "http.response.body", "body": body})


def _log(scope: Scope, answer: Answer, seconds: float) -> None:
    line = {
        "time": time.time(),
        "method": scope["method"],
        "path": scope["path"],
        "status": answer.status,
        "observations": answer.observations,
        "bytes": len(answer.body),
        "milliseconds": round(1000 * seconds, 3),
    }
    sys.stdout.buffer.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()
