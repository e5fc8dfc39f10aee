"""Runs `smrl` commands in forks of a process that has imported all libraries, beside one Ray for all.

The imports take 10 s of a training's CPU time, and Ray's start 2 s. A command behaves as from the shell: its arguments,
folder, environment and streams are its own, and it ends as Python does. Tests of start-up, signals and servers start
`smrl` from the shell. tests/conftest.py uses this module for every folder of tests, so it lies beside them all.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import secrets
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import IO, Any

# What libraries import when they are used.
_LATE_IMPORTS = (
    *("torch._inductor", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "matplotlib.figure"),
    *("tensorboardX", "pydantic.v1"),
)
# Modules for scripts, whose own imports they change; and modules with ONNX Runtime, whose thread no fork outlives.
# local_mode takes the SageMaker SDK; evaluation and deploy_gate run exported policies.
_LEFT_OUT = (
    "runtime.compat.",
    "runtime.local_mode.",
    "runtime.serving.",
    "runtime.offline.deploy_gate",
    "runtime.offline.evaluation",
    "runtime.offline.target_policies",
)
_SERVER = [sys.executable, "-m", "tests.warm_smrl"]
_RAY = [*_SERVER, "ray"]


class WarmSmrl:
    """Runs `smrl` commands in forks of a warm process.

    Args:
        root: Of the repository.
        environment: That commands run in.
    """

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        path = f"{root}{os.pathsep}{environment.get('PYTHONPATH', '')}".rstrip(os.pathsep)
        # A Ray of one's own makes itself a token that only its own process knows.
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        self._process, self._ray = (
            subprocess.Popen(
                program,
                cwd=root,
                env={**environment, **token, "PYTHONPATH": path},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for program in (_SERVER, _RAY)
        )
        self._ray_address = ""

    def run(self, words: list[str], *, cwd: Path, scratch: Path, timeout_s: float) -> tuple[int, str, str]:
        """Runs a command; returns its exit code, stdout and stderr.

        Raises:
            subprocess.TimeoutExpired: It took too long, and was killed.
        """
        streams = [scratch / "stdout", scratch / "stderr"]
        if not self._ray_address:
            assert self._ray.stdout is not None
            self._ray_address = self._ray.stdout.readline().strip()
        request = {"words": words, "cwd": str(cwd), "streams": list(map(str, streams)), "timeout_s": timeout_s}
        request["ray_address"] = self._ray_address
        commands, answers = self._process.stdin, self._process.stdout
        assert commands is not None
        assert answers is not None
        commands.write(json.dumps(request) + "\n")
        commands.flush()
        code = json.loads(answers.readline())
        if code is None:
            raise subprocess.TimeoutExpired(words, timeout_s)
        out, err = (path.read_text(errors="replace") for path in streams)
        return code, out, err

    def close(self) -> None:
        """Ends both processes."""
        with self._process, self._ray:  # closes their pipes, which ends them, and waits
            pass


def _import_all() -> None:
    """Imports what commands import, which is most of what a short one costs."""
    from runtime.cluster.session import prepare_environment

    prepare_environment()
    import envs
    import runtime

    for package in (runtime, envs):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.startswith(_LEFT_OUT):
                importlib.import_module(module.name)
    for name in _LATE_IMPORTS:
        importlib.import_module(name)
    from runtime.ppo.compiled.compile_ahead import main as load_kernels

    with contextlib.redirect_stdout(sys.stderr):  # stdout is for answers
        load_kernels()
    gc.freeze()  # forks neither search nor copy what is imported
    assert "onnxruntime" not in sys.modules, "a module that imports ONNX Runtime is to be named in _LEFT_OUT"


def _serve(requests: IO[str]) -> None:
    for line in requests:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _end(_run(request))
        print(json.dumps(_wait(child, request["timeout_s"])), flush=True)


def _run(request: dict[str, Any]) -> int:
    os.setsid()
    os.chdir(request["cwd"])
    for number, path in zip((1, 2), request["streams"], strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # As the console script has it, which the current folder is no part of.
    sys.path[:] = [path for path in sys.path if path]
    sys.argv = ["smrl", *request["words"]]
    _join_ray(request["ray_address"])
    from runtime.cli import main

    try:
        return main()
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1


def _end(code: int) -> None:
    """Ends as Python does, but frees nothing, as freeing all imported modules takes 2 s of CPU time."""
    threading._shutdown()  # type: ignore[attr-defined]  # what Python itself calls to wait for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _join_ray(address: str) -> None:
    """Makes `ray.init` join the Ray that is running, with any arguments."""
    import ray

    kept = ("configure_logging", "logging_level", "log_to_driver")
    start = ray.init
    ray.init = lambda **options: start(address=address, **{name: options[name] for name in kept if name in options})


def _run_ray() -> None:
    """Runs Ray until the input ends."""
    from runtime.cluster.session import ray_session

    with ray_session(num_cpus=len(os.sched_getaffinity(0)), num_gpus=0):
        import ray

        print(ray.get_runtime_context().gcs_address, flush=True)
        sys.stdin.read()


def _wait(child: int, timeout_s: float) -> int | None:
    import signal
    import time

    deadline = time.monotonic() + timeout_s
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.02)


if __name__ == "__main__":
    if sys.argv[1:] == ["ray"]:
        _run_ray()
    else:
        _import_all()
        _serve(sys.stdin)
