"""Hyperparameters of Coach's launcher: values for attribute paths of a preset's graph, with their types."""

from __future__ import annotations

from typing import Any

from runtime.compat.coach.vocabulary import STEP_METHODS, StepMethod, describe_names
from runtime.errors import Problems, suggest
from runtime.settings.types import parse_text

SOURCE = "the hyperparameters"


class CoachConfigurationList:
    """Values by path, as `rl.agent_params.algorithm.discount`, or `rl.improve_steps:TrainingSteps` with a type.

    Attributes:
        hp_dict: The values, which a launcher may change.
        applied: Paths of those that were set in a graph.
    """

    ALLOWED_TYPES = STEP_METHODS

    def __init__(self) -> None:
        self.hp_dict: dict[str, Any] = {}
        self.applied: set[str] = set()

    def store(self, name: str, value: Any) -> None:
        """Adds a value."""
        self.hp_dict[name] = value

    def apply_subset(self, config_object: Any, prefix: str) -> None:
        """Sets the values whose names begin with a prefix, and forgets them.

        Args:
            config_object: The graph, or another tree of parameters.
            prefix: As `rl.`.

        Raises:
            UserError: A name or a type is unknown; all are listed.
        """
        problems = Problems("the hyperparameters of the preset")
        for name in [name for name in self.hp_dict if name.startswith(prefix)]:
            _set(config_object, name, prefix, self.hp_dict.pop(name), problems)
            self.applied.add(name.removeprefix(prefix).partition(":")[0])
        problems.raise_if_any()


def _set(root: Any, name: str, prefix: str, raw: Any, problems: Problems) -> None:
    path, _, kind = name.removeprefix(prefix).partition(":")
    value = parse_text(raw) if isinstance(raw, str) else raw
    *parents, leaf = path.split(".")
    node = root
    for parent in parents:
        children = _children(node)
        if parent not in children:
            _refuse_name(parent, children, name, raw, problems)
            return
        node = children[parent]
    children = _children(node)
    is_open = isinstance(node, dict)  # as the environment's keyword arguments, whose names are the user's
    if leaf not in children and not is_open:
        _refuse_name(leaf, children, name, raw, problems)
        return
    if kind and kind not in STEP_METHODS:
        expected = f"a type among {', '.join(STEP_METHODS)}"
        problems.add(name, raw, SOURCE, expected=expected, remedy=suggest(kind, STEP_METHODS))
        return
    now = children.get(leaf)
    step_kind = STEP_METHODS[kind] if kind else type(now) if isinstance(now, StepMethod) else None
    if step_kind is not None and not isinstance(value, int | float):
        problems.add(name, raw, SOURCE, expected="a whole number")
        return
    typed = value if step_kind is None else step_kind(value)
    if is_open:
        node[leaf] = typed
    else:
        setattr(node, leaf, typed)


def _children(node: Any) -> dict[str, Any]:
    found = node if isinstance(node, dict) else getattr(node, "__dict__", {})
    return {name: value for name, value in found.items() if not str(name).startswith("_")}


def _refuse_name(part: str, children: dict[str, Any], name: str, raw: Any, problems: Problems) -> None:
    problems.add_line(f"{name}: got {raw!r} from {SOURCE}; expected for {part!r} {describe_names(part, children)}")
