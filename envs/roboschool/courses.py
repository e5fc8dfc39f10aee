"""Courses of the walking robots: the target they run to, straight ahead or flags that move, and its potential.

`Walker` calls its course at fixed points of a step; the course holds the state that outlives a step, such as the flag.
"""

from __future__ import annotations

import numpy as np

from envs.roboschool.walker import Walker
from envs.roboschool.world import STEP_S, data_file

FIELD_HALF_LENGTH_M = 105 * 0.25
FIELD_HALF_WIDTH_M = 50 * 0.25
_FLAG_COMPACTNESS = 0.5
_FLAG_TIMEOUT_STEPS = 600 // 4
_FLAG_REACHED_M = 1.0
_FLAG_HEIGHT_M = 0.7


class StraightAhead:
    """A target one kilometer ahead that never moves."""

    def __init__(self, *, start_height_m: float | None = None, yaw_spread: float = 0.0) -> None:
        self.target = (1e3, 0.0)
        self.start_height_m = start_height_m
        self.yaw_spread = yaw_spread

    def place(self, walker: Walker) -> None:
        """Adds no bodies."""

    def show_target(self, walker: Walker, target: tuple[float, float]) -> None:
        """Does nothing: there is no flag."""

    def forget(self) -> None:
        """Does nothing: no state outlives an episode."""

    def start(self, walker: Walker, rng: np.random.Generator) -> None:
        """Lifts and turns the robot where the robot's rules ask for it (Humanoid)."""
        if self.start_height_m is not None:
            yaw = rng.uniform(-self.yaw_spread, self.yaw_spread)
            walker.lay_down(height_m=self.start_height_m, roll=0.0, pitch=0.0, yaw=yaw)

    def tick(self, walker: Walker, rng: np.random.Generator) -> None:
        """Leaves the target where it is."""

    def alive(self, walker: Walker, z: float, rng: np.random.Generator) -> float:
        """Returns the alive reward by the robot's own rule."""
        return walker.spec.alive(z, walker.pitch, walker.feet_flags)

    def potential(self, walker: Walker, distance_m: float) -> float:
        """Minus the distance in m, over the step in s: walking at v m/s earns a reward of v."""
        return -distance_m / STEP_S

    def potential_before(self, walker: Walker, remembered: float) -> float:
        """Returns the potential of the step before."""
        return remembered

    def electricity_factor(self, walker: Walker) -> float:
        """1: the full cost."""
        return 1.0


class FlagRun:
    """Flags that appear on a field; each is replaced when it is reached, or after 150 steps.

    With `as_port` the first flag is anywhere and moving the flag makes the reward jump, as in pybullet_envs_gymnasium.
    """

    def __init__(self, *, as_port: bool) -> None:
        self.target = (0.0, 0.0)
        self._as_port = as_port
        self.straight = StraightAhead(start_height_m=None if as_port else 1.4, yaw_spread=np.pi / 16)
        self.has_moved = False

    def place(self, walker: Walker) -> None:
        """Adds a red ball that touches nothing, as the flag."""
        p, client = walker.world.api, walker.world.client
        self._ball = p.loadURDF(data_file("sphere2red_nocol.urdf"), (0, 0, _FLAG_HEIGHT_M), physicsClientId=client)

    def show_target(self, walker: Walker, target: tuple[float, float]) -> None:
        """Moves the ball to the target."""
        self._move_flag(walker, *target)

    def forget(self) -> None:
        """Does nothing: no state outlives an episode."""

    def start(self, walker: Walker, rng: np.random.Generator) -> None:
        """Poses the robot and sets the first flag."""
        self.straight.start(walker, rng)
        self.place_first_flag(walker, rng)

    def place_first_flag(self, walker: Walker, rng: np.random.Generator) -> None:
        """Sets the first flag of an episode, half of the time straight ahead, which favors a symmetric gait."""
        if not self._as_port and rng.uniform() < 0.5:
            half = FIELD_HALF_LENGTH_M * _FLAG_COMPACTNESS
            self._move_flag(walker, rng.uniform(half, 2 * half), 0.0)
        else:
            self._move_flag_anywhere(walker, rng)

    def _move_flag_anywhere(self, walker: Walker, rng: np.random.Generator) -> None:
        """Moves the flag to a random place on the middle half of the field."""
        x = rng.uniform(-FIELD_HALF_LENGTH_M, FIELD_HALF_LENGTH_M)
        y = rng.uniform(-FIELD_HALF_WIDTH_M, FIELD_HALF_WIDTH_M)
        self._move_flag(walker, x * _FLAG_COMPACTNESS, y * _FLAG_COMPACTNESS)

    def _move_flag(self, walker: Walker, x: float, y: float) -> None:
        self.target = (float(x), float(y))
        self._steps_left = _FLAG_TIMEOUT_STEPS
        place = (*self.target, _FLAG_HEIGHT_M)
        walker.world.api.resetBasePositionAndOrientation(
            self._ball, place, (0, 0, 0, 1), physicsClientId=walker.world.client
        )

    def tick(self, walker: Walker, rng: np.random.Generator) -> None:
        """Counts down and moves the flag when it is reached or has timed out."""
        self._steps_left -= 1
        self.has_moved = walker.target_distance < _FLAG_REACHED_M or self._steps_left <= 0
        if self.has_moved:
            self._move_flag_anywhere(walker, rng)

    def alive(self, walker: Walker, z: float, rng: np.random.Generator) -> float:
        """Returns the alive reward by the robot's own rule."""
        return walker.spec.alive(z, walker.pitch, walker.feet_flags)

    def potential(self, walker: Walker, distance_m: float) -> float:
        """Minus the distance to the flag in m, over the step in s."""
        return -distance_m / STEP_S

    def potential_before(self, walker: Walker, remembered: float) -> float:
        """Recomputed after a move of the flag, so that the move itself gives no reward."""
        return self.potential(walker, walker.target_distance) if self.has_moved else remembered

    def electricity_factor(self, walker: Walker) -> float:
        """One half; the port lacks this factor."""
        return 1.0 if self._as_port else 0.5
