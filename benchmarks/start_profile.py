"""Runs a command of smrl with some of its functions timed; benchmarks/start.py starts it, in a process of its own.

python start_profile.py STARTED OUT FUNCTIONS WORD …: when the process was started, as `time.time()` has it; the JSON
file to write, with wall and CPU seconds by name; the functions by name, as JSON; and the words of the command.
"""

import functools
import importlib.abc
import importlib.machinery
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

# What is called first after the imports.
IMPORTED = "runtime.rllib.loop:Training.__init__"


class Profiler(importlib.abc.MetaPathFinder):
    """Times functions, which it wraps when their modules are imported.

    Args:
        started: When the process was started.
        out: File to write.
        functions: Places of each name, as "module:Class.function"; those that do not exist are left out.
    """

    def __init__(self, started: float, out: Path, functions: dict[str, list[str]]) -> None:
        self.started = started
        self.out = out
        self.names = {place: name for name, places in functions.items() for place in places}
        self.spent: dict[str, tuple[float, float]] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Called by the import system for every module."""
        places = [place for place in [*self.names, IMPORTED] if place.startswith(f"{name}:")]
        if not places:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_wrap(module: ModuleType) -> None:
                execute(module)
                for place in places:
                    self.wrap(module, place)

            spec.loader.exec_module = execute_and_wrap  # type: ignore[method-assign]
        return spec

    def wrap(self, module: ModuleType, place: str) -> None:
        """Times the function of a place, if there is one."""
        *parents, name = place.partition(":")[2].split(".")
        owner = functools.reduce(getattr, parents, module)
        function = getattr(owner, name, None)
        if function is None:
            return

        @functools.wraps(function)
        def call(*words: Any, **options: Any) -> Any:
            if place == IMPORTED:
                wall_s = sum(seconds[0] for seconds in self.spent.values())
                cpu_s = sum(seconds[1] for seconds in self.spent.values())
                self.spent["imports"] = time.time() - self.started - wall_s, time.process_time() - cpu_s
                return function(*words, **options)
            wall_s, cpu_s = time.time(), time.process_time()
            try:
                return function(*words, **options)
            finally:
                before = self.spent.get(self.names[place], (0.0, 0.0))
                now = before[0] + time.time() - wall_s, before[1] + time.process_time() - cpu_s
                self.spent[self.names[place]] = now
                self.write()

        setattr(owner, name, call)

    def write(self) -> None:
        """Writes what was timed until now, and the seconds of the process."""
        main = time.time() - self.started, time.process_time()
        self.out.write_text(json.dumps({**self.spent, "main": main}))


if __name__ == "__main__":
    profiler = Profiler(float(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
    sys.meta_path.insert(0, profiler)
    sys.argv[1:] = sys.argv[4:]
    from runtime import cli

    getattr(cli, "command", lambda: sys.exit(cli.main()))()
