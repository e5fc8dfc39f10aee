"""Environments by name: Gymnasium ids, `module:Class`, and what a launcher registered; made the same way everywhere."""

from __future__ import annotations

import importlib
import math
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium

import envs  # registers the Roboschool ids
from runtime.container.own_code import is_importable
from runtime.environments.adapting import adapt
from runtime.environments.agents import JointEnv, make_agents, makes_agents
from runtime.environments.faults import describe_fault, own_class
from runtime.environments.gymnasium_ids import is_current, missing_packages, newest_version
from runtime.environments.old_gym import as_gymnasium
from runtime.errors import JobError, Problems, UserError, suggest

# Packages that register ids once they are imported, by how the ids begin; and the extra that installs each.
_PACKAGES = {"ALE/": "ale_py", "MiniGrid-": "minigrid", "BabyAI-": "minigrid"}
_EXTRAS = {"ale_py": "atari", "minigrid": "minigrid"}

EnvCreator = Callable[[dict[str, Any]], gymnasium.Env[Any, Any]]


@dataclass(frozen=True)
class EnvSpec:
    """Specifies a job's environment: its name, its keyword arguments and its wrappers.

    Attributes:
        name: Gymnasium id, `module:Class`, or the name that a launcher registered.
        config: Keyword arguments; a launcher's creator gets them as one dict.
        horizon: Step limit on top of the environment's own, or None.
        creator: A launcher's function, or None.
        reward_scale: Factor on the rewards that training learns from; returns are reported without it.
        transitions_folder: Folder in which the environments of training log their transitions, or None.
        has_jobs_seed: Whether config["seed"] is the job's; most environments take theirs at a reset instead.
    """

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    horizon: int | None = None
    creator: EnvCreator | None = None
    has_jobs_seed: bool = False
    reward_scale: float = 1.0
    transitions_folder: str | None = None


class EnvironmentFaultError(UserError):
    """The environment returned a reward that nothing can be learned from."""


class EnvironmentRaisedError(UserError):
    """The environment raised an exception.

    Args:
        reason: The message.
        trace: Traceback of the environment's exception, as text: Ray pickles no traceback.
    """

    def __init__(self, reason: str, trace: str = "") -> None:
        super().__init__(reason, trace)
        self.reason = reason
        self.trace = trace

    def __str__(self) -> str:
        """Returns the message, without the traceback."""
        return self.reason


class EpisodeMonitor(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Sums the rewards of an episode, and raises at the first one that is not finite.

    The last step's info holds `info["episode"] = {"r": return, "l": steps}`, as Gymnasium's own statistics do.
    RLlib's figures would not do: its mean is no mean of the last 100 episodes, and its lengths count steps that its
    learner added.

    Args:
        env: The environment.
        name: For messages.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], name: str) -> None:
        super().__init__(env)
        self._name = name
        self.episode_return = 0.0
        self.episode_steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode and its sums.

        Raises:
            EnvironmentRaisedError: The environment raised an exception.
        """
        self.episode_return = 0.0
        self.episode_steps = 0
        try:
            return self.env.reset(seed=seed, options=options)
        except Exception as error:
            raise self._fault(error, "at a reset") from None

    def _fault(self, error: Exception, when: str) -> Exception:
        """Returns the error to raise for an exception; one of our own environments stays as it is, a bug."""
        owner = own_class(self.env)
        if isinstance(error, JobError) or owner.__module__.startswith("envs."):
            return error
        trace = "".join(traceback.format_exception(error))
        return EnvironmentRaisedError(f"{describe_fault(error, owner)} {when}", trace)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Steps the environment.

        Raises:
            EnvironmentRaisedError: The environment raised an exception.
            EnvironmentFaultError: Its reward is NaN or infinite.
        """
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
        except Exception as error:
            raise self._fault(error, f"at step {self.episode_steps + 1}, action {action}") from None
        reward = float(reward)
        if not math.isfinite(reward):
            raise EnvironmentFaultError(
                f"reward of {self._name}: got {reward} from step({action!r}); expected a finite number. "
                "The last checkpoint is kept; fix the environment and start the job again to resume from it."
            )
        self.episode_return += reward
        self.episode_steps += 1
        if terminated or truncated:
            info = {**info, "episode": {"r": self.episode_return, "l": self.episode_steps}}
        return observation, reward, terminated, truncated, info


def make_env(spec: EnvSpec, *, render: bool = False, context: dict[str, Any] | None = None) -> gymnasium.Env[Any, Any]:
    """Makes an environment ready for a policy: guarded, cut at its horizon, its spaces adapted.

    Args:
        spec: Which.
        render: Whether `render()` must return frames; Gymnasium refuses that of an environment that has none.
        context: RLlib's EnvContext, for a launcher's creator: the config, and which runner asks.
    """
    env = make_bare(spec, render=render, context=context)
    if spec.horizon is not None:
        env = gymnasium.wrappers.TimeLimit(env, spec.horizon)
    if not isinstance(env.unwrapped, JointEnv):  # whose values are adapted agent by agent
        env = adapt(env, name=spec.name)
    return EpisodeMonitor(env, spec.name)


