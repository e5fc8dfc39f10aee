"""Environments whose answers are known, for tests."""

from __future__ import annotations

import os
import signal
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.error import DependencyNotInstalled


class NoFrames(gymnasium.Env[Any, Any]):
    """Pays 1 for action 1 and 0 for action 0, 10 steps long; renders no frames."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, **config: Any) -> None:
        self.config = config
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        return np.zeros(2, np.float32), self.reward(action), self._steps == 10, False, {}

    def reward(self, action: Any) -> float:
        return float(action)


class NanReward(NoFrames):
    """Pays NaN from the 300th step of its life on."""

    lived = 0

    def reward(self, action: Any) -> float:
        NanReward.lived += 1
        return float("nan") if NanReward.lived >= 300 else float(action)


class Raises(NoFrames):
    """Raises in its first step."""

    def reward(self, action: Any) -> float:
        raise RuntimeError("the simulator is on fire")


class Crashes(NoFrames):
    """Ends its process by a signal in its 100th step: of every process, or only if the file does not exist yet."""

    lived = 0

    def reward(self, action: Any) -> float:
        Crashes.lived += 1
        if Crashes.lived == 100 and not os.path.exists(self.config.get("once", "")):
            if "once" in self.config:
                open(self.config["once"], "w", encoding="utf-8").close()
            os.kill(os.getpid(), signal.SIGSEGV)
        return float(action)


class RaisesBesideTheJob(NoFrames):
    """Cannot be made by an env runner in a process of its own."""

    def __init__(self, **config: Any) -> None:
        import ray

        super().__init__(**config)
        if ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None:
            raise OSError("no display on this worker")


class Starts(NoFrames):
    """Draws where each episode starts, and keeps it; in a file as well, where one is named."""

    seen: ClassVar[list[float]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        _, info = super().reset(seed=seed)
        start = self.np_random.uniform(-1, 1, 2)  # of 53 bits each: thousands of draws do not meet
        Starts.seen.append(float(start[0]))
        if "path" in self.config:
            with open(self.config["path"], "a", encoding="utf-8") as file:
                file.write(f"{start[0]}\n")
        return start.astype(np.float32), info


class Exits(NoFrames):
    """Ends the process in its first step, as a simulator's wrapper may."""

    def reward(self, action: Any) -> float:
        raise SystemExit(0)


class BrightSide(NoFrames):
    """Shows a picture whose left or right half is bright; the action that names the half pays 1."""

    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, size: int = 20, *, is_channels_first: bool = False) -> None:
        super().__init__()
        self._is_channels_first = is_channels_first
        shape = (1, size, size) if is_channels_first else (size, size, 1)
        self.observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        self._steps = 0

    def _look(self) -> Any:
        self._side = int(self.np_random.integers(2))
        picture = np.zeros(self.observation_space.shape, np.uint8)
        halves = np.array_split(picture, 2, axis=2 if self._is_channels_first else 1)
        halves[self._side][:] = 255  # a view of the picture
        return picture

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(action == self._side)
        self._steps += 1
        return self._look(), reward, False, self._steps == 20, {}


