"""The ASGI application of a worker: SageMaker's hosting contract.

Source: Amazon SageMaker's container contracts for real-time inference, batch transform and multi-model endpoints.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import math
import os
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

import numpy as np
import orjson
from numpy.typing import NDArray

from runtime.errors import UserError
from runtime.serving.capture import Capture, decision_lines, read_reward, reward_lines, shadow_lines
from runtime.serving.counters import Counters
from runtime.serving.decoding import JSON, Call, decode
from runtime.serving.drift import NO_DRIFT, Drift
from runtime.serving.encoding import choose_type, encode, encode_decisions
from runtime.serving.exploring import Attributes, Exploration, find_source, read_attributes
from runtime.serving.model_store import Registry
from runtime.serving.observations import RequestError
from runtime.serving.receiving import ClientGoneError, Deadlines, Headers, Receive, receive_body, unpack_body
from runtime.serving.served_policy import ServedPolicy, load_policy
from runtime.serving.variants import Mixture, Sampled, VariantSpec, check_variants, not_finite

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]

T = TypeVar("T")

_ATTRIBUTES = b"x-amzn-sagemaker-custom-attributes"
# Larger requests are computed in a thread, so that a health check waits only for the parser, about 20 ms per MB.
_INLINE_BYTES = 64 * 1024
_GZIP_FROM_BYTES = 1024
_WATCH_S = 0.5


@dataclass(frozen=True)
class Settings:
    """Settings of the server, the same in every worker.

    Attributes:
        model: Model directory; None for a multi-model endpoint, which starts with none.
        shown: The user's name of the model: the archive, if the directory was unpacked from one.
        shared: Folder that the workers share.
        parent: Process id of the supervisor that started the workers.
        workers: Number of worker processes.
        default_accept: Content type to answer with where the client does not say.
        max_body_bytes: Largest size of a request's unpacked body, in bytes.
        timeout_s: Time limit for receiving a request, and again for computing it, in seconds.
        access_log: Whether each request prints a JSON line.
        models_mb: Memory for the models of a multi-model endpoint, in MB.
        exploration: How actions are sampled; None to answer the most likely ones alone.
        capture: Folder that decisions are captured in, if any.
        capture_mb: Most that the folder's files may hold, in MB.
        variants: Policies that answer in the place of `model`, each a share of the decisions.
        shadow: Model directory of a policy whose decisions are captured and not sent, if any.
    """

    model: Path | None
    shown: str
    shared: Path
    parent: int
    workers: int = 1
    default_accept: str = ""
    max_body_bytes: int = 100 * 2**20
    timeout_s: float = 60.0
    access_log: bool = False
    models_mb: float = math.inf
    exploration: Exploration | None = None
    capture: Path | None = None
    capture_mb: float = math.inf
    variants: tuple[VariantSpec, ...] = ()
    shadow: Path | None = None


class Answer(NamedTuple):
    """A response.

    Attributes:
        status: HTTP status.
        body: Body before compression.
        kind: Content type.
        observations: Number of observations answered, for the counters.
        extra: Additional headers.
    """

    status: int
    body: bytes = b""
    kind: str = JSON
    observations: int = 0
    extra: tuple[tuple[bytes, bytes], ...] = ()


class App:
    """The ASGI application; built in the supervisor, used in each worker.

    Args:
        settings: Settings of the server.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.policy: ServedPolicy | None = None
        self._mixture: Mixture | None = None
        self._shadow: ServedPolicy | None = None
        self._drift: Drift | None = None
        self._capture: Capture | None = None
        self._shadow_capture: Capture | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one ASGI connection."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            assert scope["type"] == "lifespan", scope["type"]  # uvicorn is started without WebSockets
            await self._live(receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        # Separate threads for computing and loading, so that neither waits for the other.
        self._computing = ThreadPoolExecutor(max_workers=1)
        self._loaders = ThreadPoolExecutor(max_workers=1)
        self._counters = Counters(self.settings.shared)
        if self.settings.capture is not None:
            limit_bytes = self.settings.capture_mb * 2**20
            count = self._counters.count_captured
            self._capture = Capture(self.settings.capture, limit_bytes=limit_bytes, count=count)
            if self.settings.shadow is not None:
                # A thread and a queue of its own, so that a slow shadow drops its own lines alone.
                self._shadow_capture = Capture(
                    self.settings.capture,
                    limit_bytes=limit_bytes,
                    count=self._counters.count_shadow,
                    what="the shadow's decisions",
                )
        self._registry = Registry(
            self.settings.shared, workers=self.settings.workers, memory_mb=self.settings.models_mb
        )
        loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(self.settings.timeout_s)
        watch = asyncio.create_task(self._watch())
        self._loading = loop.run_in_executor(self._loaders, self._load)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        watch.cancel()
        await self._loading
        self._computing.shutdown()
        self._loaders.shutdown()
        for capture in (self._capture, self._shadow_capture):
            if capture is not None:
                capture.close()
        await send({"type": "lifespan.shutdown.complete"})

    def _load(self) -> None:
        if self.settings.model is None:
            self._say_once("ready", "ready; models are loaded by POST /models")
            return
        try:
            policy = self._load_served(self.settings.model)
        except (UserError, RequestError, MemoryError) as error:
            text = str(error)
            if not self.settings.variants:
                text = text.replace(str(self.settings.model), self.settings.shown)
            self._say_once("failed", f"not ready: {text or 'no memory is left'}")
        else:
            self.policy = policy
            shape = ", ".join(map(str, self.policy.observation_shape))
            masks = f", action_mask (batch, {policy.mask_size})" if policy.mask_size else ""
            self._say_once("ready", f"ready: {self.policy.name}, observations (batch, {shape}){masks}")

    def _load_served(self, model: Path) -> ServedPolicy:
        """Loads what the settings name, and returns the policy whose inputs requests have."""
        variants = self.settings.variants
        if variants:
            policies = tuple(load_policy(one.place) for one in variants)
            names, weights = tuple(one.name for one in variants), tuple(one.weight for one in variants)
            self._mixture = Mixture(policies, names, weights)
        else:
            policies = (load_policy(model),)
            self._mixture = Mixture(policies)
        if self.settings.shadow is not None:
            self._shadow = load_policy(self.settings.shadow)
        if self.settings.exploration is not None:
            for policy in policies:
                find_source(policy)
            check_variants(self._mixture, self._shadow)
        try:
            self._drift = Drift.of_policy(self.settings.shared, policies[0].training)
        except OSError as error:  # the disk is full
            self._say_once("drift", f"inputs are not compared with those of training, serving goes on: {error}")
        return policies[0]

    def _said(self, name: str) -> Path:
        """The file that exists once a worker has printed the line of this name."""
        return self.settings.shared / f"said-{name}"

    def _say_once(self, name: str, text: str) -> None:
        """Prints a line once, from the first worker that gets here."""
        try:
            os.close(os.open(self._said(name), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        except OSError:  # the disk is full: better printed twice than never
            pass
        sys.stderr.write(f"serve: {text}\n")
        sys.stderr.flush()

    async def _watch(self) -> None:
        """Ends requests that time out, and the worker if its supervisor is gone, as it would keep the port."""
        while os.getppid() == self.settings.parent:
            self._deadlines.expire()
            if self._drift is not None:
                self._drift.flush()
            await asyncio.sleep(_WATCH_S)
        os._exit(1)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers = dict(scope["headers"])
        try:
            body = await receive_body(headers, receive, most=self.settings.max_body_bytes, deadlines=self._deadlines)
            started = time.perf_counter()
            # The raw path, as a model's name may hold an escaped slash.
            answer = await self._route(scope["method"], scope["raw_path"].decode("latin-1"), headers, body)
        except RequestError as error:
            # Does not wait again for a client that timed out; uvicorn reads and drops a body that is too large.
            closing = ((b"connection", b"close"),) if error.status == 408 else ()
            answer = _refuse(error.status, str(error), *closing)
        except ClientGoneError:
            return
        except asyncio.CancelledError:  # by uvicorn, at the end of its drain time
            answer = _refuse(
                503, "the server has stopped; the request was not done in time.", (b"connection", b"close")
            )
        except Exception as error:
            sys.stderr.write(f"serve: error: {scope['method']} {scope['path']}: {type(error).__name__}: {error}\n")
            answer = _refuse(500, f"internal error: {type(error).__name__}")
        await _send(answer, headers, send)
        seconds = time.perf_counter() - started
        if scope["path"].endswith(("/invocations", "/invoke")):
            self._counters.count(answer.status, answer.observations, seconds)
        if self.settings.access_log:
            _log(scope, answer, seconds)

    async def _route(self, method: str, path: str, headers: Headers, body: bytes) -> Answer:
        route = _ROUTES.get(path)
        if route is None and path.startswith("/events/"):
            return self._take_reward(method, path, body)
        if route is None:
            return await self._route_models(method, path, headers, body)
        expected, handler = route
        if method != expected:
            return _refuse(405, f"{path}: got {method}; expected {expected}.", (b"allow", expected.encode()))
        return await handler(self, headers, body)

    async def _ping(self, _: Headers, __: bytes) -> Answer:
        # While this worker loads, it answers as one that is ready already: its 503 would take back the other's 200, and
        # an invocation waits for the policy.
        if self._loading.done():
            is_ready = self.policy is not None or self.settings.model is None
        else:
            is_ready = self._said("ready").exists()
        return Answer(200 if is_ready else 503)

    async def _execution_parameters(self, _: Headers, __: bytes) -> Answer:
        parameters = {
            "MaxConcurrentTransforms": self.settings.workers,
            "MaxPayloadInMB": min(6, self.settings.max_body_bytes // 2**20),
        }
        return Answer(200, orjson.dumps(parameters))

    async def _metrics(self, _: Headers, __: bytes) -> Answer:
        drift = NO_DRIFT if self._drift is None else self._drift.text()
        return Answer(200, (self._counters.text() + drift).encode(), "text/plain; version=0.0.4")

    async def _invocations(self, headers: Headers, body: bytes) -> Answer:
        if self.settings.model is None:
            raise RequestError(404, "/invocations: got no model's name; expected /models/NAME/invoke on this endpoint.")
        if self.policy is None:  # another worker may have become ready before this one
            await self._loading
        if self.policy is None:
            raise RequestError(503, "no policy is loaded; the server's log says why.")
        return await self._invoke(self.policy, headers, body)

    async def _invoke(self, policy: ServedPolicy, headers: Headers, body: bytes) -> Answer:
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        accept = headers.get(b"accept", b"").decode("latin-1")
        if accept in ("", "*/*"):
            accept = self.settings.default_accept

        if len(body) <= _INLINE_BYTES and b"content-encoding" not in headers:
            return _pack(self._compute(policy, body, content_type, accept, headers), headers)

        def compute() -> Answer:
            unpacked = unpack_body(body, headers, most=self.settings.max_body_bytes)
            return _pack(self._compute(policy, unpacked, content_type, accept, headers), headers)

        return await self._in_thread(self._computing, compute)

    def _compute(self, policy: ServedPolicy, body: bytes, content_type: str, accept: str, headers: Headers) -> Answer:
        call = decode(body, content_type, policy)
        kind = choose_type(accept, call)
        if self._drift is not None:
            self._drift.add(policy.numbers_of(call.observations))
        if self.settings.exploration is None:
            return _compute(policy, call, kind)
        attributes = read_attributes(headers.get(_ATTRIBUTES, b""), len(call.observations))
        # A multi-model endpoint has no variants.
        mixture = self._mixture or Mixture((policy,))
        sampled = mixture.sample(call.observations, call.outputs, self.settings.exploration, attributes.seed)
        answer = encode_decisions(sampled.outputs, call, kind, sampled.decisions.describe())
        self._capture_decisions(call.observations, sampled, attributes, self.settings.exploration)
        return Answer(200, answer, kind, len(call.observations))

    def _capture_decisions(
        self, observations: NDArray[np.float32], sampled: Sampled, attributes: Attributes, exploration: Exploration
    ) -> None:
        """Queues what was decided, and the shadow's part, which is computed later."""
        if self._capture is None:
            return
        now = datetime.now(UTC)
        rows = len(observations)
        size_bytes = observations.nbytes + sampled.decisions.probabilities.nbytes
        assert self.policy is not None
        masks = self.policy.mask_size
        decided = partial(decision_lines, observations, sampled.decisions, attributes, now, mask_size=masks)
        self._capture.offer(decided, lines=rows, size_bytes=size_bytes)
        if self._shadow is not None and self._shadow_capture is not None:
            shadow = partial(shadow_lines, self._shadow, exploration, observations, sampled, attributes, now)
            self._shadow_capture.offer(shadow, lines=rows, size_bytes=size_bytes)

    async def _in_thread(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                return await loop.run_in_executor(threads, work)
        except TimeoutError:
            raise RequestError(
                503, f"got no result within {self.settings.timeout_s:g} s. Send fewer observations at a time."
            ) from None

    def _take_reward(self, method: str, path: str, body: bytes) -> Answer:
        """Queues a reward, `/events/EVENT_ID/reward`, beside the captured decisions."""
        event_id, _, last = path.removeprefix("/events/").partition("/")
        if last != "reward" or self._capture is None:
            why = "" if self._capture else " Rewards are taken with --capture."
            return _refuse(404, f"{path[:100]}: not found.{why}")
        if method != "POST":
            return _refuse(405, f"{path[:100]}: got {method}; expected POST.", (b"allow", b"POST"))
        lines = partial(reward_lines, event_id, read_reward(event_id, body), datetime.now(UTC))
        self._capture.offer(lines, lines=1, size_bytes=0)
        return Answer(202, orjson.dumps({"event_id": event_id}))

    async def _route_models(self, method: str, path: str, headers: Headers, body: bytes) -> Answer:
        """Routes `/models`, `/models/NAME` and `/models/NAME/invoke` of a multi-model endpoint."""
        parts = path.strip("/").split("/")
        if parts[0] != "models" or self.settings.model is not None:
            return _refuse(404, f"{path[:100]}: not found.")
        name = unquote(parts[1]) if len(parts) > 1 else ""
        match method, parts[1:]:
            case "GET", []:
                return Answer(200, orjson.dumps({"models": self._registry.describe()}))
            case "POST", []:
                return await self._in_thread(self._loaders, lambda: self._load_model(body))
            case "GET", [_]:
                found = [model for model in self._registry.describe() if model["modelName"] == name]
                return Answer(200, orjson.dumps(found[0])) if found else _refuse(404, f"model {name!r}: not loaded.")
            case "DELETE", [_]:
                self._registry.unload(name)
                return Answer(200, orjson.dumps({"status": f"model {name!r} is unloaded"}))
            case "POST", [_, "invoke"]:
                policy = self._registry.find(name)
                if policy is None:
                    policy = await self._in_thread(self._loaders, lambda: self._registry.get(name))
                return await self._invoke(policy, headers, body)
            case _, [_, "invoke"]:
                return _refuse(405, f"{path}: got {method}; expected POST.", (b"allow", b"POST"))
            case _, [] | [_]:
                allowed = "GET, POST" if len(parts) == 1 else "GET, DELETE"
                return _refuse(405, f"{path}: got {method}; expected {allowed}.", (b"allow", allowed.encode()))
        return _refuse(404, f"{path[:100]}: not found.")

    def _load_model(self, body: bytes) -> Answer:
        try:
            request = orjson.loads(body)
            name, url = request["model_name"], request["url"]
        except (ValueError, KeyError, TypeError):
            name = url = None
        if not isinstance(name, str) or not isinstance(url, str):
            raise RequestError(400, 'body: got no names and folder; expected {"model_name": "…", "url": "/a/folder"}.')
        self._registry.load(name, url)
        return Answer(200, orjson.dumps({"status": f"model {name!r} is loaded"}))


_Handler = Callable[[App, Headers, bytes], Awaitable[Answer]]
_ROUTES: dict[str, tuple[str, _Handler]] = {
    "/ping": ("GET", App._ping),
    "/invocations": ("POST", App._invocations),
    "/execution-parameters": ("GET", App._execution_parameters),
    "/metrics": ("GET", App._metrics),
}


def _compute(policy: ServedPolicy, call: Call, kind: str) -> Answer:
    outputs = policy.run(call.observations, call.outputs)
    body = encode(outputs, call, kind, policy)
    # JSON has no infinity: only a null in the body, or a body that is not JSON, requires the slower check.
    if (kind != JSON or b"null" in body) and not np.isfinite(outputs[policy.main_output]).all():
        raise not_finite(policy.main_output)
    return Answer(200, body, kind, len(call.observations))


def _pack(answer: Answer, headers: Headers) -> Answer:
    """Compresses the answer with gzip if the client accepts it and the body is large enough."""
    if len(answer.body) < _GZIP_FROM_BYTES:
        return answer
    accepted = headers.get(b"accept-encoding", b"").replace(b" ", b"")
    if b"gzip" not in accepted or b"gzip;q=0" in accepted:
        return answer
    return answer._replace(body=gzip.compress(answer.body, 1), extra=((b"content-encoding", b"gzip"),))


def _refuse(status: int, message: str, *extra: tuple[bytes, bytes]) -> Answer:
    # A lone surrogate, which JSON allows in a name, cannot be encoded in the response.
    text = message.encode("utf-8", "replace").decode()
    return Answer(status, orjson.dumps({"error": text}), extra=extra)


async def _send(answer: Answer, headers: Headers, send: Send) -> None:
    out = [(b"content-type", answer.kind.encode()), *answer.extra]
    if _ATTRIBUTES in headers:
        out.append((_ATTRIBUTES, headers[_ATTRIBUTES]))
    out.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": out})
    await send({"type": "http.response.body", "body": answer.body})


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
    with contextlib.suppress(OSError):  # the reader of the log is gone
        sys.stdout.buffer.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        sys.stdout.buffer.flush()