def make_bare(spec: EnvSpec, *, render: bool = False, context: dict[str, Any] | None = None) -> gymnasium.Env[Any, Any]:
    """Makes an environment as its author wrote it, adapted if it is of old gym; see make_env for the arguments."""
    if spec.creator is not None:
        return _ready_to_render(spec.creator(_env_context(spec) if context is None else context), render=render)
    if ":" in spec.name and spec.name not in gymnasium.registry and not _is_module_with_id(spec.name):
        return _make_class(spec, render=render)
    options = dict(spec.config)
    # The checker costs a call each step; check_env in a test is the place for it.
    options["disable_env_checker"] = True
    if render:
        options["render_mode"] = "rgb_array"
    with warnings.catch_warnings():  # CartPole-v0 is what the batch notebook asks for; that v1 is newer, it knows
        warnings.filterwarnings("ignore", message=".*out of date", category=DeprecationWarning)
        return gymnasium.make(_with_package(spec.name), **options)


def _env_context(spec: EnvSpec) -> dict[str, Any]:
    """Returns RLlib's EnvContext: the config as a dict that also has the number of the env runner."""
    from ray.rllib.env.env_context import EnvContext

    context: dict[str, Any] = EnvContext(dict(spec.config), worker_index=0)
    return context


def _make_class(spec: EnvSpec, *, render: bool) -> gymnasium.Env[Any, Any]:
    module, _, name = spec.name.partition(":")
    found = getattr(importlib.import_module(module), name)
    if makes_agents(found):
        return _ready_to_render(make_agents(found, spec.config, render=render), render=render)
    if not _is_env_class(found):  # a stored model names its environment: it must not name any function to call
        raise UserError(f"environment {spec.name}: got {found!r}; expected a class with reset and step.")
    made = found(**spec.config)
    return _ready_to_render(as_gymnasium(made), render=render)


def _ready_to_render(env: gymnasium.Env[Any, Any], *, render: bool) -> gymnasium.Env[Any, Any]:
    if render and env.render_mode is None:
        env.unwrapped.render_mode = "rgb_array"
    return env


def _with_package(name: str) -> str:
    """Returns an id with the package that registers it, as `ale_py:ALE/Pong-v5`, where Gymnasium does not know it."""
    begins = next((begin for begin in _PACKAGES if name.startswith(begin)), None)
    return name if begins is None or name in gymnasium.registry else f"{_PACKAGES[begins]}:{name}"


def _is_module_with_id(name: str) -> bool:
    """Whether `module:Env-v0` is Gymnasium's own way of importing a module that registers ids."""
    return "-v" in name.rpartition(":")[2]


def check_env_name(where: str, name: str, source: str, problems: Problems) -> None:
    """Notes a problem when no environment of that name can be found.

    Raises:
        UserError: A folder of the user's hides our environments.
    """
    theirs = Path(envs.__file__ or envs.__path__[0]).resolve()
    if not theirs.is_relative_to(Path(__file__).resolve().parents[2]):
        raise UserError(
            f"envs: got the package in {theirs}; expected the container's own of that name, which it hides. Rename "
            "that folder, and its imports, to something else, as my_envs."
        )
    full_name = _with_package(name)
    if ":" in full_name and full_name not in gymnasium.registry:
        module, _, attribute = full_name.partition(":")
        broken_rule = _class_problem(full_name, module, attribute)
        if broken_rule:
            remedy = f"Install it: pip install 'smrl[{_EXTRAS[module]}]'." if module in _EXTRAS else ""
            problems.add(where, name, source, expected=broken_rule, remedy=remedy)
    elif name not in gymnasium.registry:
        problems.add(
            where,
            name,
            source,
            expected="an environment that Gymnasium knows, or module:Class",
            remedy=suggest(name, gymnasium.registry),
        )
    elif not is_current(name):
        remedy = f"Take {newest_version(name)}, whose returns may differ."
        problems.add(where, name, source, expected="an environment that Gymnasium still makes", remedy=remedy)
    elif (missing := missing_packages(name))[0]:
        modules, extra = missing
        found = " and ".join(modules)
        remedy = f"Run pip install '{extra}'; on SageMaker, name {extra} in requirements.txt."
        problems.add(where, name, source, expected=f"its packages to be installed: {found}", remedy=remedy)


def _class_problem(name: str, module: str, attribute: str) -> str | None:
    """Returns the rule that `module:attribute` breaks, or None if it names a class."""
    if not is_importable(module):
        return f"a module {module!r} that can be imported"
    if _is_module_with_id(name):
        return None
    named = getattr(importlib.import_module(module), attribute, None)
    if not _is_env_class(named) and not makes_agents(named):
        return f"a class {attribute!r} with reset and step in {module}"
    return None


def _is_env_class(found: Any) -> bool:
    """Whether something is a class of environments, of Gymnasium, old gym, or neither's."""
    return isinstance(found, type) and hasattr(found, "reset") and hasattr(found, "step")
