"""Loads a replacement module under its old name, or patches the real module with the API of 2020.

Used by `smrl_scripts_of_2020`, beside this package.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.util
import io
import re
import runpy
import sys
from collections.abc import Sequence
from importlib.abc import Loader
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from runtime.compat.coach.modules import ROOT
from runtime.compat.coach.modules import find as find_coach
from runtime.container.environment_variables import mark_users_script

_WORKER = Path(__file__).resolve().parents[2] / "entrypoints" / "training_worker.py"
_SIMULATION_APP = re.compile(r"^\s*(from|import) markov\b", re.MULTILINE)  # RoboMaker's, beside the script


def find(
    name: str, path: Sequence[str] | None, stand_in: str | None, patch: str | None
) -> importlib.machinery.ModuleSpec | None:
    """Returns the spec of a stand-in or a patched module; None leaves the name to the other finders."""
    if patch is not None:
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Patching(spec.loader, patch)
            mark_users_script()
        return spec
    if name.partition(".")[0] == ROOT:
        if _is_robomakers_worker():
            _train_in_its_place()
        mark_users_script()
        return find_coach(name)
    if stand_in is None:
        raise ModuleNotFoundError(
            f"{name}: not there; of the old sagemaker_rl only ray_launcher, coach_launcher, mpi_launcher and "
            "stable_baselines_launcher live on. "
            "docs/scripts-of-2020.md lists what is there.",
            name=name,
        )
    if name == "sagemaker_rl":
        _mention_old_copy()
    mark_users_script()
    return importlib.machinery.ModuleSpec(name, _Aliasing(stand_in), is_package=True)


def _is_robomakers_worker() -> bool:
    """Whether the program is the training worker of DeepRacer's notebooks, which learned what RoboMaker simulated."""
    program = Path(sys.modules["__main__"].__file__ or "")
    if program.name != _WORKER.name:
        return False
    return _SIMULATION_APP.search(program.read_text(encoding="utf-8", errors="replace")) is not None


def _train_in_its_place() -> NoReturn:
    """Runs the container's entry point of the same name, which ends the process."""
    sys.stderr.write(
        f"smrl: {sys.modules['__main__'].__file__} needs RoboMaker, which is gone; the container's {_WORKER.name} "
        "simulates and trains in its place, by the same hyperparameters and files\n"
    )
    runpy.run_path(str(_WORKER), run_name="__main__")
    raise AssertionError(f"{_WORKER} ends the process")


def _mention_old_copy() -> None:
    for folder in sys.path:
        copy = Path(folder or ".") / "sagemaker_rl"
        if copy.is_dir():
            sys.stderr.write(f"smrl: {copy} is an old copy that no longer runs; the container's sagemaker_rl is used\n")
            return


class _Aliasing(Loader):
    """Loads one of our modules under another name."""

    def __init__(self, target: str) -> None:
        self._target = target

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Creates a new module; ours keeps its own name."""
        module = ModuleType(spec.name)
        module.__path__ = []  # marks a package, so that `import a.b` looks for b
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Copies our module's public names."""
        ours = importlib.import_module(self._target)
        public = {name: value for name, value in vars(ours).items() if not name.startswith("__")}
        vars(module).update(public, __doc__=ours.__doc__)


class _Patching(Loader):
    """Runs the real module, then adds what 2020 expects."""

    def __init__(self, real: Loader, patch: str) -> None:
        self._real = real
        self._patch = patch

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Creates the module with the real loader."""
        return self._real.create_module(spec)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def exec_module(self, module: ModuleType) -> None:
        """Runs the real module, gym without its farewell notice, then the patch."""
        is_gym = module.__name__ == "gym"
        with contextlib.redirect_stderr(io.StringIO()) if is_gym else contextlib.nullcontext():
            self._real.exec_module(module)
        patch = getattr(importlib.import_module(self._patch), "patch", None)
        if patch is not None:  # else the patch's module is what imports this one, and patches it at its own end
            patch(module)
