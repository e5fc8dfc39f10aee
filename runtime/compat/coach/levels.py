"""A preset's level: the environment that its name stands for, as a job makes it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import gymnasium

from runtime.environments.gymnasium_ids import is_current
from runtime.environments.old_gym import as_gymnasium
from runtime.environments.spec import EnvCreator
from runtime.errors import UserError, suggest


def find_creator(level: str) -> EnvCreator | None:
    """Returns the function that makes a level's environment; None where its name is enough for any job.

    Args:
        level: A gym id, `module:Class`, or `module:function`.

    Raises:
        UserError: There is no such module, or nothing callable of that name in it.
    """
    if ":" in level:
        found = _load(level)
        is_class = isinstance(found, type) and hasattr(found, "reset") and hasattr(found, "step")
        return None if is_class and "/" not in level else lambda config: as_gymnasium(found(**config))
    from runtime.compat.gym_2020 import find_newest, is_of_script, make

    if is_current(level):
        return None
    newest = find_newest(level)
    if newest == level and not is_of_script(level):
        return None  # there is none, as the job says
    return lambda config: as_gymnasium(make(newest, **config))


def _load(level: str) -> Any:
    module_name, _, attribute = level.partition(":")
    name = module_name.removesuffix(".py")
    try:
        module = importlib.import_module(name.replace("/", "."))
    except ModuleNotFoundError as error:
        if error.name is not None and name.replace("/", ".").split(".")[0] != error.name.split(".")[0]:
            raise  # a module that the environment itself imports
        beside = [path.stem for path in Path().glob("*.py")]
        raise UserError(
            f"rl.env_params.level: got {level!r} from the preset; expected a module {name!r} beside the script."
            + suggest(name, beside)
        ) from None
    found = getattr(module, attribute, None)
    if not callable(found):
        names = [known for known, value in vars(module).items() if callable(value)]
        raise UserError(
            f"rl.env_params.level: got {level!r} from the preset; expected a class or function of {name}."
            + suggest(attribute, names)
        )
    return found


def register_for_evaluation(level: str, creator: EnvCreator) -> None:
    """Lets this process evaluate in an environment that a function makes, by the name that its training had."""

    def make(render_mode: str | None = None, **config: Any) -> gymnasium.Env[Any, Any]:
        return creator(config)

    make.metadata = {"render_modes": ["rgb_array"]}  # type: ignore[attr-defined]  # as Gymnasium asks of a class
    # Gymnasium imports what is before the colon, and looks up what is behind it.
    for name in (level, level.rpartition(":")[2]):
        gymnasium.register(id=name, entry_point=make)
