"""The five notebooks with `where = "docker"`, from top to bottom, on tiny jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SHORT_RACES, TINY
from tests.examples.test_notebooks import SHORT, kinds_of, result_of, run_notebook
from tests.unity_stand_in import build_player

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.ray]


def test_robots_are_trained_evaluated_and_served(image: str, tmp_path: Path) -> None:
    cells = run_notebook("robots.ipynb", tmp_path, image=image, hyperparameters=SHORT, episodes=2)
    assert kinds_of(cells.outputs("job.show(")) == ["image/png", "text/html"]
    mean, least, most = result_of(cells.outputs("evaluation ="))
    assert least <= mean <= most
    (action,) = result_of(cells.outputs("endpoint ="))
    assert len(action) == 2
    assert len(result_of(cells.outputs("endpoint.predict("))["predictions"]) == 2


def test_a_unity_build_is_trained_evaluated_and_served(image: str, tmp_path: Path) -> None:
    name = "basic_env_linux.x86_64"
    build_player(tmp_path / "build", "Basic", name=name, is_for_image=True)
    settings = {
        **{"rl.training.config.train_batch_size": "240", "rl.training.config.minibatch_size": "60"},
        **{"rl.training.config.num_env_runners": "0", "rl.training.stop.training_iteration": "2"},
    }
    build: dict[str, Any] = {"folder": str(tmp_path / "build"), "executable": name}
    cells = run_notebook("unity.ipynb", tmp_path, image=image, **build, hyperparameters=settings, episodes=2)
    assert len(result_of(cells.outputs("endpoint ="))["predictions"]) == 1


def test_hyperparameters_are_tuned(image: str, tmp_path: Path) -> None:
    static = {**TINY, "rl.training.stop.timesteps_total": 640}
    cells = run_notebook("tuning.ipynb", tmp_path, image=image, max_jobs=2, static_hyperparameters=static)
    shown = cells.outputs("for name in")
    text = "".join(output.text for output in shown if output.output_type == "stream")
    assert "tuned for episode_reward_mean" in text


def test_a_log_is_learned_from_and_the_loop_closes(image: str, tmp_path: Path) -> None:
    settings = {"rl.training.config.updates_per_iteration": 100, "rl.training.stop.training_iteration": 3}
    size: dict[str, Any] = {"envs": 30, "episodes": 2, "evaluate_steps": 100}
    cells = run_notebook("batch_rl.ipynb", tmp_path, image=image, **size, hyperparameters=settings)
    assert kinds_of(cells.outputs("job.show(")) == ["image/png"]
    assert result_of(cells.outputs("evaluation =")) > 5
    assert len((tmp_path / "batch-rl" / "again.csv").read_text().splitlines()) == 1 + 30


def test_a_deepracer_car_is_trained_and_raced(image: str, tmp_path: Path) -> None:
    settings = dict(word.split("=") for word in SHORT_RACES)
    settings |= {"rl.training.stop.training_iteration": "1", "rl.training.config.num_env_runners": "0"}
    settings |= {"rl.training.export": "false", "rl.training.config.model.head_fcnet_hiddens": "[16]"}
    settings |= {"rl.training.config.model.conv_filters": "[[8, 8, 8], [8, 4, 4]]"}
    cells = run_notebook("deepracer.ipynb", tmp_path, image=image, hyperparameters=settings, trials=1)
    assert kinds_of(cells.outputs("laps =")) == ["image/png", "text/html"]
    assert kinds_of(cells.outputs("race =")).count("image/png") == 2
