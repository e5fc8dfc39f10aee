"""Checks a network of the user's own before it is trained: its class, and its outputs for the environment's spaces."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from runtime.container.imports import importing
from runtime.container.own_code import is_importable
from runtime.environments.faults import describe_fault
from runtime.errors import Problems, UserError
from runtime.policies.spaces import Spaces
from runtime.ppo.settings import MODULE, PPONetworkSettings
from runtime.settings.schema import ROOT

_WHERE = f"{ROOT}{MODULE}"
_ROWS, _STEPS = 3, 2  # of a trial: different, so that no axis is taken for another


def check_module(values: Mapping[str, Any], sources: Mapping[str, str], problems: Problems) -> None:
    """Notes a problem when `rl.training.config.model.module` names no network that PPO could train.

    Args:
        values: Path below rl.training to value.
        sources: Path to the name of the source that set it.
        problems: Receives the problem.
    """
    name = values.get(MODULE)
    if name is None or values.get("run") != "PPO":
        return
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        expected = "module:Class"
    elif not is_importable(module):
        expected = f"a module {module!r} that can be imported"
    else:
        expected = _class_problem(name)
    if expected:
        problems.add(_WHERE, name, sources[MODULE], expected=expected)


def _class_problem(name: str) -> str:
    """Returns the rule that the class of an importable module breaks; empty if it is a network."""
    with importing():  # torch and RLlib, which the user's module needs in any case
        from runtime.policies.own_module import PATHS, find_class, missing_bases

    module, _, attribute = name.partition(":")
    try:
        found = find_class(name)
    except Exception as error:  # of the user's module
        return f"a module that can be imported; {describe_fault(error, object)}"
    if found is None:
        return f"a class {attribute!r} in {module}"
    if missing := missing_bases(found):
        return f"a class of {PATHS}, as PPO needs both; it is no {' and no '.join(missing)}"
    return ""


def module_config(settings: PPONetworkSettings) -> dict[str, Any]:
    """Returns the model_config of the user's network: what is set, and max_seq_len, which RLlib reads itself."""
    given = settings.given()
    own = given.pop("module_config", {})
    del given["module"]
    return {"max_seq_len": settings.max_seq_len, **given, **own}


def try_network(settings: PPONetworkSettings, spaces: Spaces) -> None:
    """Builds the user's network once and compares its outputs with the environment's spaces.

    Raises:
        UserError: It raises an exception, or its outputs are not those of a policy with a value function.
    """
    import torch

    from runtime.policies.own_module import load_module

    assert settings.module is not None
    kind = load_module(settings.module)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            wrong = _find_faults(kind, module_config(settings), spaces)
    except Exception as error:
        raise UserError(
            f"{_WHERE}: {describe_fault(error, kind)}, for observations {spaces.observation} and actions "
            f"{spaces.action}."
        ) from None
    if wrong:
        raise UserError("\n".join(f"{_WHERE}: {settings.module}.{line}" for line in wrong))


def _find_faults(kind: type[Any], config: dict[str, Any], spaces: Spaces) -> list[str]:
    """Runs all passes that training and acting need, and returns a line for each wrong output."""
    import torch
    from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog
    from ray.rllib.core.columns import Columns

    network = kind(
        observation_space=spaces.observation,
        action_space=spaces.action,
        inference_only=False,
        learner_only=False,
        model_config=config,
        catalog_class=PPOCatalog,
    )
    shape = (_ROWS, _STEPS) if network.is_stateful() else (_ROWS,)
    observation = spaces.observation.sample()
    batch = {Columns.OBS: torch.as_tensor(np.broadcast_to(observation, (*shape, *np.shape(observation))).copy())}
    if network.is_stateful():
        batch[Columns.STATE_IN] = _repeat(network.get_initial_state(), torch)
    size = _count_inputs(network, spaces.action)
    wrong = []
    passes = ("forward_inference", "forward_exploration", "forward_train")
    for name in passes:
        outputs = getattr(network, name)(dict(batch))
        if not isinstance(outputs, Mapping) or Columns.ACTION_DIST_INPUTS not in outputs:
            wrong.append(f"_{name}: got {_show_keys(outputs)}; expected Columns.ACTION_DIST_INPUTS among its outputs.")
            continue
        found = tuple(outputs[Columns.ACTION_DIST_INPUTS].shape)
        if found[:-1] != shape or (size is not None and found[-1] != size):
            expected = (*shape, "…" if size is None else size)
            wrong.append(
                f"_{name}: got action distribution inputs of the shape {_show(found)} for {_ROWS} observations; "
                f"expected {_show(expected)} for the actions {spaces.action}."
            )
    embeddings = outputs.get(Columns.EMBEDDINGS) if isinstance(outputs, Mapping) else None
    values = tuple(network.compute_values(dict(batch), embeddings=embeddings).shape)
    if values != shape:
        wrong.append(
            f"compute_values: got values of the shape {_show(values)} for {_ROWS} observations; expected "
            f"{_show(shape)}. Use squeeze(-1)."
        )
    return wrong


def _repeat(state: Any, torch: Any) -> Any:
    if isinstance(state, Mapping):
        return {name: _repeat(value, torch) for name, value in state.items()}
    return torch.as_tensor(state)[None].repeat(_ROWS, *[1] * np.ndim(state))


def _count_inputs(network: Any, space: gymnasium.Space[Any]) -> int | None:
    """Inputs of the action distribution for a space; None for a distribution of the user's own."""
    from ray.rllib.core.distribution.torch.torch_distribution import (
        TorchCategorical,
        TorchDiagGaussian,
        TorchMultiCategorical,
    )

    kind = network.get_inference_action_dist_cls()
    if isinstance(space, gymnasium.spaces.Discrete) and issubclass(kind, TorchCategorical):
        return int(space.n)
    if isinstance(space, gymnasium.spaces.MultiDiscrete) and issubclass(kind, TorchMultiCategorical):
        return int(space.nvec.sum())
    if isinstance(space, gymnasium.spaces.Box) and issubclass(kind, TorchDiagGaussian):
        return 2 * math.prod(space.shape)
    return None


def _show(shape: tuple[Any, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _show_keys(outputs: Any) -> str:
    return ", ".join(map(str, outputs)) or "nothing" if isinstance(outputs, Mapping) else repr(outputs)
