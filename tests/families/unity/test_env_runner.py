"""The learner gets every decision of a scene's agents with its own result, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from runtime.container.signals import StopRequest
from runtime.environments.recording import Episode
from runtime.families.unity.evaluation import ScenePlay
from runtime.families.unity.trajectory import Trajectory, make_decisions
from runtime.jobs.catalog import resolve
from runtime.policies.masks import apply_mask
from runtime.policies.policy import Policy
from runtime.policies.rllib_filter import find_filter
from runtime.policies.spaces import ACTION_MASK
from runtime.settings.resolve import Source
from tests.unity_stand_in import build_player

pytestmark = [
    pytest.mark.ray,
    # mlagents-envs 0.28.0 compares versions with distutils, which Python 3.11 still has.
    pytest.mark.filterwarnings("ignore:distutils Version classes are deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The distutils package is deprecated:DeprecationWarning"),
]


@pytest.fixture
def runner(tmp_path: Path) -> Any:
    """Makes runners of stand-in scenes, as RLlib makes the one of the main process, and stops them."""
    from runtime.cluster.machines import Machines
    from runtime.environments.spec import EnvSpec
    from runtime.families.unity.env_runner import UnityRunner
    from runtime.families.unity.family import UnityFamily
    from runtime.families.unity.scene import close_probed_scene
    from runtime.ppo.rllib_config import rllib_config

    made: list[Any] = []

    def begin(scene: str, *, mode: str = "", **settings: Any) -> Any:
        path = build_player(tmp_path / "players", scene, mode=mode)
        values = {"rl.training.env": "Unity-v0", **{f"rl.training.config.{k}": v for k, v in settings.items()}}
        config = resolve([Source("a test", values)], extras=None)
        env = EnvSpec("Unity-v0", {"file_name": str(path), "log_folder": str(tmp_path / "logs")})
        rllib = rllib_config(config, env, UnityFamily(), Machines(1))
        made.append(UnityRunner(config=rllib, worker_index=0, num_workers=0))
        close_probed_scene()
        return made[-1]

    yield begin
    for one in made:
        one.stop()


def _sample(runner: Any, times: int, **settings: Any) -> list[SingleAgentEpisode]:
    return [episode for _ in range(times) for episode in runner.sample(**settings)]


def _learners_module(runner: Any) -> Any:
    """The network as a learner has it, with a value head, and the runner's weights."""
    spec = runner.config.get_rl_module_spec(spaces=runner.get_spaces(), inference_only=False)
    module = spec.build()
    module.load_state_dict(runner.module.state_dict(), strict=False)
    return module


def test_each_decision_of_staggered_agents_is_learned_from_once_with_its_own_result(runner: Any) -> None:
    """Agent k's decision t pays (k + 1)(1 + k / 4) and leads to decision t + 1, however the chunks are cut."""
    episodes = _sample(runner("Staggered"), 12, num_timesteps=25)
    ends = 0
    for episode in episodes:
        seen = episode.get_observations()
        agent = int(seen[0, 0])
        assert agent >= 0  # one that never asked is none of the learner's
        assert (seen[:, 0] == agent).all()
        np.testing.assert_array_equal(np.diff(seen[:, 1]), 1)
        np.testing.assert_array_equal(np.diff(seen[:, 2]), agent + 1)
        np.testing.assert_allclose(episode.get_rewards(), (agent + 1) * (1 + agent / 4))
        if episode.is_done:
            ends += 1
            assert seen[-1, 1] == 3 + agent
            assert episode.is_truncated == (agent % 2 == 1)
        assert len(episode.get_actions()) == len(episode) == len(seen) - 1
        assert episode.get_extra_model_outputs(Columns.ACTION_LOGP).shape == (len(episode),)
    assert ends > 30
    firsts = [(tuple(e.get_observations()[0].tolist())) for e in episodes]
    assert len(set(firsts)) == len(firsts)  # no decision twice
    decisions = sum(map(len, episodes))
    assert decisions >= 12 * 25
    assert decisions <= 12 * (25 + 2)


def test_whole_episodes_are_sampled_where_they_are_asked_for(runner: Any) -> None:
    one = runner("Staggered", batch_mode="complete_episodes")
    episodes = _sample(one, 6, num_timesteps=30)
    assert all(episode.is_done for episode in episodes)
    for episode in episodes:
        agent = int(episode.get_observations()[0, 0])
        assert len(episode) == 3 + agent


