"""Names the line of an environment's own code that is at fault."""

from __future__ import annotations

import inspect
import sysconfig
import traceback
from pathlib import Path
from types import CodeType
from typing import Any

from runtime.errors import Problems, describe_root

_OUR_CODE = Path(__file__).resolve().parents[1]


def own_class(env: Any) -> type[Any]:
    """Returns the class that the user wrote, below Gymnasium's wrappers and what adapts an environment."""
    inner = env.unwrapped
    # What shimmy adapts of old gym, or JointEnv of several agents.
    adapted = getattr(inner, "gym_env", None) or getattr(inner, "agents_env", None)
    return type(inner if adapted is None else adapted.unwrapped)


def find_method(owner: type[Any], name: str) -> str:
    """Returns `file.py:12: Class.method` of a method, or the class's name where no Python file defines it."""
    code = getattr(inspect.unwrap(getattr(owner, name, None) or owner), "__code__", None)
    return owner.__qualname__ if code is None else f"{_place(code, code.co_firstlineno)}: {code.co_qualname}"


def describe_fault(error: BaseException, owner: type[Any]) -> str:
    """Describes an exception by the deepest line of the user's code, as `file.py:12: Class.step raised KeyError: 'a'`.

    Args:
        error: What the environment raised.
        owner: Class of the environment. Its file is searched where every frame is of an installed package.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown(error.filename)}:{error.lineno}: SyntaxError: {error.msg}"
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    theirs = [frame for frame in frames if _is_users(frame[0].co_filename)]
    of_class = [frame for frame in frames if frame[0].co_filename == _file_of(owner)]
    code, line = (theirs or of_class or frames)[-1]
    name = code.co_qualname.removeprefix("<module>")
    return f"{_place(code, line)}: {f'{name} ' if name else ''}raised {describe_root(error)}"


def _file_of(owner: type[Any]) -> str:
    try:
        return inspect.getfile(owner)
    except (TypeError, OSError):  # of a compiled module
        return ""


def _is_users(file: str) -> bool:
    if file.startswith("<"):
        return False
    path = Path(file).resolve()
    others = [_OUR_CODE, *(Path(folder) for folder in set(sysconfig.get_paths().values()))]
    return not any(path.is_relative_to(folder.resolve()) for folder in others if folder.name != "bin")


class Findings:
    """Problems of an environment, the first of each kind, with file and line.

    Args:
        owner: The class that the user wrote.
        problems: Receives them.

    Attributes:
        found: Kinds of problems that were found.
    """

    def __init__(self, owner: type[Any], problems: Problems) -> None:
        self._owner = owner
        self._problems = problems
        self.found: set[str] = set()

    def note(self, kind: str, method: str, problem: str) -> None:
        """Adds a problem of a method of the environment, unless one of its kind is known."""
        if kind not in self.found:
            self.found.add(kind)
            self._problems.add_line(f"{find_method(self._owner, method)} {problem}")

    def raised(self, error: Exception, when: str) -> None:
        """Adds an exception of the environment."""
        self.found.add("exception")
        self._problems.add_line(f"{describe_fault(error, self._owner)} {when}")


def _place(code: CodeType, line: int) -> str:
    return f"{_shown(code.co_filename)}:{line}"


def _shown(file: str) -> str:
    """Shortens a path below the current folder."""
    path = Path(file).resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
