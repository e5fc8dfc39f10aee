"""Loads a preset of Coach: a Python file that leaves a module-level `graph_manager`."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from typing import Any

from runtime.compat.coach.vocabulary import GraphManager
from runtime.errors import JobError, UserError, suggest

_NAME = "graph_manager"


def folder_of_script() -> Path:
    """Returns the folder of the program, where its presets are."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(file).resolve().parent if file else Path.cwd()


def load_graph(name: str, folder: Path) -> GraphManager:
    """Runs a preset's file, and returns the graph that it leaves.

    Args:
        name: Name of the file, with or without `.py`.
        folder: Folder of the file.

    Raises:
        UserError: There is no such file, it raises, or it leaves no graph.
    """
    path = folder / f"{name.removesuffix('.py')}.py"
    if not path.is_file():
        beside = sorted(other.stem for other in folder.glob("*.py") if _NAME in other.read_text(errors="replace"))
        listed = ", ".join(beside) or f"none is in {folder}"
        raise UserError(
            f"RLCOACH_PRESET: got {name!r}; expected a preset beside the script: {listed}."
            + suggest(name.removesuffix(".py"), beside)
        )
    module = _run(path)
    graph = getattr(module, _NAME, None)
    if not isinstance(graph, GraphManager):
        got = "none" if graph is None else f"a {type(graph).__name__}"
        raise UserError(
            f"{path.name}: got {got} as {_NAME}; expected a BasicRLGraphManager or BatchRLGraphManager of rl_coach, "
            "at the level of the module."
        )
    return graph


def _run(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem.replace("-", "_"), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        place = next(
            (one for one in traceback.extract_tb(error.__traceback__)[::-1] if one.filename == str(path)), None
        )
        where = f"{path.name}, line {place.lineno}" if place is not None else path.name
        reason = str(error) if isinstance(error, JobError | ImportError) else f"{type(error).__name__}: {error}"
        raise UserError(f"{where}: {reason}") from (None if isinstance(error, JobError | ImportError) else error)
    return module