def test_without_exploration_the_likeliest_action_is_taken_and_its_probability_noted(runner: Any) -> None:
    for episode in _sample(runner("Basic", explore=False), 1, num_timesteps=30):
        logits = episode.get_extra_model_outputs(Columns.ACTION_DIST_INPUTS)
        np.testing.assert_array_equal(episode.get_actions(), logits.argmax(axis=1))
        expected = torch.log_softmax(torch.from_numpy(logits), -1).max(dim=-1).values.numpy()
        np.testing.assert_allclose(episode.get_extra_model_outputs(Columns.ACTION_LOGP), expected, rtol=1e-5)


def test_remote_runners_have_the_time_to_restart_a_silent_player(runner: Any) -> None:
    assert runner("Basic").config.sample_timeout_s >= 60 * 2 * 4


def test_a_runners_share_of_a_batch_counts_all_agents(runner: Any) -> None:
    one = runner("3DBall", train_batch_size=240, minibatch_size=60)
    assert sum(map(len, one.sample())) == 240


def test_what_an_agent_decided_before_its_player_failed_is_kept_as_cut_short(runner: Any, tmp_path: Path) -> None:
    one = runner("3DBall", mode=f"crash=5,once={tmp_path / 'once'}")
    episodes = one.sample(num_timesteps=12 * 8)
    lost = [episode for episode in episodes if episode.is_done and len(episode) == 3]
    assert len(lost) == 12
    assert all(episode.is_truncated and not episode.is_terminated for episode in lost)
    assert len(one.take_faults()) == 1


def test_actions_logits_and_probabilities_belong_together(runner: Any) -> None:
    one = runner("Hybrid")
    episodes = _sample(one, 2, num_timesteps=40)
    for episode in episodes:
        logits = torch.from_numpy(episode.get_extra_model_outputs(Columns.ACTION_DIST_INPUTS))
        numbers, choices = (torch.as_tensor(part) for part in episode.get_actions())
        distribution = one.module.get_train_action_dist_cls().from_logits(logits)
        found = distribution.logp((numbers, choices)).numpy()
        np.testing.assert_allclose(found, episode.get_extra_model_outputs(Columns.ACTION_LOGP), rtol=1e-5)
        paid = episode.get_rewards() - 0.5  # of the group
        arrived = numbers.numpy().clip(-1, 1)
        chosen = choices.numpy()
        expected = arrived[:, 0] + 10 * arrived[:, 1] + 100 * chosen[:, 0] + 1000 * chosen[:, 1]
        np.testing.assert_allclose(paid, expected, rtol=1e-4, atol=1e-3)


def test_a_forbidden_action_is_never_drawn_and_has_no_part_in_the_loss(runner: Any) -> None:
    one = runner("GridWorld")
    learner = _learners_module(one)
    forbidden = 0
    for episode in _sample(one, 3, num_timesteps=100):  # the stand-in ends where one is taken
        masks = episode.get_extra_model_outputs(ACTION_MASK)
        forbidden += int((~masks).sum())
        assert masks[np.arange(len(masks)), episode.get_actions()].all()
        batch = {
            Columns.OBS: torch.from_numpy(episode.get_observations()[:-1]),
            ACTION_MASK: torch.from_numpy(masks),
        }
        outputs = learner.forward_train(batch)[Columns.ACTION_DIST_INPUTS]
        np.testing.assert_allclose(
            outputs.detach().numpy(), episode.get_extra_model_outputs(Columns.ACTION_DIST_INPUTS), rtol=1e-4, atol=1e-5
        )
        assert (torch.softmax(outputs, -1)[~batch[ACTION_MASK]] == 0).all()
        outputs.logsumexp(-1).sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in learner.parameters() if p.grad is not None)
    assert forbidden > 50
    assert one.take_faults() == []


