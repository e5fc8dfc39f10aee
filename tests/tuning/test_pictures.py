"""The pictures of a tuning: the best trial stands out among all."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from runtime.tuning.pictures import draw_parallel
from runtime.tuning.records import Record, gather_trials
from runtime.tuning.request import parse_job
from tests.tuning.test_tuning_job import words


def test_the_best_trial_is_the_thick_red_line_on_top() -> None:
    job = parse_job(words(), source="a test")
    objectives = {1e-4: 1.0, 1e-3: 3.0, 1e-2: 2.0}
    trials = gather_trials(
        Record(number, 1, "completed", {"rl.training.config.lr": lr}, "", objective, 5)
        for number, (lr, objective) in enumerate(objectives.items(), start=1)
    )
    axes = Figure().add_subplot()
    draw_parallel(axes, job, trials, trials[1])
    lines = [line for line in axes.lines if np.array_equal(line.get_xdata(), [0, 1])]
    ends = [float(np.asarray(line.get_ydata())[1]) for line in lines]
    assert sorted(ends) == [0.0, 0.5, 1.0]
    assert ends[-1] == 1.0  # drawn last
    assert [to_hex(line.get_color()) == "#d62728" for line in lines] == [False, False, True]
    assert [line.get_linewidth() > 1 for line in lines] == [False, False, True]
