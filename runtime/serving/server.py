"""Starts the server: a socket, and a worker process for each core that takes requests from it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from runtime.artifacts.manifest import unpack
from runtime.container.scratch import scratch_folder
from runtime.container.serving_settings import ServingSettings
from runtime.errors import PlatformError, UserError
from runtime.files import make_writable
from runtime.serving.app import App, Settings
from runtime.serving.exploring import Exploration
from runtime.serving.variants import check_serving_mode, read_variants

_BACKLOG = 2048
_DRAIN_S = 25  # SageMaker and Docker kill 30 s after SIGTERM by default
_KEEP_ALIVE_S = 75  # longer than a load balancer's 60 s, so that the client is the one who closes
_HUNG_S = 15  # a worker that does not answer its supervisor for so long is replaced


@dataclass(frozen=True)
class ServeRequest:
    """Command-line options of the server; None takes the container's setting.

    Attributes:
        model: Model directory, results folder or model.tar.gz.
        host: Address to listen on; every one in a container, this machine's own on a laptop, if not given.
        port: Port to listen on.
        workers: Number of worker processes.
        access_log: Whether each request prints a JSON line.
        temperature: Temperature at which actions are sampled.
        epsilon: Share of uniformly random actions.
        capture: Folder to capture decisions in.
        variant: Policies that share the decisions, as NAME=DIR:WEIGHT.
        shadow: Policy whose decisions are captured and not sent.
    """

    model: Path | None = None
    host: str | None = None
    port: int | None = None
    workers: int | None = None
    access_log: bool = False
    temperature: float | None = None
    epsilon: float | None = None
    capture: Path | None = None
    variant: tuple[str, ...] = ()
    shadow: Path | None = None


def run_server(platform: ServingSettings, request: ServeRequest) -> None:
    """Serves until SIGTERM or SIGINT, then finishes the requests in progress and returns.

    Raises:
        UserError: There is no model directory, the port is taken, or the capture cannot be written.
    """
    variants = read_variants(
        request.variant or platform.variants, "the command line" if request.variant else "SMRL_VARIANTS"
    )
    model = variants[0].place if variants else request.model or platform.model
    if model is None and not platform.is_multi_model:
        raise UserError("model: got none; expected a model directory, a results folder or a model.tar.gz.")
    if request.model is not None and not request.model.exists():
        raise UserError(f"model: got {str(model)!r}, which does not exist; expected a model directory.")
    port = request.port or platform.port
    exploration = _read_exploration(platform, request)
    capture = request.capture or platform.capture
    _check_capture(capture, exploration)
    shadow = request.shadow or platform.shadow
    check_serving_mode(
        variants,
        shadow,
        explores=exploration is not None,
        captures=capture is not None,
        has_model=request.model is not None,
        is_multi_model=platform.is_multi_model and request.model is None,
    )
    workers = request.workers or platform.workers
    host = request.host or ("127.0.0.1" if platform.model is None else "0.0.0.0")
    listener = _listen(host, port)
    # Until the supervisor handles signals, so that temporary files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    shared = Path(tempfile.mkdtemp(prefix="serve-", dir=scratch_folder()))
    try:
        variants = tuple(
            one._replace(place=_opened(one.place, shared / f"variant-{i}")) for i, one in enumerate(variants)
        )
        model = variants[0].place if variants else model and _opened(model, shared / "model")
        settings = Settings(
            None if platform.is_multi_model and request.model is None else model,
            ", ".join(f"{one.name} {one.weight:g}" for one in variants) or str(request.model or platform.model),
            shared,
            os.getpid(),
            workers,
            platform.default_accept,
            platform.max_body_bytes,
            platform.timeout_s,
            request.access_log or platform.access_log,
            platform.models_mb,
            exploration,
            capture and capture.absolute(),
            platform.capture_mb,
            variants,
            shadow and _opened(shadow, shared / "shadow"),
        )
        model_text = "models by name" if settings.model is None else settings.shown
        sys.stderr.write(f"serve: http://{host}:{port}, worker processes: {workers}, {model_text}\n")
        supervisor = _Supervisor(_config(settings), sockets=[listener])
        supervisor.run()
    finally:
        listener.close()
        shutil.rmtree(shared, ignore_errors=True)
    if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes):
        raise PlatformError("serve: the workers could not start; their output is above.")


def _opened(place: Path, scratch: Path) -> Path:
    return unpack(place, scratch) if place.is_file() else place


def _read_exploration(platform: ServingSettings, request: ServeRequest) -> Exploration | None:
    temperature = platform.temperature if request.temperature is None else request.temperature
    epsilon = platform.epsilon if request.epsilon is None else request.epsilon
    if temperature is None and epsilon is None:
        return None
    return Exploration(temperature or 0.0, epsilon or 0.0)


def _check_capture(capture: Path | None, exploration: Exploration | None) -> None:
    if capture is None:
        return
    if exploration is None:
        raise UserError(
            f"capture: got the folder {str(capture)!r} without explore mode; expected a temperature or an epsilon, as "
            "decisions are captured with their probabilities. Add --epsilon 0 to answer the most likely action."
        )
    try:
        make_writable(capture)
    except OSError as error:
        raise UserError(
            f"capture: got {str(capture)!r}, which cannot be written ({error.strerror}); expected a folder."
        ) from None


class _Supervisor(Multiprocess):
    """Uvicorn's supervisor, with two differences.

    It closes its socket while workers drain: clients would hang in it otherwise. And it closes its copy of a worker's
    end of the health check's pipe: while it holds one, a worker that dies during a check is noticed only after _HUNG_S.
    """

    def init_processes(self) -> None:
        """Starts the workers."""
        super().init_processes()
        self._close_workers_ends()

    def keep_subprocess_alive(self) -> None:
        """Replaces workers that have died, and prints a line for each, so that repeated failures are visible."""
        before = {worker.pid: worker for worker in self.processes}
        super().keep_subprocess_alive()
        self._close_workers_ends()
        for pid in before.keys() - {worker.pid for worker in self.processes}:
            sys.stderr.write(f"serve: worker {pid} ended with code {before[pid].exitcode}; another takes its place\n")
            sys.stderr.flush()

    def _close_workers_ends(self) -> None:
        for worker in self.processes:
            worker.child_conn.close()

    def terminate_all(self) -> None:
        """Closes the socket, then tells the workers to end."""
        for listener in self.sockets:
            listener.close()
        super().terminate_all()


def _config(settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        App(settings),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        workers=settings.workers,
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_DRAIN_S,
        timeout_worker_healthcheck=_HUNG_S,
    )


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise UserError(
            f"port: got {port} on {host}, which cannot be had ({getattr(error, 'strerror', error)}). "
            "Choose another with --port or SAGEMAKER_BIND_TO_PORT."
        ) from None
    listener.set_inheritable(True)
    return listener
