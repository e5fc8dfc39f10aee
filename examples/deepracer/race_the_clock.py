"""A reward function for fast laps: the progress of each step against a target time, and the finish.

It remembers the last step; each car runs the file for itself. Train with it: see README.md beside this file.
"""

# mypy: ignore-errors
# Without types: DeepRacer's console refuses the import of typing.

STEPS_A_SECOND = 15
TARGET_SPEED = 2.0  # m/s along the center line, at which a step pays 1
MOST = 3.0  # a step; more is the finish line, or a car that was put back
FINISH = 50.0  # for a lap in the target time; a faster one gets more

last = {"steps": 0, "progress": 0.0}


def reward_function(params):
    """Pays the share of the target speed that the last step made, and a bonus at the finish."""
    is_next = params["steps"] == last["steps"] + 1
    gained_m = (params["progress"] - last["progress"]) / 100 * params["track_length"] if is_next else 0.0
    last.update(steps=params["steps"], progress=params["progress"])
    if params["is_offtrack"] or params["is_crashed"]:
        return 0.0
    pace = gained_m * STEPS_A_SECOND / TARGET_SPEED
    reward = max(0.0, pace) if pace < MOST else 0.0
    if params["progress"] >= 100:
        target_steps = params["track_length"] / TARGET_SPEED * STEPS_A_SECOND
        reward += FINISH * target_steps / max(params["steps"], 1)
    return float(reward)
