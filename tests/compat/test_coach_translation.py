"""What a graph of Coach becomes as a job's settings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from runtime.compat.coach import vocabulary as coach
from runtime.compat.coach.hyperparameters import CoachConfigurationList
from runtime.compat.coach.translation import Translation, translate
from runtime.errors import UserError
from runtime.jobs.catalog import resolve
from runtime.settings.resolve import Source

AGENTS: list[Callable[[], coach.AgentParameters]] = [
    coach.ClippedPPOAgentParameters,
    coach.ActorCriticAgentParameters,
    coach.DQNAgentParameters,
    coach.DDQNAgentParameters,
]


def make_graph(agent: coach.AgentParameters, *, level: str = "CartPole-v1") -> coach.GraphManager:
    schedule = coach.ScheduleParameters()
    schedule.improve_steps = coach.TrainingSteps(5000)
    return coach.BasicRLGraphManager(agent, coach.GymVectorEnvironment(level), schedule)


def make_batch_graph() -> coach.GraphManager:
    agent = coach.DDQNBCQAgentParameters()
    agent.network_wrappers["main"].batch_size = 128
    agent.network_wrappers["main"].learning_rate = 0.0001
    agent.network_wrappers["main"].replace_mse_with_huber_loss = False
    agent.algorithm.num_steps_between_copying_online_weights_to_target = coach.TrainingSteps(50)
    agent.algorithm.action_drop_method_parameters = coach.KNNParameters()
    agent.memory = coach.EpisodicExperienceReplayParameters()
    agent.memory.load_memory_from_file_path = coach.CsvDataset("log.csv", is_episodic=True)
    schedule = coach.ScheduleParameters()
    schedule.improve_steps = coach.TrainingSteps(50)
    schedule.steps_between_evaluation_periods = coach.TrainingSteps(1)
    spaces = coach.SpacesDefinition(
        state=coach.StateSpace({"observation": coach.VectorObservationSpace(shape=4)}),
        goal=None,
        action=coach.DiscreteActionSpace(2),
        reward=coach.RewardSpace(1),
    )
    return coach.BatchRLGraphManager(
        agent_params=agent,
        env_params=None,
        spaces_definition=spaces,
        schedule_params=schedule,
        reward_model_num_epochs=30,
        train_to_eval_ratio=0.4,
    )


def resolved(translation: Translation) -> dict[str, Any]:
    """Resolves as the job does, which checks every setting."""
    source = Source("preset.py", {"rl": translation.as_experiment()}, is_old_script=True)
    return resolve([source], extras=None, default_preset=False).values()


@pytest.mark.parametrize("agent", AGENTS)
def test_an_agent_that_a_preset_leaves_as_it_is_needs_no_remark(agent: Callable[[], coach.AgentParameters]) -> None:
    translation = translate(make_graph(agent()), "preset.py")
    remarks = [note for note in translation.notes if "ActorCritic" not in note]
    assert remarks == []
    assert resolved(translation)["stop.timesteps_total"] == 5000


def test_the_networks_of_coachs_schemes() -> None:
    agent = coach.DQNAgentParameters()
    main = agent.network_wrappers["main"]
    main.input_embedders_parameters["observation"].scheme = coach.EmbedderScheme.Shallow
    main.middleware_parameters.scheme = coach.MiddlewareScheme.Deep
    assert resolved(translate(make_graph(agent), "preset.py"))["config.model.fcnet_hiddens"] == [128, 128, 128, 128]


def test_batch_learning_has_its_log_and_needs_no_environment() -> None:
    translation = translate(make_batch_graph(), "preset.py")
    values = resolved(translation)
    expected = {
        "run": "BCQ",
        "data": "log.csv",
        "config.lr": 0.0001,
        "config.gamma": 0.99,
        "config.train_batch_size": 128,
        "config.target_network_update_freq": 50,
        "config.loss": "mse",
        "config.train_fraction": 0.4,
        "stop.training_iteration": 50,
    }
    assert {name: values[name] for name in expected} == expected
    assert values.get("env") is None
    assert translation.notes == ()


def test_what_means_nothing_is_named_once() -> None:
    agent = coach.ClippedPPOAgentParameters()
    agent.network_wrappers["main"].l2_regularization = 0.1
    agent.algorithm.num_consecutive_training_steps = 3
    (note,) = translate(make_graph(agent), "preset.py").notes
    assert note == (
        "without a meaning here, and left out: rl.agent_params.algorithm.num_consecutive_training_steps, "
        "rl.agent_params.network_wrappers.main.l2_regularization"
    )


@pytest.mark.parametrize(
    ("steps", "stop"),
    [
        (coach.EnvironmentEpisodes(7), {"stop.episodes_total": 7}),
        (coach.EnvironmentSteps(7), {"stop.timesteps_total": 7}),
        (coach.Time(7), {"stop.time_total_s": 7}),
        (None, {}),
    ],
)
def test_the_stop_criterion_has_the_type_of_the_steps(steps: Any, stop: dict[str, int]) -> None:
    graph = make_graph(coach.ClippedPPOAgentParameters())
    graph.improve_steps = steps
    settings = translate(graph, "preset.py").settings
    assert {name: value for name, value in settings.items() if name.startswith("stop.")} == stop


def test_all_problems_of_a_preset_are_listed_at_once() -> None:
    graph = make_graph(coach.DQNAgentParameters(), level="")
    agent = graph.agent_params
    agent.memory.max_size = 4000
    agent.exploration.epsilon_schedule = 0.1
    agent.network_wrappers["main"].learning_rate = "small"
    agent.pre_network_filter.add_observation_filter("observation", "mine", object())
    with pytest.raises(UserError, match=r"5 problems with the preset preset.py") as raised:
        translate(graph, "preset.py")
    for name in ("env_params.level", "memory.max_size", "epsilon_schedule", "learning_rate", "observation_filters"):
        assert name in str(raised.value)


def test_hyperparameters_reach_the_graph_by_path_and_type() -> None:
    graph = make_graph(coach.DQNAgentParameters())
    values = CoachConfigurationList()
    values.store("rl.agent_params.algorithm.discount", "0.9")
    values.store("rl.improve_steps:EnvironmentEpisodes", "12")
    values.store("rl.heatup_steps", 300)  # keeps its type
    values.store("rl.agent_params.network_wrappers.main.batch_size", "16.0")
    values.store("rl.env_params.additional_simulator_parameters.warmup_latency", "10")  # a name of the environment's
    values.apply_subset(graph, "rl.")
    assert values.hp_dict == {}
    settings = resolved(translate(graph, "preset.py"))
    expected = {
        "config.gamma": 0.9,
        "stop.episodes_total": 12,
        "config.num_steps_sampled_before_learning_starts": 300,
        "config.train_batch_size": 16,
        "config.env_config": {"warmup_latency": 10},
    }
    assert {name: settings[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "rl.agent_params.algoritm.discount",
            1,
            "expected for 'algoritm' a name that is there. Did you mean 'algorithm'?",
        ),
        ("rl.improve_steps:Training", 1, "expected a type among"),
        ("rl.improve_steps", "many", "expected a whole number"),
        ("rl.agent_params.__class__", 1, "expected for '__class__'"),
        ("rl.improve_steps.num_step", 1, "Did you mean 'num_steps'?"),
    ],
)
def test_paths_that_are_not_there_are_refused(name: str, value: Any, message: str) -> None:
    values = CoachConfigurationList()
    values.store(name, value)
    with pytest.raises(UserError, match=re.escape(message)):
        values.apply_subset(make_graph(coach.DQNAgentParameters()), "rl.")


def test_attributes_that_coach_does_not_have() -> None:
    agent = coach.ClippedPPOAgentParameters()
    with pytest.raises(UserError, match=r"AlgorithmParameters.gae_lamda: got the value 1 .*Did you mean 'gae_lambda'?"):
        agent.algorithm.gae_lamda = 1
    with pytest.raises(UserError, match=r"AlgorithmParameters.gae_lamda: got no such attribute"):
        print(agent.algorithm.gae_lamda)
    assert getattr(agent.algorithm, "gae_lamda", 0.5) == 0.5
    with pytest.raises(UserError, match=r"TrainingSteps: got 'many'; expected a whole number from 0"):
        coach.TrainingSteps("many")  # type: ignore[arg-type]


def test_a_graph_without_a_launcher_does_not_train() -> None:
    graph = make_graph(coach.ClippedPPOAgentParameters())
    with pytest.raises(UserError, match=r"graph_manager.improve: got a graph outside of a launcher"):
        graph.create_graph().improve()


def test_a_preset_of_another_library_is_no_graph() -> None:
    with pytest.raises(UserError, match=r"graph_manager: got 'builtins.dict' from preset.py; expected a BasicRL"):
        translate({}, "preset.py")


def test_settings_are_plain_json() -> None:
    for agent in AGENTS:
        settings = translate(make_graph(agent()), "preset.py").settings
        assert json.loads(json.dumps(dict(settings))) == dict(settings)
