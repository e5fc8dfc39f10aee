"""Scenes of the stand-in: Unity's examples as far as a learner can tell, and some that are there to be awkward."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image


@dataclass
class Info:
    """An agent's part of a player's message.

    Attributes:
        agent_id: New for each episode.
        observations: One array a sensor.
        reward: Since the agent's last message.
        done: Whether its episode ended.
        interrupted: By the step limit.
        mask: Of all branches, true where an action is forbidden; empty where the agent never forbade one.
        group_reward: Of its group.
    """

    agent_id: int
    observations: list[np.ndarray[Any, Any]]
    reward: float = 0.0
    done: bool = False
    interrupted: bool = False
    mask: list[bool] = field(default_factory=list)
    group_reward: float = 0.0


@dataclass(frozen=True)
class Behavior:
    """A kind of agents: its name, sensors and actions.

    Attributes:
        name: As `Basic?team=0`.
        continuous: How many continuous actions.
        branches: Sizes of the discrete ones.
        compressed: Whether its pictures travel as PNG.
    """

    name: str
    continuous: int = 0
    branches: tuple[int, ...] = ()
    compressed: bool = False


# Continuous (A,) and discrete (K,) actions of each agent that asked for one, in order.
Actions = Sequence[tuple[Sequence[float], Sequence[int]]]
Infos = dict[str, list[Info]]


class Scene:
    """A scene: infos out, actions in.

    Attributes:
        behaviors: Of its agents.
        parameters: Environment parameters as they arrived.
    """

    behaviors: tuple[Behavior, ...]

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.parameters = dict[str, float]()
        self.ids = itertools.count()

    def reset(self) -> Infos:
        """Every agent begins an episode."""
        raise NotImplementedError

    def step(self, actions: dict[str, Actions]) -> Infos:
        """Steps the scene until its next message."""
        raise NotImplementedError


class Basic(Scene):
    """A line of 20 places: begin at 10, a small goal at 7, a large one at 17."""

    behaviors: tuple[Behavior, ...] = (Behavior("Basic?team=0", branches=(3,)),)

    def reset(self) -> Infos:
        """The agent stands at 10."""
        self.agent_id = next(self.ids)
        self.place = 10
        return {"Basic?team=0": [Info(self.agent_id, [self._seen()])]}

    def step(self, actions: dict[str, Actions]) -> Infos:
        """0 stays, 1 goes left, 2 goes right."""
        ((_, (action,)),) = actions["Basic?team=0"]
        self.place = min(19, max(0, self.place + (0, -1, 1)[action]))
        reward = -0.01 + {7: self.parameters.get("small_goal", 0.1), 17: 1.0}.get(self.place, 0.0)
        if self.place not in (7, 17):
            return {"Basic?team=0": [Info(self.agent_id, [self._seen()], reward)]}
        last = Info(self.agent_id, [self._seen()], reward, done=True)
        return {"Basic?team=0": [last, *self.reset()["Basic?team=0"]]}

    def _seen(self) -> np.ndarray[Any, Any]:
        seen: np.ndarray[Any, Any] = np.eye(20, dtype=np.float32)[self.place]
        return seen


class Balls(Scene):
    """Unity's 3DBall: 12 plates that tilt, a ball on each; +0.1 a step, -1 for a ball that falls, 1,000 steps."""

    behaviors = (Behavior("3DBall?team=0", continuous=2),)
    _agents = 12
    _steps = 1000
    _edge = 2.5

    def reset(self) -> Infos:
        """Every ball is dropped near the middle of its plate."""
        n = self._agents
        self.tilt = np.zeros((n, 2))
        self.ball = np.zeros((n, 2))
        self.speed = np.zeros((n, 2))
        self.agent_ids = np.zeros(n, int)
        self.age = np.zeros(n, int)
        for agent in range(n):
            self._begin(agent)
        return {"3DBall?team=0": [self._info(agent) for agent in range(n)]}

    def step(self, actions: dict[str, Actions]) -> Infos:
        """Tilts by at most 2 degrees an axis."""
        wish = np.clip([action for action, _ in actions["3DBall?team=0"]], -1, 1)
        self.tilt = np.clip(self.tilt + 0.07 * wish, -0.25, 0.25)
        self.speed += 1.0 * self.tilt + 0.01 * self.random.standard_normal(self.speed.shape)
        self.ball += 0.1 * self.speed
        self.age += 1
        fallen = np.abs(self.ball).max(axis=1) > self._edge
        found = []
        new = []
        for agent in range(self._agents):
            is_old = self.age[agent] >= self._steps
            ends = bool(fallen[agent] or is_old)
            found.append(self._info(agent, -1.0 if fallen[agent] else 0.1, done=ends, interrupted=ends and is_old))
            if ends:
                self._begin(agent)
                new.append(self._info(agent))
        return {"3DBall?team=0": sorted([*found, *new], key=lambda info: info.done, reverse=True)}

    def _begin(self, agent: int) -> None:
        self.agent_ids[agent] = next(self.ids)
        self.age[agent] = 0
        self.tilt[agent] = self.random.uniform(-0.1, 0.1, 2)
        self.speed[agent] = 0.0
        self.ball[agent] = self.random.uniform(-1.5, 1.5, 2)

    def _info(self, agent: int, reward: float = 0.0, **ends: bool) -> Info:
        x, z = self.ball[agent]
        seen = [*self.tilt[agent], x, 4.0, z, self.speed[agent, 0], 0.0, self.speed[agent, 1]]
        return Info(int(self.agent_ids[agent]), [np.array(seen, np.float32)], reward, mask=[], **ends)