def test_an_entropy_under_a_mask_is_that_of_what_is_allowed() -> None:
    from ray.rllib.core.distribution.torch.torch_distribution import TorchCategorical

    logits = torch.tensor([[0.3, -1.0, 2.0, 0.1]])
    batch = {ACTION_MASK: torch.tensor([[True, False, True, False]])}
    masked = apply_mask(batch, {Columns.ACTION_DIST_INPUTS: logits})[Columns.ACTION_DIST_INPUTS]
    allowed = TorchCategorical.from_logits(logits[:, [0, 2]])
    torch.testing.assert_close(TorchCategorical.from_logits(masked).entropy(), allowed.entropy())


def _play(runner: Any, episodes: int, **settings: Any) -> tuple[list[Episode], list[str]]:
    """Runs episodes with an untrained policy; returns their reports."""
    policy = Policy(runner.module, runner.env.single_action_space, observation_filter=None)
    playing = ScenePlay(runner.env, policy, **settings)
    return list(playing.episodes(StopRequest(), most_episodes=episodes)), playing.notes()


def test_the_episodes_that_began_first_are_counted_however_long_they_last(runner: Any) -> None:
    """Agent 0 begins at steps 0, 5 and 10 of the scene, agent 1 at 0 and 10, agent 2 at 0; the last is the longest."""
    episodes, notes = _play(runner("Staggered"), 6)
    assert [episode.steps for episode in episodes] == [3, 4, 5, 3, 3, 4]
    assert [episode.total_reward for episode in episodes] == [3, 10, 22.5, 3, 3, 10]
    assert notes == []


def test_an_episode_that_does_not_end_counts_as_it_is_after_a_while(runner: Any) -> None:
    episodes, notes = _play(runner("3DBall"), 5, longest=2)
    assert [episode.steps for episode in episodes] == [2] * 5
    assert notes == ["12 episodes did not end, and count as they were after 2 decisions"]


def test_episodes_of_a_failed_player_are_dropped_and_reported(runner: Any, tmp_path: Path) -> None:
    episodes, notes = _play(runner("3DBall", mode=f"crash=2,once={tmp_path / 'once'}"), 4)
    assert len(episodes) == 4
    assert "SIGSEGV" in notes[0]
    assert notes[1] == "12 episodes are left out, as their player failed"


def test_the_filter_sees_each_observation_once(runner: Any) -> None:
    one = runner("3DBall", observation_filter="MeanStdFilter")
    episodes = one.sample(num_timesteps=12 * 20)
    begun = 12 + sum(episode.is_done for episode in episodes)
    observation_filter = find_filter(one)
    assert observation_filter is not None
    assert observation_filter.running_stats.num_pushes == 12 * 20 + begun


def test_a_probed_scene_is_the_one_that_is_sampled_in(runner: Any, tmp_path: Path) -> None:
    runner("Basic")
    assert len(list((tmp_path / "logs").glob("*.log"))) == 1


def test_a_trajectory_keeps_the_decision_that_still_waits() -> None:
    trajectory = Trajectory(np.array([0.0]))
    for step in range(3):
        (decision,) = make_decisions(np.array([step]), {"logp": np.array([-step])}, 1)
        trajectory.decide(decision)
        if step < 2:
            trajectory.complete(1.0, np.array([step + 1.0]))
    first = trajectory.take()
    assert first.get_actions().tolist() == [0, 1]
    assert first.get_observations().ravel().tolist() == [0, 1, 2]
    assert not first.is_done
    trajectory.complete(5.0, np.array([9.0]))
    rest = trajectory.take(terminated=True)
    assert rest.get_actions().tolist() == [2]
    assert rest.get_observations().ravel().tolist() == [2, 9]
    assert rest.get_rewards().tolist() == [5]
    assert (trajectory.total_reward, trajectory.steps) == (7.0, 3)


@pytest.mark.parametrize("scene", ["Basic", "3DBall", "GridWorld", "Sensors", "Hybrid"])
def test_every_kind_of_scene_has_a_network_that_learns(runner: Any, scene: str) -> None:
    one = runner(scene)
    module = _learners_module(one)
    space = one.env.single_observation_space
    assert isinstance(space, gymnasium.spaces.Box)
    (episode, *_) = one.sample(num_timesteps=20)
    values = module.compute_values({Columns.OBS: torch.from_numpy(episode.get_observations())})
    assert values.shape == (len(episode) + 1,)
    has_picture = scene in ("GridWorld", "Sensors")
    assert any(isinstance(layer, torch.nn.Conv2d) for layer in module.modules()) == has_picture
