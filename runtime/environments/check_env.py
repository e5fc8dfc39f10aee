"""`smrl check-env`: finds what an environment does that training cannot use, before a training does."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import DependencyNotInstalled
from gymnasium.spaces import Dict, Discrete
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import OrderEnforcing, TimeLimit

from runtime.environments.adapting import flat_actions, is_image
from runtime.environments.agents import JointEnv
from runtime.environments.check_agents import check_agents
from runtime.environments.faults import Findings, describe_fault, own_class
from runtime.environments.masking import allows_action, mask_problem
from runtime.environments.returned import describe_kind, is_finite_number, observation_problem
from runtime.environments.spec import EnvSpec, check_env_name, make_bare
from runtime.errors import JobError, Problems, UserError
from runtime.policies.spaces import ACTION_MASK, count_choices

STEPS = 200
_SEED = 0
# What Gymnasium remarks on infinite bounds, which its own CartPole has, and which training does not mind.
_NO_MATTER = "A Box observation space m"


def run_check(name: str, config: Mapping[str, Any]) -> str:
    """Checks an environment with random actions and Gymnasium's own check.

    Args:
        name: Gymnasium id or `module:Class`.
        config: Keyword arguments of the environment.

    Returns:
        A line for each fact about it.

    Raises:
        UserError: Every problem found, each with file and line of the environment.
    """
    problems = Problems(name)
    env = _make(EnvSpec(name, config), problems)
    if isinstance(env.unwrapped, JointEnv):
        findings = Findings(own_class(env), problems)
        facts = check_agents(env.unwrapped, findings, steps=STEPS, seed=_SEED)
        env.close()
        facts["video"] = _check_frames(EnvSpec(name, config), env, findings)
        problems.raise_if_any()
        return _describe(name, facts)
    check = _Check(env, problems)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if check.has_spaces() and check.takes_steps() and not check.found:
            check.passes_gymnasiums()
    rendered = _check_frames(EnvSpec(name, config), env, check)
    env.close()
    problems.raise_if_any()
    notes = dict.fromkeys(_without_color(str(one.message)) for one in caught if one.category is UserWarning)
    facts = {**check.facts, "video": rendered}
    notes = {note: None for note in notes if not note.startswith(_NO_MATTER)}
    return _describe(name, facts, notes)


def _describe(name: str, facts: Mapping[str, str], notes: Iterable[str] = ()) -> str:
    return "\n".join(
        [
            f"{name}: no problem found",
            *(f"  {what:<13} {fact}" for what, fact in facts.items()),
            *(f"  note          {note}" for note in notes),
        ]
    )


def _make(spec: EnvSpec, problems: Problems) -> gymnasium.Env[Any, Any]:
    try:
        check_env_name("environment", spec.name, "the command line", problems)
        problems.raise_if_any()
        return make_bare(spec)
    except JobError:
        raise
    except DependencyNotInstalled as error:
        raise UserError(f"environment {spec.name}: {error}.") from None
    except Exception as error:  # the user's module, or its constructor
        raise UserError(f"{describe_fault(error, object)}. It cannot be made.") from None


class _Check(Findings):
    """Checks one environment; notes the first problem of each kind.

    Attributes:
        facts: What was seen, by name, to be printed.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], problems: Problems) -> None:
        super().__init__(own_class(env), problems)
        self._env = env
        self._bare = _without_gymnasiums(env)
        self.facts: dict[str, str] = {}
        self._observation: Any = None

    def has_spaces(self) -> bool:
        """Checks the two spaces; returns whether the environment can be stepped with them."""
        for name in ("observation_space", "action_space"):
            space = getattr(self._bare, name, None)
            if not isinstance(space, gymnasium.Space):
                self.note(name, "__init__", f"sets {name} to {space!r}; expected a space of gymnasium.spaces")
                continue
            self.facts[name.replace("_space", "s")] = str(space)
        if self.found:
            return False
        if flat_actions(self._bare.action_space) is None:
            rule = "expected Box, Discrete, MultiDiscrete or MultiBinary, or a Dict or Tuple of Boxes or of the others"
            self.note("actions", "__init__", f"sets action_space to {self._bare.action_space}; {rule}")
        seen: Any = self._bare.observation_space
        if isinstance(seen, Dict) and ACTION_MASK in seen.spaces and not self.found:
            problem = mask_problem(seen, self._bare.action_space)
            if problem is not None:
                self.note("mask", "__init__", f"sets observation_space to {problem}")
            else:
                self.facts["masks"] = f"the entry {ACTION_MASK} says which actions are allowed; only these are taken"
        images: Any = seen
        if is_image(images) and images.dtype != np.uint8:
            rule = "expected uint8, 0 to 255"
            self.note("image", "__init__", f"sets observation_space to images of {images.dtype}; {rule}")
        return True

    def takes_steps(self) -> bool:
        """Resets without a seed and takes random steps; returns whether all were taken."""
        self._bare.action_space.seed(_SEED)
        episodes = 0
        begun = time.perf_counter()
        must_reset = True
        for step in range(1, STEPS + 1):
            if must_reset and not self._resets():
                return False
            action = self._sample_action()
            try:
                result = self._bare.step(action)
            except Exception as error:
                self.raised(error, f"at step {step}, action {action!r}")
                return False
            if not self._is_step(result):
                return False
            must_reset = bool(result[2]) or bool(result[3])
            episodes += must_reset
        rate = STEPS / (time.perf_counter() - begun)
        self.facts["steps"] = f"{STEPS} random ones, {episodes} episodes ended, {rate:,.0f} steps per second"
        if not episodes and self._env.spec is None:
            self.facts["episodes"] = "none ended; rl.training.config.horizon sets a step limit if they never do"
        return True

    def _sample_action(self) -> Any:
        """Samples an action, one that the last observation's mask allows if it has a mask."""
        space: Any = self._bare.action_space
        if not self._has_mask():
            return space.sample()
        allowed = np.asarray(self._observation[ACTION_MASK]).ravel() != 0
        counts = count_choices(space)
        if not allows_action(allowed[None], counts).all():
            self.note("mask", "step", f"returned an {ACTION_MASK} that allows no action before the episode ended")
            return space.sample()
        masks = [part.astype(np.int8) for part in np.split(allowed, np.cumsum(counts)[:-1])]
        return space.sample(masks[0] if isinstance(space, Discrete) else tuple(masks))

    def _has_mask(self) -> bool:
        """Whether observations have an action mask, of a size that `adapt` would take."""
        space = self._bare.observation_space
        mask = space.spaces.get(ACTION_MASK) if isinstance(space, Dict) else None
        return mask is not None and mask.shape == (sum(count_choices(self._bare.action_space)),)

    def _resets(self) -> bool:
        try:
            result: Any = self._bare.reset()
        except Exception as error:
            self.raised(error, "at reset() without a seed")
            return False
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            self.note("reset", "reset", f"returned {describe_kind(result)}; expected (observation, info)")
            return False
        self._check_observation("reset", result[0])
        self._observation = result[0]
        return True

    def _is_step(self, result: Any) -> bool:
        if not isinstance(result, tuple) or len(result) != 5:
            old = ", as gym before 0.26 did" if isinstance(result, tuple) and len(result) == 4 else ""
            self.note(
                "step",
                "step",
                f"returned {describe_kind(result)}{old}; expected (observation, reward, terminated, truncated, info)",
            )
            return False
        observation, reward, terminated, truncated, info = result
        self._check_observation("step", observation)
        self._observation = observation
        if not is_finite_number(reward):
            self.note("reward", "step", f"returned the reward {reward!r}; expected a finite number")
        for name, value in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(value, bool | np.bool_):
                self.note(name, "step", f"returned {name} {value!r}; expected True or False")
        if not isinstance(info, dict):
            self.note("info", "step", f"returned the info {info!r}; expected a dict")
        return True

    def _check_observation(self, method: str, observation: Any) -> None:
        problem = observation_problem(self._bare.observation_space, observation)
        if problem:
            self.note(f"{method} observation", method, f"returned {problem}")

    def passes_gymnasiums(self) -> None:
        """Runs Gymnasium's own check, which stops at its first problem; not on an environment of old gym."""
        if not issubclass(self._owner, gymnasium.Env) or self._has_mask():  # which takes any action
            return
        try:
            check_env(self._bare, skip_render_check=True)
        except AssertionError as error:
            method = "reset" if "reset" in str(error) else "step"
            text = _without_color(str(error)).strip().splitlines()[0]
            self.note("gymnasium", method, f"fails Gymnasium's check_env: {text}")
        except Exception as error:
            self.raised(error, "in Gymnasium's check_env")


def _without_gymnasiums(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Takes off the wrappers that `gymnasium.make` puts around every environment."""
    while isinstance(env, TimeLimit | OrderEnforcing):
        env = env.env
    return env


def _check_frames(spec: EnvSpec, made: gymnasium.Env[Any, Any], findings: Findings) -> str:
    """Renders one frame as a video of training would; returns a fact about it."""
    if "exception" in findings.found:
        return "not tried"
    if "rgb_array" not in made.metadata.get("render_modes", []):
        return "none: metadata['render_modes'] has no 'rgb_array'"
    try:
        env = make_bare(spec, render=True)
        env.reset()
        frame: Any = env.render()
        env.close()
    except Exception as error:
        findings.raised(error, "where a video is recorded (render_mode='rgb_array')")
        return "none"
    if not (isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3):
        rule = "expected an array of uint8, (height, width, 3)"
        findings.note("frame", "render", f"returned {describe_kind(frame)}; {rule}")
        return "none"
    return f"frames of {frame.shape[1]} by {frame.shape[0]} pixels"


def _without_color(text: str) -> str:
    return text.replace("\x1b[33m", "").replace("\x1b[0m", "").removeprefix("WARN: ")