class OneBall(Balls):
    """The same with one agent, which is all that gym-unity's wrapper takes."""

    _agents = 1


class GridWorld(Scene):
    """A picture of a 5x5 grid: reach the green field, not the red one; walls are forbidden by mask."""

    behaviors = (Behavior("GridWorld?team=0", branches=(5,), compressed=True),)
    size = 5
    scale = 8
    steps = 100
    moves = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))

    def reset(self) -> Infos:
        """Agent, goal and pit stand anywhere."""
        self.agent_id = next(self.ids)
        self.age = 0
        fields = self.random.choice(self.size**2, 3, replace=False)
        self.agent, self.goal, self.pit = (divmod(int(place), self.size) for place in fields)
        return {self.behaviors[0].name: [self._info()]}

    def step(self, actions: dict[str, Actions]) -> Infos:
        """0 stays, then left, right, up, down."""
        ((_, (action,)),) = actions[self.behaviors[0].name]
        row, column = self.agent[0] + self.moves[action][0], self.agent[1] + self.moves[action][1]
        if not (0 <= row < self.size and 0 <= column < self.size):
            raise ValueError(f"action {action} was forbidden at {self.agent}")
        self.agent = (row, column)
        self.age = self.age + 1
        reward = -0.01 + {self.goal: 1.0, self.pit: -1.0}.get(self.agent, 0.0)
        is_old = self.age >= self.steps
        if self.agent not in (self.goal, self.pit) and not is_old:
            return {self.behaviors[0].name: [self._info(reward)]}
        last = self._info(reward, done=True, interrupted=is_old)
        return {self.behaviors[0].name: [last, *self.reset()[self.behaviors[0].name]]}

    def _info(self, reward: float = 0.0, **ends: bool) -> Info:
        picture = np.zeros((self.size, self.size, 3), np.float32)
        picture[self.goal], picture[self.pit], picture[self.agent] = (0, 1, 0), (1, 0, 0), (0, 0, 1)
        picture = np.kron(picture, np.ones((self.scale, self.scale, 1), np.float32))
        to = [(self.agent[0] + row, self.agent[1] + column) for row, column in self.moves]
        mask = [not (0 <= row < self.size and 0 <= column < self.size) for row, column in to]
        # A player sends no mask until one of its agents forbids something.
        return Info(self.agent_id, [picture], reward, mask=mask if any(mask) else [], **ends)


class FloatGridWorld(GridWorld):
    """The same with pictures as floats."""

    behaviors = (Behavior("GridWorld?team=0", branches=(5,)),)


class Sensors(Scene):
    """Four sensors, hybrid actions: the reward tells which actions arrived."""

    behaviors = (Behavior("Sensors?team=1", continuous=2, branches=(3, 2)),)

    def reset(self) -> Infos:
        """Two agents."""
        self.agent_ids = [next(self.ids), next(self.ids)]
        self.age = 0
        return {"Sensors?team=1": [self._info(0), self._info(1)]}

    def step(self, actions: dict[str, Actions]) -> Infos:
        """The second branch's second action is forbidden to agents on odd steps."""
        self.age += 1
        rewards = []
        for (x, y), (first, second) in actions["Sensors?team=1"]:
            if second == 1 and self.age % 2 == 0:  # it was asked for on an odd one
                raise ValueError("a forbidden action was taken")
            rewards.append(float(x) + 10 * float(y) + 100 * first + 1000 * second)
        ends = self.age % 10 == 0
        found = [self._info(agent, reward, done=ends) for agent, reward in enumerate(rewards)]
        return {"Sensors?team=1": [*found, *(self.reset()["Sensors?team=1"] if ends else [])]}

    def _info(self, agent: int, reward: float = 0.0, **ends: bool) -> Info:
        mark = self.agent_ids[agent] + self.age / 16
        sensors = [
            np.full(3, mark, np.float32),
            np.full((2, 4), -mark, np.float32),
            np.full((6, 5, 1), math.fmod(mark, 1), np.float32),
        ]
        mask = [False, False, False, False, self.age % 2 == 1]
        return Info(self.agent_ids[agent], sensors, reward, mask=mask, group_reward=0.5, **ends)


