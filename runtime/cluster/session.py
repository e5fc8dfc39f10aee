"""Ray, started small and quiet on this machine."""

from __future__ import annotations

import atexit
import logging
import socket
import subprocess
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

from runtime.cluster.address import PORT
from runtime.container.environment_variables import setdefault_environment
from runtime.container.scratch import ray_folder
from runtime.container.signals import StopRequest
from runtime.errors import PlatformError, UserError
from runtime.outputs.console import quiet_ray

OBJECT_STORE_BYTES = 512 * 1024 * 1024
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    # Containers give /dev/shm 64 MB; Ray then refuses to start unless it may use /tmp.
    "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Its C++ side would take SIGTERM for itself at its start, and leave it to the kernel at its end: exit code -15.
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
    # gRPC of Unity's players; its handlers of a fork crash the fork that exports, once in a hundred on a busy machine.
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    # A process a CPU, which only remote env runners would use, and those are started when they are asked for.
    "RAY_prestart_worker_first_driver": "0",
    "PYGAME_HIDE_SUPPORT_PROMPT": "1",
    "SDL_VIDEODRIVER": "dummy",
    "SDL_AUDIODRIVER": "dummy",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def prepare_environment() -> None:
    """Sets what the libraries read when they are imported; call it before any of them is."""
    setdefault_environment(_ENVIRONMENT)
    # In a notebook, Ray and tqdm miss ipywidgets as they are imported; nothing here shows a widget.
    logging.getLogger("ray.widgets").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="IProgress not found")


def require_token(token: str) -> None:
    """Makes Ray refuse processes without the job's token; call it on every host before Ray starts."""
    setdefault_environment({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token})


def list_nodes() -> list[dict[str, Any]]:
    """Ray's nodes, those that are dead included."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()
    return nodes


def read_failures(hosts: Iterable[str]) -> dict[str, str]:
    """The hosts that have said that they could not join, each with the reason."""
    from ray.experimental.internal_kv import _internal_kv_get

    found = {host: _internal_kv_get(host.encode(), namespace=_FAILURES) for host in hosts}
    return {host: reason.decode() for host, reason in found.items() if reason is not None}


def write_failure(address: str, host: str, reason: str) -> None:
    """Tells the head node why this host could not join; Ray need not run here.

    Args:
        address: Host and port of the head node's Ray.
        host: This host's name.
        reason: Why it could not.
    """
    from ray import _raylet

    _read_token()
    raylet: Any = _raylet  # compiled, and not typed
    raylet.GcsClient(address=address).internal_kv_put(host.encode(), reason.encode(), True, _FAILURES)


def _read_token() -> None:
    """Has Ray, which reads its environment when it is imported, read it again; scripts import it first of all."""
    from ray import _raylet

    raylet: Any = _raylet  # compiled, and not typed
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def _spared(options: Mapping[str, Any]) -> list[str]:
    """What starts a process of Ray's, each a Python of its own, that a training has no use for but by its own wish."""
    spared = ["start_monitor"]  # the autoscaler: nobody adds machines
    if not options["include_dashboard"]:
        spared.append("start_api_server")  # of the dashboard, which Ray starts all the same
    if not options["log_to_driver"]:
        spared.append("start_log_monitor")
    return spared


# Waits until its input ends, as the process has that started it, and then ends its process group.
_GUARD = "trap '' HUP INT TERM; read -r _; kill -KILL 0"
_kept: list[subprocess.Popen[bytes]] = []  # guards whose input ends with this process
_FAILURES = b"smrl-failures"  # namespace in Ray's key-value store: hosts that could not join, and why


def _start_guard() -> subprocess.Popen[bytes]:
    """Starts the leader of a process group for Ray's processes; they end when its input does, or with this process.

    A signal for the job's own group (`timeout`, a terminal that closes) is not for them: the job ends them once it has
    saved. Ray has no setting for it; its own for process groups are about what its workers start.
    """
    return subprocess.Popen(
        ["sh", "-c", _GUARD],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )


@contextmanager
def _as_we_start_it(spared: list[str], group: int) -> Iterator[None]:
    """Changes how Ray starts for the length of a block; what another version has not is left alone.

    Args:
        spared: Methods of Ray's node that do nothing.
        group: Process group for its processes.
    """
    import ray
    from ray._private import services, utils
    from ray._private.node import Node

    changes: list[tuple[Any, str, Any]] = [(Node, name, _do_nothing) for name in spared]
    changes.append((utils, "set_sigterm_handler", _do_nothing))  # the job's own is not to be replaced
    changes.append((services, "ConsolePopen", partial(services.ConsolePopen, process_group=group)))
    # A script that has imported Ray before us has read the variable of this name.
    changes.append((ray._private.ray_constants, "RAY_DISABLE_FAILURE_SIGNAL_HANDLER", True))
    kept = [(place, name, getattr(place, name)) for place, name, _ in changes if hasattr(place, name)]
    for place, name, change in changes:
        if hasattr(place, name):
            setattr(place, name, change)
    try:
        yield
    finally:
        for place, name, before in kept:
            setattr(place, name, before)


