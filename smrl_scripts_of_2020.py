"""Provides the modules that scripts of 2020 import, in a SageMaker job and under `smrl run` only.

`smrl-scripts-of-2020.pth`, which Python reads whenever it starts, imports this module. It imports
no other module of ours or of a library before a script asks for one of the names.

In a job it also writes the failure reason for SageMaker when the script fails, no matter which modules it imports.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType, TracebackType

_STAND_INS = {
    "sagemaker_rl": "runtime.compat.sagemaker_rl",
    "sagemaker_rl.ray_launcher": "runtime.compat.sagemaker_rl",
    "sagemaker_rl.coach_launcher": "runtime.compat.coach_launcher",
    "sagemaker_rl.mpi_launcher": "runtime.compat.mpi_launcher",
    "sagemaker_rl.stable_baselines_launcher": "runtime.compat.stable_baselines_launcher",
    "roboschool": "runtime.compat.roboschool",
    "ray.rllib.agents": "runtime.compat.agents",
    "ray.rllib.agents.registry": "runtime.compat.agents",
    "ray.rllib.agents.ppo": "runtime.compat.agents",
    "ray.rllib.utils.torch_ops": "ray.rllib.utils.torch_utils",
    "gym_unity": "runtime.compat.gym_unity",
    "gym_unity.envs": "runtime.compat.gym_unity",
}
_PATCHED = {
    "gym": "runtime.compat.gym_2020",
    "ray": "runtime.compat.ray_2020",
    "ray.rllib.models": "runtime.compat.models_2020",
    "mlagents_envs.environment": "runtime.compat.unity_2020",
}
_ABSENT = "sagemaker_rl."  # and a name that is no stand-in's
_COACH = "rl_coach"
_MESSAGES = "mlagents_envs.communicator_objects."
_TENSORFLOW = "tensorflow"
_BELOW_TENSORFLOW = f"{_TENSORFLOW}."
_LAUNCHERS = "sagemaker_rl"
_BEGINNINGS = (_ABSENT, _MESSAGES, f"{_COACH}.")
_OURS = ("runtime", "envs", "presets")
_A_FILE_OF_OURS = os.path.join("runtime", "compat", "stand_ins.py")

# SageMaker's toolkit and SDK 3's driver set the first for a script and its child processes; `smrl run` sets the second.
_JOB = "SM_TRAINING_ENV"
_LAUNCHED = "SMRL_USERS_SCRIPT"
_SCRIPTS_PID = "SMRL_SCRIPT_PID"
_FAILURE_CHARS = 1024
_TRACE_CHARS = 800


class ShadowError(Exception):
    """A file or folder beside the script has the name of one of the container's packages."""


class StandIns:
    """An import finder for modules that existed in 2020.

    It comes first in sys.meta_path: the notebooks' `dependencies=` put an outdated `sagemaker_rl` into the code folder.
    """

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Called by the import system for every module; returns None at once for all but a few names."""
        if name == _TENSORFLOW or name.startswith(_BELOW_TENSORFLOW):
            return _find_tensorflow(name, path)
        while _empty_modules:  # so that only the import that asked for one has it, and no library finds it
            sys.modules.pop(_empty_modules.pop(), None)
        if name in _STAND_INS or name in _PATCHED or name == _COACH or name.startswith(_BEGINNINGS):
            return _find(name, path)
        return None


def _find(name: str, path: "Sequence[str] | None") -> "ModuleSpec | None":
    if name.startswith(_MESSAGES):  # in any program of the job: protobuf refuses them as they are
        if _note_shadows(name):
            return None
        from envs.unity.message_classes import MessageFinder, allow_messages

        allow_messages()
        return MessageFinder.find_spec(name)
    if not _is_users_script():
        return None
    if name not in _PATCHED:
        _refuse_shadows()
    elif _note_shadows(name):
        return None
    from runtime.compat.stand_ins import find

    return find(name, path, _STAND_INS.get(name), _PATCHED.get(name))


def _find_tensorflow(name: str, path: "Sequence[str] | None") -> "ModuleSpec | None":
    """Finds an empty module for a file of a script of 2020 that imports TensorFlow; None for any library's import."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    if not _is_users_file(frame.f_code.co_filename) or not _is_users_script() or not _uses_old_launcher():
        return None
    from runtime.compat.tensorflow_2020 import find

    spec = find(name, path)
    if spec is not None:
        _empty_modules.append(name)
    return spec


