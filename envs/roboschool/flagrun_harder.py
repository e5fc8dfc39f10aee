"""Course of HumanoidFlagrunHarder: flags, starts from the ground, and cubes thrown at the robot."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence

import numpy as np

from envs.roboschool.courses import FlagRun
from envs.roboschool.native_world import TASKS_REMEMBERED
from envs.roboschool.walker import Walker
from envs.roboschool.world import data_file

# Compiled code holds these too; by this line envs.compiled knows that they come from here.
WALK, STAND_UP, ROLL_OVER = range(3)
# The base's height in m and pitch in rad at the start of each task.
START_HEIGHTS_M = (1.4, 0.45, 0.22)
START_PITCHES = (0.0, math.pi / 2, math.pi * 3 / 2 - 0.15)
STEP_LIMIT = 1000  # the registration's: an episode that lasts so long has not failed
STANDING_Z_M = 0.8
STEPS_ON_GROUND_AT_MOST = 170
THROW_EVERY = 30
THROWS_AFTER = 100
THROW_FROM_M = 4.0
CUBE_MASS_KG = 1.2
CUBE_HALF_SIZE_M = 0.05
CUBE_START_M = (-1.5, 0.0, 0.05)
_CUBE_COLOR = (0.85, 0.35, 0.1, 1.0)
LEAK_TO_POTENTIAL = 100.0  # 1 / (1 - gamma) for the gamma of 0.99 that Roboschool assumes


class FlagRunHarder:
    """Flags under attack; the alive reward is the leak of a potential, so that getting up is rewarded at once.

    An episode starts on the feet, on the back or on the belly, the more often the more often that start failed. One
    that starts on the feet ends when the robot goes down, the others after 170 steps on the ground.
    With `as_port`: no lying starts, the port's leak (z / 0.8 + 1), its smaller cube and undivided electricity cost.
    Not reproducible from its seed: with the cube as a second body, one world in ten rounds unlike the others from the
    first steps on, and contacts with it depend on memory that Bullet 3.2.7 leaves uninitialized (with glibc's
    MALLOC_PERTURB_ set, 16 of 16 worlds agree; without, 11 to 14 of 16).

    Source: openai/roboschool 1.0.49; for the port pybullet_envs_gymnasium 0.6.0.
    """

    def __init__(self, *, as_port: bool) -> None:
        self.flags = FlagRun(as_port=as_port)
        self._as_port = as_port
        self.forget()
        self._begin()

    def show_target(self, walker: Walker, target: tuple[float, float]) -> None:
        """Moves the ball to the target."""
        self.flags.show_target(walker, target)

    def forget(self) -> None:
        """Clears the record of which tasks failed."""
        self._task = WALK
        self._steps = 0
        self._successes: list[collections.deque[bool]]
        self._successes = [collections.deque(maxlen=TASKS_REMEMBERED) for _ in range(3)]

    def _begin(self) -> None:
        self._steps = self._steps_on_ground = 0
        self._is_down = False
        self._crawl_start: float | None = None
        self._crawl_ignored = 0.0

    @property
    def target(self) -> tuple[float, float]:
        """Position of the flag, x and y in m."""
        return self.flags.target

    @target.setter
    def target(self, xy: tuple[float, float]) -> None:
        self.flags.target = xy

    def place(self, walker: Walker) -> None:
        """Adds the flag and the cube to the world."""
        self.flags.place(walker)
        p, client = walker.world.api, walker.world.client
        if self._as_port:
            self.cube = p.loadURDF(data_file("cube_small.urdf"), CUBE_START_M, physicsClientId=client)
            p.changeDynamics(self.cube, -1, mass=CUBE_MASS_KG, physicsClientId=client)
        else:
            half = {"halfExtents": [CUBE_HALF_SIZE_M] * 3}
            box = p.createCollisionShape(p.GEOM_BOX, **half, physicsClientId=client)
            seen = p.createVisualShape(p.GEOM_BOX, **half, rgbaColor=_CUBE_COLOR, physicsClientId=client)
            self.cube = p.createMultiBody(CUBE_MASS_KG, box, seen, CUBE_START_M, physicsClientId=client)
        # The pelvis counts in the height by 30 %.
        self.pelvis = walker.world.link_names(walker.body)["pelvis"]

    def start(self, walker: Walker, rng: np.random.Generator) -> None:
        """Draws the next task by failure rate, poses the robot for it, and sets the first flag."""
        self._begin()
        if self._as_port:
            self.flags.start(walker, rng)
        else:
            self._pose(walker, rng)
            self.flags.place_first_flag(walker, rng)
        p, client = walker.world.api, walker.world.client
        p.resetBasePositionAndOrientation(self.cube, CUBE_START_M, (0, 0, 0, 1), physicsClientId=client)

    def _pose(self, walker: Walker, rng: np.random.Generator) -> None:
        failures = [1.0 - sum(past) / (1.0 + len(past)) for past in self._successes]
        at = rng.uniform() * (failures[0] + failures[1] + failures[2])
        self._task = int(at >= failures[0]) + int(at >= failures[0] + failures[1])
        spread = self.flags.straight.yaw_spread
        yaw = float(rng.uniform(-spread, spread))
        height, pitch = START_HEIGHTS_M[self._task], START_PITCHES[self._task]
        walker.lay_down(height_m=height, roll=0.0, pitch=pitch, yaw=yaw)

    def tick(self, walker: Walker, rng: np.random.Generator) -> None:
        """Moves the flag."""
        self.flags.tick(walker, rng)

    def alive(self, walker: Walker, z: float, rng: np.random.Generator) -> float:
        """Returns the alive reward: the leak of the potential; negative after 170 steps on the ground."""
        on_feet = self._steps_on_ground == 0
        if on_feet and self._steps > THROWS_AFTER and self._steps % THROW_EVERY == 0:
            self._throw_cube(walker, rng)
        self._is_down = z < STANDING_Z_M
        if self._is_down:
            self._steps_on_ground += 1
        elif self._steps_on_ground > 0:
            self._steps_on_ground -= 1
        self._steps += 1
        may_not_fall = self._task == WALK and not self._as_port
        has_failed = self._steps_on_ground >= (1 if may_not_fall else STEPS_ON_GROUND_AT_MOST)
        if has_failed or self._steps == STEP_LIMIT:
            self._successes[self._task].append(self._steps == STEP_LIMIT)
        return -1.0 if has_failed else self._leak(walker)

    def _leak(self, walker: Walker) -> float:
        torso_z = walker.torso_xyz[2]
        if self._as_port:
            return float(min(max(torso_z, 0.0), 0.8) / 0.8 + 1.0)
        pelvis_z = walker.link_states[self.pelvis][0][2]
        height = min(max(0.7 * torso_z + 0.3 * pelvis_z, 0.0), 0.7)
        return float(0.5 + 1.5 * (height / 0.7))

    def _throw_cube(self, walker: Walker, rng: np.random.Generator) -> None:
        """Throws the cube so that it meets the robot where it will be."""
        p, client = walker.world.api, walker.world.client
        angle = rng.uniform(-3.14, 3.14)
        speed_mps = rng.uniform(20.0, 30.0)
        travel_s = THROW_FROM_M / speed_mps
        place = walker.mean_x, walker.mean_y, walker.torso_xyz[2]
        aim = [p + v * travel_s for p, v in zip(place, walker.torso_velocity, strict=True)]
        away = THROW_FROM_M * math.cos(angle), THROW_FROM_M * math.sin(angle), 1.0
        start = [a + b for a, b in zip(aim, away, strict=True)]
        ahead = [a - b for a, b in zip(aim, start, strict=True)]
        length = math.sqrt(ahead[0] * ahead[0] + ahead[1] * ahead[1] + ahead[2] * ahead[2])
        velocity = [part * (speed_mps / length) + rng.uniform(-1.0, 1.0) for part in ahead]
        turn: Sequence[float] = (0.0, 0.0, 0.0, 1.0)
        if self._as_port:
            _, turn = p.getBasePositionAndOrientation(self.cube, physicsClientId=client)
        p.resetBasePositionAndOrientation(self.cube, start, turn, physicsClientId=client)
        p.resetBaseVelocity(self.cube, velocity, (0, 0, 0), physicsClientId=client)

    def potential(self, walker: Walker, distance_m: float) -> float:
        """Progress to the flag made on foot, plus the potential that the alive reward leaks from."""
        progress = self.flags.potential(walker, distance_m)
        if walker.torso_xyz[2] < STANDING_Z_M:
            if self._crawl_start is None:
                self._crawl_start = progress - self._crawl_ignored
            self._crawl_ignored = progress - self._crawl_start
            progress = self._crawl_start
        else:
            progress -= self._crawl_ignored
            self._crawl_start = None
        return progress + LEAK_TO_POTENTIAL * self._leak(walker)

    def potential_before(self, walker: Walker, remembered: float) -> float:
        """Recomputed after a move of the flag, so that the move itself gives no reward."""
        if self.flags.has_moved:
            return self.potential(walker, walker.target_distance)
        return remembered

    def electricity_factor(self, walker: Walker) -> float:
        """Returns 0.2 while the robot is down, else 0.5; the port's own division had no effect."""
        if self._as_port:
            return 1.0
        return 0.2 if self._is_down else 0.5