class Grid(NoFrames):
    """Shows a grid."""

    observation_space = gymnasium.spaces.Box(0, 9, (4, 5), np.int64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        _, reward, terminated, truncated, info = super().step(action)
        return self.observation_space.sample(), reward, terminated, truncated, info


class WheelAndButton(NoFrames):
    """Takes a number and a choice at once."""

    action_space = gymnasium.spaces.Tuple(  # type: ignore[assignment]
        [gymnasium.spaces.Box(-1, 1), gymnasium.spaces.Discrete(2)]
    )


class Uninstalled(NoFrames):
    """Needs a package that is not installed, and says so as Gymnasium's own environments do."""

    def __init__(self) -> None:
        raise DependencyNotInstalled("run pip install maze")


class RaisesWhileRecorded(NoFrames):
    """Gives two frames, then fails."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012  # Gymnasium declares it so
    render_mode = "rgb_array"
    taken = 0

    def render(self) -> Any:
        self.taken += 1
        if self.taken > 2:
            raise RuntimeError("no more frames")
        return np.zeros((24, 32, 3), np.uint8)


class OfOldGym:
    """An environment of 2020: no base class, `reset() -> obs`, a 4-tuple `step`, no `seed`."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-2, 2, (1,), np.float32)

    def __init__(self, steps: int = 5) -> None:
        self._length = steps
        self._steps = 0

    def reset(self) -> Any:
        self._steps = 0
        return np.zeros(2, np.float32)

    def step(self, action: Any) -> tuple[Any, float, bool, dict[str, Any]]:
        self._steps += 1
        return np.zeros(2, np.float32), float(action[0]), self._steps >= self._length, {}


class Camera(gymnasium.Env[Any, Any]):
    """A picture whose bright half says where to go."""

    observation_space = gymnasium.spaces.Box(0, 1, (16, 16, 1), np.float32)
    action_space = gymnasium.spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self._look(), {}

    def _look(self) -> Any:
        self._side = int(self.np_random.integers(2))
        picture = np.zeros((16, 16, 1), np.float32)
        picture[:, 8 * self._side : 8 * self._side + 8] = 1.0
        return picture

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action.dtype.kind == "i"
        reward = float(action[0] == self._side)
        self._steps += 1
        return self._look(), reward, self._steps >= 20, False, {}


class Fragile(gymnasium.Env[Any, Any]):
    """Raises in its fifth step, the first time that it is made."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self._is_fragile = self.made <= 4
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        if self._is_fragile and self._steps == 5:
            raise ConnectionError("gone")
        return np.zeros(2, np.float32), 1.0, self._steps % 8 == 0, False, {}


class Smooth(gymnasium.Env[Any, Any]):
    """Keeps its last action, as penalties of jerks do, and seeds NumPy, as old environments do."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-2, 3, (1,), np.float64)
    changes: ClassVar[list[float]] = []
    taken: ClassVar[list[float]] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        np.random.seed(0)
        self._last = np.zeros(1)
        self._steps = 0
        return np.zeros(2), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action.dtype == np.float64
        self.changes.append(float(np.abs(action - self._last).sum()))
        self.taken.append(float(action[0]))
        self._last = action
        self._steps = self._steps + 1
        return np.zeros(2), 0.0, self._steps >= 20, False, {}


class Shelves(gymnasium.Env[Any, Any]):
    """Shows four numbers, of which the action takes one: its reward. Taken ones cannot be taken again.

    The best return of an episode takes the largest three; an action that the mask does not allow raises.

    Args:
        other: Name of the entry beside the mask.
        kind: Type of the mask's space.
        empty_at: Step after which the mask allows nothing, although the episode continues.
    """

    MOST_STEPS = 3

    def __init__(self, *, other: str = "real_obs", kind: str = "Box", empty_at: int | None = None) -> None:
        masks = {
            "Box": gymnasium.spaces.Box(0, 1, (4,), np.float32),
            "ints": gymnasium.spaces.Box(0, 1, (4,), np.int64),
            "MultiBinary": gymnasium.spaces.MultiBinary(4),
        }
        values = gymnasium.spaces.Box(-100, 100, (4,), np.float32)
        self.observation_space = gymnasium.spaces.Dict({"action_mask": masks[kind], other: values})
        self.action_space = gymnasium.spaces.Discrete(4)
        self._other = other
        self._empty_at = empty_at

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        self._values = self.np_random.normal(size=4).astype(np.float32)
        self._mask = np.ones(4, bool)
        self._mask[self.np_random.integers(4)] = False
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self._mask[action]:
            raise ValueError(f"the action {action} is not allowed by {self._mask}")
        self._steps += 1
        self._mask[action] = False
        has_ended = self._steps == self.MOST_STEPS
        return self._observe(), float(self._values[action] * 0.5**self._steps), has_ended, False, {}

    def _observe(self) -> dict[str, Any]:
        space: Any = self.observation_space
        mask = self._mask & (self._steps != self._empty_at)
        return {"action_mask": mask.astype(space["action_mask"].dtype), self._other: 50 + 10 * self._values}