def _do_nothing(*args: Any, **kwargs: Any) -> None:
    pass


@contextmanager
def ray_session(
    *, num_cpus: int, num_gpus: int, overrides: Mapping[str, Any] | None = None, stop: StopRequest | None = None
) -> Iterator[str]:
    """Runs Ray for the length of a block, and gives its address.

    Args:
        num_cpus: CPUs that Ray may hand out; it would count the host's.
        num_gpus: GPUs likewise.
        overrides: Arguments of ray.init that a launcher's script asks for.
        stop: Holds back what it would interrupt while Ray starts or ends.

    Raises:
        Interrupted: A stop was requested while Ray started, and ends what the job was doing.
    """
    prepare_environment()
    import ray

    if ray.is_initialized():  # a script of 2020 may have called ray.init itself
        yield str(ray.get_runtime_context().gcs_address)
        return
    with ExitStack() as ending:
        guard = _start_guard()
        ending.callback(guard.communicate)
        ending.callback(_shut_down, stop)
        _init(_options(num_cpus, num_gpus) | dict(overrides or {}), guard, stop)
        yield str(ray.get_runtime_context().gcs_address)


@contextmanager
def without_ray() -> Iterator[None]:
    """Lets RLlib train in this process alone for the length of a block, without starting Ray.

    RLlib puts its config and weights into Ray's object store for remote env runners, even if there are none, and
    `ray.put` would start Ray for that.
    """
    prepare_environment()
    import ray

    quiet_ray()
    put = ray.put

    def keep(value: Any, **options: Any) -> Any:
        return put(value, **options) if ray.is_initialized() else value

    ray.put = keep
    try:
        yield
    finally:
        ray.put = put


def start_until_exit(
    *, address: str, num_cpus: int, num_gpus: int, overrides: Mapping[str, Any] | None, stop: StopRequest
) -> None:
    """Starts Ray where other hosts can join it, for as long as this process lives.

    It ends with the process and not before, because the other hosts take its end for the job's.

    Args:
        address: IPv4 address of this host.
        num_cpus: CPUs of this host that Ray may hand out.
        num_gpus: GPUs likewise.
        overrides: Arguments of ray.init that a launcher's script asks for.
        stop: Holds back what it would interrupt while Ray starts.

    Raises:
        UserError: The script has started Ray itself.
        PlatformError: Ray's port is taken.
    """
    _require_free_port()
    prepare_environment()
    setdefault_environment({"RAY_GCS_SERVER_PORT": str(PORT)})  # ray.init has no argument for it
    import ray
    from ray._private import worker

    if ray.is_initialized():
        raise UserError(
            "ray.init: called by the script before the training; expected it left out on several hosts, as Ray is "
            "started for the others to join."
        )
    _read_token()
    options = _options(num_cpus, num_gpus) | {"_node_ip_address": address}
    _kept.append(_start_guard())
    _init(options | dict(overrides or {}), _kept[-1], stop)
    # Ray would end its node at the interpreter's exit, seconds before the process; now it only disconnects.
    atexit.register(setattr, worker, "_global_node", None)


def _require_free_port() -> None:
    try:
        socket.create_server(("", PORT)).close()
    except OSError as error:
        raise PlatformError(
            f"port {PORT}: cannot be listened on ({error.strerror or error}); expected a free port for the worker "
            "nodes to connect to."
        ) from None


def _options(num_cpus: int, num_gpus: int) -> dict[str, Any]:
    """Arguments of ray.init."""
    quiet_ray()
    return {
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
        "configure_logging": False,
        "logging_level": logging.ERROR,
        "log_to_driver": False,
        "_temp_dir": str(ray_folder()),
    }


def _init(options: Mapping[str, Any], guard: subprocess.Popen[bytes], stop: StopRequest | None) -> None:
    import ray

    with _deferring(stop), _as_we_start_it(_spared(options), guard.pid):
        ray.init(**options)


def _deferring(stop: StopRequest | None) -> AbstractContextManager[None]:
    return nullcontext() if stop is None else stop.deferred()


def _shut_down(stop: StopRequest | None) -> None:
    import ray

    with _deferring(stop):
        ray.shutdown()