def _uses_old_launcher() -> bool:
    """Whether the program's text names SageMaker's launchers of 2020."""
    try:
        with open(sys.modules["__main__"].__file__ or "", encoding="utf-8", errors="replace") as file:
            return _LAUNCHERS in file.read()
    except (OSError, AttributeError):
        return _LAUNCHED in os.environ  # one of Ray's processes


def _is_users_script() -> bool:
    """Whether the program is a user's script, neither this package's code nor an installed library.

    Ray's workers learn it from an inherited variable, because their program is Ray's.
    """
    if _LAUNCHED in os.environ:
        return True
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    if not file:
        return False
    return _is_users_file(file)


def _is_users_file(file: str) -> bool:
    """Whether a file is part of neither this package nor an installed library."""
    from pathlib import Path

    path = Path(file).resolve()
    is_library = any(path.is_relative_to(Path(place).resolve()) for place in (sys.prefix, sys.base_prefix))
    is_ours = any(
        folder.name in ("runtime", "entrypoints", "envs", "tests") and (folder.parent / _A_FILE_OF_OURS).is_file()
        for folder in path.parents
    )
    return not is_library and not is_ours


def _find_shadow(name: str) -> str | None:
    """Path of a file or folder that would be imported in place of the container's package, or None."""
    for entry in sys.path:
        folder = os.path.join(entry, name)
        found = next((path for path in (folder, f"{folder}.py") if os.path.exists(path)), None)
        if found is not None:
            return None if os.path.isfile(os.path.join(entry, _A_FILE_OF_OURS)) else os.path.abspath(found)
    return None


def _refuse_shadows() -> None:
    """Stops a script whose files have names of the container's packages, as the wrong one would be imported."""
    for name in _OURS:
        found = _find_shadow(name)
        if found is not None:
            kind = "folder" if os.path.isdir(found) else "file"
            folder = os.path.dirname(found)
            raise ShadowError(
                f"{name}: got a {kind} of that name in {folder}; expected none, because it is a package of the "
                f"container. Rename it, and its imports, to something else, as my_{name}."
            )


def _note_shadows(name: str) -> bool:
    """Whether a library cannot be patched because the script shadows the patch's package; prints a note if so."""
    found = _find_shadow("runtime") or _find_shadow("envs")
    if found is not None and name in _PATCHED:
        sys.stderr.write(f"smrl: {found} has the name of a package of the container; {name} stays as today's is\n")
    return found is not None


def _report(kind: type[BaseException], error: BaseException, trace: "TracebackType | None") -> None:
    """Prints the exception that ended the job's script, as Python does, and writes it for SageMaker."""
    sys.__excepthook__(kind, error, trace)
    try:
        if issubclass(kind, Exception):
            _write_failure(kind, error, trace)
    except Exception as problem:
        sys.stderr.write(f"smrl: output/failure could not be written: {problem}\n")


def _write_failure(kind: type[BaseException], error: BaseException, trace: "TracebackType | None") -> None:
    import traceback

    path = _failure_file()
    written = _identify(path)
    if written is not None and written != _earlier_failure:
        return  # the script's own words
    os.makedirs(os.path.dirname(path), exist_ok=True)
    lines = "".join(traceback.format_exception(kind, error, trace))
    with open(path, "w", encoding="utf-8", errors="replace") as file:
        file.write(f"{kind.__name__}: {error}\n{lines[-_TRACE_CHARS:]}"[:_FAILURE_CHARS])


def _failure_file() -> str:
    return os.path.join(os.environ.get("SM_OUTPUT_DIR") or "/opt/ml/output", "failure")


def _identify(path: str) -> tuple[int, int, int] | None:
    """What differs between two writings of a file: a file's time alone may lie before that of the clock."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _start() -> None:
    global _earlier_failure
    is_job = _JOB in os.environ
    if not is_job and _LAUNCHED not in os.environ:
        return
    sys.meta_path.insert(0, StandIns())
    # The first Python of a job runs the script; a failure of its child processes is not the job's failure reason.
    if is_job and os.environ.setdefault(_SCRIPTS_PID, str(os.getpid())) == str(os.getpid()):
        _earlier_failure = _identify(_failure_file())
        sys.excepthook = _report


_earlier_failure: tuple[int, int, int] | None = None
_empty_modules: list[str] = []
try:  # noqa: SIM105  # contextlib would be one more import at every start
    _start()
except Exception:  # this runs at every start of Python and must never break it
    pass
