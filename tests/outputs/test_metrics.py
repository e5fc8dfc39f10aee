from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.outputs.metrics import MetricsLog, metric_line, read_rows, tag_of
from runtime.settings.schema import StopCriteria
from runtime.settings.stop_criteria import reached

# SageMaker's default metric definitions for the Ray toolkit (sagemaker 2.257.7).
MEAN = re.compile(r"episode_reward_mean: ([-+]?[0-9]*[.]?[0-9]+([eE][-+]?[0-9]+)?)")
MAX = re.compile(r"episode_reward_max: ([-+]?[0-9]*[.]?[0-9]+([eE][-+]?[0-9]+)?)")


@given(st.floats(-1e30, 1e30), st.floats(-1e30, 1e30))
def test_sagemakers_regexes_find_the_very_numbers(mean: float, most: float) -> None:
    line = metric_line({"training_iteration": 3, "episode_reward_mean": mean, "episode_reward_max": most, "kl": 0.1})
    for regex, value in ((MEAN, mean), (MAX, most)):
        found = regex.findall(line)
        assert len(found) == 1
        assert math.isclose(float(found[0][0]), value, rel_tol=1e-5, abs_tol=1e-300)


def test_a_line_leaves_out_what_is_not_finite() -> None:
    line = metric_line({"training_iteration": 1, "episode_reward_mean": math.nan, "kl": math.inf})
    assert line == "training_iteration: 1"


def test_metrics_go_on_from_earlier_rows_without_duplicates(tmp_path: Path) -> None:
    first = MetricsLog(tmp_path, [])
    for iteration in (1, 2, 3):
        first.write({"training_iteration": iteration, "timesteps_total": 10 * iteration})
    first.close()
    resumed = MetricsLog(tmp_path, read_rows(tmp_path / "metrics.jsonl")[:2])
    resumed.write({"training_iteration": 3, "timesteps_total": 31})
    resumed.close()
    assert [row["timesteps_total"] for row in read_rows(tmp_path / "metrics.jsonl")] == [10, 20, 31]


def test_tensorboard_reads_the_events_that_we_write(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricsLog(tmp_path, [])
    log.write({"training_iteration": 1, "timesteps_total": 100, "episode_reward_mean": 1.5})
    log.write({"training_iteration": 2, "timesteps_total": 200, "episode_reward_mean": 2.5})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("rollout/episode_reward_mean")] == [(100, 1.5), (200, 2.5)]
    assert {"time/training_iteration", "time/timesteps_total"} <= set(events.Tags()["scalars"])


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("episode_len_mean", "rollout/episode_len_mean"),
        ("episodes_total", "time/episodes_total"),
        ("env_runners_lost", "time/env_runners_lost"),
        ("vf_loss", "train/vf_loss"),
        ("weighted_doubly_robust", "estimates/weighted_doubly_robust"),
    ],
)
def test_tensorboard_groups_metrics(name: str, tag: str) -> None:
    assert tag_of(name) == tag


def test_tensorboards_hparams_tab_has_the_settings_and_metrics_of_every_algorithm(tmp_path: Path) -> None:
    from tensorboard import context
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams.backend_context import Context

    for run, settings, loss in (("ppo", {"config.clip_param": 0.5}, "vf_loss"), ("sac", {"config.tau": 0.25}, "alpha")):
        log = MetricsLog(tmp_path / run, [])
        log.describe({**settings, "config.use_gae": True, "config.model.fcnet_hiddens": [8, 8]})
        log.write({"training_iteration": 1, "timesteps_total": 100, loss: 1.0})
        log.close()
    runs = EventMultiplexer()
    runs.AddRunsFromDirectory(str(tmp_path))
    runs.Reload()
    plugin = Context(TBContext(data_provider=MultiplexerDataProvider(runs, str(tmp_path))))
    request = context.RequestContext()
    found = plugin.experiment_from_metadata(request, "", True, plugin.hparams_metadata(request, ""), [])
    names = {"config.clip_param", "config.tau", "config.use_gae", "config.model.fcnet_hiddens"}
    assert {one.name for one in found.hparam_infos} == names
    assert {"train/vf_loss", "train/alpha"} <= {one.name.tag for one in found.metric_infos}


def test_a_last_line_cut_by_a_kill_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"training_iteration": 1}\n{"training_it')
    assert read_rows(path) == [{"training_iteration": 1}]


def test_any_criterion_reached_stops() -> None:
    stop = StopCriteria(episode_reward_mean=18.0, timesteps_total=100)
    assert reached(stop, {"episode_reward_mean": 17.9, "timesteps_total": 99}, episodes_of_mean=0) is None
    assert reached(stop, {"timesteps_total": 100}, episodes_of_mean=0) == "timesteps_total 100 reached 100"
    many = {"timesteps_total": 1_001_472}
    assert reached(stop, many, episodes_of_mean=0) == "timesteps_total 1,001,472 reached 100"


def test_a_mean_return_counts_once_it_is_of_enough_episodes() -> None:
    stop = StopCriteria(episode_reward_mean=18.0)
    row = {"episode_reward_mean": 20.0, "episodes_total": 99}
    assert reached(stop, row, episodes_of_mean=100) is None
    assert "episode_reward_mean" in (reached(stop, {**row, "episodes_total": 100}, episodes_of_mean=100) or "")
