"""Ray, started small and quiet on this machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from runtime.container import setdefault_environment
from runtime.errors import UserError

OBJECT_STORE_BYTES = 512 * 1024 * 1024
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    # Containers give /dev/shm 64 MB; Ray then refuses to start unless it may use /tmp.
    "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A process a CPU, which only remote env runners would use, and those are started when they are asked for.
    "RAY_prestart_worker_first_driver": "0",
    "PYGAME_HIDE_SUPPORT_PROMPT": "1",
    "SDL_VIDEODRIVER": "dummy",
    "SDL_AUDIODRIVER": "dummy",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # Ray Tune: its own loggers and display are left out, and a metric may be missing until the first episode ends.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths in settings are relative to where the job was started
}


def prepare_environment() -> None:
    """Sets what the libraries read when they are imported; call it before any of them is."""
    setdefault_environment(_ENVIRONMENT)


def require_token(token: str) -> None:
    """Has Ray refuse whoever does not know a token; to be called on every host before Ray is started."""
    setdefault_environment({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token})


def list_nodes() -> set[str]:
    """Names of Ray's nodes that are alive."""
    import ray

    return {node["NodeName"] for node in ray.nodes() if node["Alive"]}


def quiet_ray() -> None:
    """Silences Ray's remarks below errors; call it after Ray's import, which sets the levels."""
    for name in ("ray", "ray.rllib", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)


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


@contextmanager
def _without(names: list[str]) -> Iterator[None]:
    """Makes methods of Ray's node do nothing for the length of a block; what another version has not is left alone."""
    from ray._private.node import Node

    kept = {name: getattr(Node, name) for name in names if hasattr(Node, name)}
    for name in kept:
        setattr(Node, name, _do_nothing)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(Node, name, method)


def _do_nothing(*args: Any, **kwargs: Any) -> None:
    pass


@contextmanager
def ray_session(
    *, num_cpus: int, num_gpus: int, overrides: Mapping[str, Any] | None = None, address: str | None = None
) -> Iterator[str]:
    """Runs Ray for the length of a block, and gives the address that other hosts can join it at.

    Args:
        num_cpus: CPUs that Ray may hand out; it would count the host's.
        num_gpus: GPUs likewise.
        overrides: Arguments of ray.init that a launcher's script asks for.
        address: Of this host, where others are to join; None keeps Ray to this machine.

    Raises:
        UserError: The script has started Ray itself, where others are to join.
    """
    prepare_environment()
    import ray

    quiet_ray()
    options: dict[str, Any] = {
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
        "configure_logging": False,
        "logging_level": logging.ERROR,
        "log_to_driver": False,
    }
    if address is not None:
        options["_node_ip_address"] = address
        _read_token()
    was_running = ray.is_initialized()  # a script of 2020 may have called ray.init itself
    if was_running and address is not None:
        raise UserError(
            "ray.init: called by the script before the training; expected it left out on several hosts, as Ray is "
            "started for the others to join."
        )
    if not was_running:
        options |= dict(overrides or {})
        with _without(_spared(options)):
            ray.init(**options)
    try:
        yield str(ray.get_runtime_context().gcs_address)
    finally:
        if not was_running:
            ray.shutdown()