class Hybrid(Sensors):
    """The same without the picture."""

    def _info(self, agent: int, reward: float = 0.0, **ends: bool) -> Info:
        info = super()._info(agent, reward, **ends)
        return replace(info, observations=info.observations[:2])


class Staggered(Scene):
    """Agents that ask at different times, stay away after an episode, and sometimes end before they ever asked.

    Agent k asks every k + 1 steps of the scene; an episode lasts 3 + k decisions; odd agents are interrupted.
    An agent that ended is away for two steps. The observation is [agent, decision of the episode, step of the scene],
    the reward of a decision is 1 + agent / 4 for each step that it waited for.
    """

    behaviors = (Behavior("Staggered?team=0", continuous=1),)
    agents = 3

    def reset(self) -> Infos:
        """All ask at once."""
        self.now = 0
        self.agent_ids = [next(self.ids) for _ in range(self.agents)]
        self.decisions = [0] * self.agents
        self.back_at = [0] * self.agents
        self.asked_at = [0] * self.agents
        return {"Staggered?team=0": [self._info(agent) for agent in range(self.agents)]}

    def step(self, actions: dict[str, Actions]) -> Infos:
        """Steps until some agent has a message; at times one begins and ends within a step."""
        while True:
            self.now += 1
            found = [info for agent in range(self.agents) for info in self._advance(agent)]
            if self.now % 7 == 0:
                found.append(Info(next(self.ids), [np.array([-1, 0, self.now], np.float32)], 5.0, done=True))
            if found:
                return {"Staggered?team=0": found}

    def _advance(self, agent: int) -> list[Info]:
        if self.back_at[agent] > self.now:
            return []
        if self.back_at[agent] == self.now:
            self.agent_ids[agent] = next(self.ids)
            self.decisions[agent] = 0
            self.asked_at[agent] = self.now
            return [self._info(agent)]
        waited = self.now - self.asked_at[agent]
        if waited < agent + 1:
            return []
        self.decisions[agent] += 1
        self.asked_at[agent] = self.now
        ends = self.decisions[agent] == 3 + agent
        if ends:
            self.back_at[agent] = self.now + 2
        return [self._info(agent, waited * (1 + agent / 4), done=ends, interrupted=ends and agent % 2 == 1)]

    def _info(self, agent: int, reward: float = 0.0, **ends: bool) -> Info:
        seen = np.array([agent, self.decisions[agent], self.now], np.float32)
        return Info(self.agent_ids[agent], [seen], reward, mask=[], **ends)


class Two(Basic):
    """Basic, and an agent of another behavior beside it."""

    behaviors = (Behavior("Basic?team=0", branches=(3,)), Behavior("Walker?team=0", continuous=2))

    def reset(self) -> Infos:
        """Both begin."""
        return {**super().reset(), "Walker?team=0": [Info(1000, [np.zeros(4, np.float32)])]}

    def step(self, actions: dict[str, Actions]) -> Infos:
        """Both go on; the walker is paid for standing still."""
        ((moves, _),) = actions["Walker?team=0"]
        return {
            **super().step(actions),
            "Walker?team=0": [Info(1000, [np.zeros(4, np.float32)], -float(np.abs(moves).sum()))],
        }


SCENES: dict[str, type[Scene]] = {
    "Basic": Basic,
    "3DBall": Balls,
    "OneBall": OneBall,
    "GridWorld": GridWorld,
    "FloatGridWorld": FloatGridWorld,
    "Sensors": Sensors,
    "Hybrid": Hybrid,
    "Staggered": Staggered,
    "Two": Two,
}


def to_png(picture: np.ndarray[Any, Any]) -> bytes:
    """(H, W, 3) in 0..1 as PNG."""
    file = io.BytesIO()
    Image.fromarray((picture * 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
