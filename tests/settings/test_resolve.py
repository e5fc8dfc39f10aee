from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import SerializeAsAny

from runtime.environments.spec import check_env_name
from runtime.errors import UserError
from runtime.jobs.catalog import CATALOG, resolve
from runtime.ppo.algorithm import PPO
from runtime.ppo.settings import PPONetworkSettings, PPOSettings
from runtime.rllib.algorithm_settings import DQNSettings
from runtime.settings.catalog import Catalog
from runtime.settings.presets import preset_names
from runtime.settings.resolve import Source, find_by_end
from runtime.settings.resolve import resolve as resolve_with
from runtime.settings.schema import JobConfig
from runtime.settings.types import Setting


def from_json(values: dict[str, Any]) -> JobConfig:
    return resolve([Source("hyperparameters.json", values)], extras={})


def test_the_command_line_beats_hyperparameters_beat_the_preset() -> None:
    config = resolve(
        [
            Source("hyperparameters.json", {"preset": "reacher", "rl.training.config.lr": "1e-05"}),
            Source("the command line", {"rl.training.config.lr": "0.5", "rl.training.config.gamma": "0.9"}),
        ],
        extras={},
    )
    assert PPOSettings.of(config).lr == 0.5
    assert PPOSettings.of(config).gamma == 0.9
    assert config.sources["config.lr"] == "the command line"
    assert config.sources["config.lambda_"] == "preset reacher"
    assert config.sources["checkpoint_freq"] == "default"


@pytest.mark.parametrize(
    "values",
    [
        {"rl.training.config.kl_coeff": "0.5"},
        {"rl__training__config__kl_coeff": "0.5"},
        {"rl": '{"training": {"config": {"kl_coeff": 0.5}}}'},
        {"rl.training": {"config.kl_coeff": 0.5}},
        {"rl.training.config.kl_coeff": '"0.5"'},
    ],
)
def test_every_spelling_of_a_hyperparameter_arrives(values: dict[str, Any]) -> None:
    assert PPOSettings.of(from_json(values)).kl_coeff == 0.5


def test_a_seed_has_a_short_name_as_in_an_evaluation() -> None:
    assert from_json({"rl.training.env": "CartPole-v1", "seed": "7"}).algorithm.seed == 7
    with pytest.raises(UserError, match=r"rl.training.config.seed: got 'x' from hyperparameters.json; expected"):
        from_json({"rl.training.env": "CartPole-v1", "seed": "x"})


def test_the_end_of_a_name_is_enough() -> None:
    config = from_json(
        {
            "env": "CartPole-v1",
            "lr": "0.5",
            "model.fcnet_hiddens": "[8]",
            "time_total_s": "60",
            "env_config.size": "3",
            "num_workers": "2",  # of 2020
        }
    )
    assert config.env == "CartPole-v1"
    assert config.stop.time_total_s == 60
    settings = PPOSettings.of(config)
    assert (settings.lr, settings.model.fcnet_hiddens, settings.env_config) == (0.5, [8], {"size": 3})
    assert settings.num_env_runners == 2
    assert "rl.training.config.num_workers is called rl.training.config.num_env_runners today" in config.notes
    assert config.sources["config.lr"] == "hyperparameters.json"


def test_a_short_name_means_one_setting() -> None:
    known = ["lr", "config.lr", "config.gamma", "config.model.gamma", "stop.time_total_s"]
    assert find_by_end("lr", known) == ["lr"]
    assert find_by_end("gamma", known) == ["config.gamma", "config.model.gamma"]
    assert find_by_end("model.gamma", known) == ["config.model.gamma"]
    assert find_by_end("total_s", known) == []  # a word's end is no name
    every = CATALOG.known_paths()
    assert {len(find_by_end(path.rsplit(".", 1)[-1], every)) for path in every} == {1}


def test_an_ambiguous_short_name_lists_what_it_may_mean() -> None:
    """No two settings end alike today, but for those of a catalog with an algorithm whose network has a gamma."""

    class Network(PPONetworkSettings):
        gamma: Annotated[float, Setting("float", "Of the network.")] = 0.0

    class Settings(PPOSettings):
        model: SerializeAsAny[Network] = Network()

    class Other(PPO):
        names = ("OTHER",)
        settings: type[PPOSettings] = Settings

    catalog = Catalog(algorithms=(*CATALOG.algorithms, Other()), families=CATALOG.families)
    source = Source("the command line", {"rl.training.env": "CartPole-v1", "gamma": "0.9"})
    meant = r"rl\.training\.config\.gamma or rl\.training\.config\.model\.gamma"
    with pytest.raises(UserError, match=f"gamma: got '0.9' from the command line; expected the name of one .*{meant}"):
        resolve_with([source], catalog, extras={})


def test_a_short_name_and_its_long_one_are_refused_together() -> None:
    with pytest.raises(UserError, match=r"lr: got rl\.training\.config\.lr twice from hyperparameters\.json; expected"):
        from_json({"rl.training.env": "CartPole-v1", "lr": "0.5", "rl.training.config.lr": "0.4"})


def test_a_wrong_short_name_suggests_a_short_one() -> None:
    with pytest.raises(UserError, match=r"gama: got '1' from hyperparameters\.json; .* Did you mean 'gamma'\?"):
        from_json({"rl.training.env": "CartPole-v1", "gama": "1"})


def test_a_users_script_keeps_its_own_names() -> None:
    source = Source("hyperparameters.json", {"rl.training.env": "CartPole-v1", "lr": "0.5"})
    config = resolve([source], extras=None)
    assert config.extras == {"lr": 0.5}
    assert PPOSettings.of(config).lr != 0.5


def test_a_kl_coefficient_switches_the_kl_loss_on_and_says_so() -> None:
    config = from_json({"preset": "reacher", "rl.training.config.kl_coeff": "0.5"})
    assert PPOSettings.of(config).use_kl_loss is True
    assert any("the KL loss is on" in note for note in config.notes)
    off = from_json({"rl.training.config.kl_coeff": "0.5", "rl.training.config.use_kl_loss": "false"})
    assert PPOSettings.of(off).use_kl_loss is False


@pytest.mark.parametrize(
    ("old", "raw", "new", "value"),
    [
        ("config.num_sgd_iter", "7", "config.num_epochs", 7),
        ("config.sgd_minibatch_size", "100", "config.minibatch_size", 100),
        ("config.lambda", "0.5", "config.lambda_", 0.5),
        ("config.num_workers", "3", "config.num_env_runners", 3),
        ("config.num_envs_per_worker", "2", "config.num_envs_per_env_runner", 2),
        ("config.sample_batch_size", "64", "config.rollout_fragment_length", 64),
        ("config.ignore_worker_failures", "true", "config.restart_failed_env_runners", True),
        ("config.monitor", "false", "video_freq", 0),
        ("config.num_gpus", "0", "config.num_gpus_per_learner", 0.0),
        ("config.vf_share_layers", "true", "config.model.vf_share_layers", True),
        ("config.lr_schedule", "[[0, 0.1], [5, 0]]", "config.lr", [[0, 0.1], [5, 0.0]]),
    ],
)
def test_names_of_2020_map_to_todays_and_are_noted_once(old: str, raw: str, new: str, value: Any) -> None:
    config = from_json({f"rl.training.{old}": raw})
    assert config.values()[new] == value
    assert len([note for note in config.notes if old in note]) == 1


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(UserError, match="8 problems with this job's settings") as caught:
        resolve(
            [
                Source(
                    "hyperparameters.json",
                    {
                        "preset": "reachr",
                        "rl.training.env": "RoboschoolHoper-v1",
                        "rl.training.config.gama": "0.9",
                        "rl.training.config.lr": "fast",
                        "rl.training.stop.time_total_s": "-5",
                        "rl.training.config.tf_session_args": "{}",
                        "rl.training.config.gamma": "2",
                        "unheard_of": "1",
                    },
                )
            ],
            extras={},
            check_env=check_env_name,
        )
    text = str(caught.value)
    assert text.startswith("8 problems")
    for part in (
        "preset: got 'reachr' from hyperparameters.json",
        "Did you mean 'reacher'?",
        "Did you mean 'RoboschoolHopper-v1'?",
        "rl.training.config.gama: got '0.9' from hyperparameters.json; expected a setting of the algorithm. "
        "Did you mean 'gamma'?",
        "rl.training.config.lr: got 'fast'",
        "rl.training.stop.time_total_s: got '-5' from hyperparameters.json; expected a number above 0",
        "There is no TensorFlow; remove it.",
        "rl.training.config.gamma: got '2' from hyperparameters.json; expected a number between 0 and 1",
        "unheard_of: got '1'",
    ):
        assert part in text


def test_what_means_nothing_today_is_noted_in_an_old_script_and_refused_elsewhere() -> None:
    tree = {"rl": {"training": {"env": "CartPole-v1", "config": {"use_pytorch": False, "straggler_mitigation": True}}}}
    config = resolve([Source("get_experiment_config()", tree, is_old_script=True)], extras=None, default_preset=False)
    assert len(config.notes) == 2
    with pytest.raises(UserError, match=r"straggler_mitigation.*RLlib dropped it"):
        from_json({"rl.training.config.straggler_mitigation": "true"})


def old_script(**config: Any) -> JobConfig:
    tree = {"rl": {"training": {"env": "CartPole-v1", "config": config}}}
    return resolve([Source("get_experiment_config()", tree, is_old_script=True)], extras=None, default_preset=False)


def test_data_that_an_old_script_names_is_not_passed_over() -> None:
    with pytest.raises(UserError, match=r"config.input: got .*Logged data is rl.training.data today"):
        old_script(input=["/opt/ml/input/data/training"])
    assert len(old_script(input="sampler", output=None).notes) == 1  # what RLlib had by itself
    assert PPOSettings.of(old_script(output="logdir")).output == "logdir"


def test_a_text_in_a_scripts_env_config_stays_one() -> None:
    """As `json.loads(env_config["sizes"])` expects; hyperparameters, which are all texts, become what they say."""
    tree = {"rl": {"training": {"env": "CartPole-v1", "config": {"env_config": {"sizes": "[2, 3]", "count": 4}}}}}
    script = Source("get_experiment_config()", tree, is_old_script=True, is_typed=True)
    given = Source("hyperparameters.json", {"rl.training.config.env_config.more": "[5]"})
    config = resolve([script, given], extras=None, default_preset=False)
    assert config.algorithm.env_config == {"sizes": "[2, 3]", "count": 4, "more": [5]}


@pytest.mark.parametrize(
    ("config", "epsilon"),
    [
        ({"schedule_max_timesteps": 2000, "exploration_fraction": 0.1, "exploration_final_eps": 0.01}, [[200, 0.01]]),
        ({"exploration_fraction": 0.5}, [[50_000, 0.02]]),  # of 100,000 steps, down to 0.02: Ray 0.6's defaults
        ({"exploration_config": {"type": "EpsilonGreedy", "epsilon_timesteps": 300}}, [[300, 0.02]]),
        (
            {"exploration_config": {"type": "EpsilonGreedy", "final_epsilon": 0, "warmup_timesteps": 50}},
            [[50, 1.0], [10_050, 0]],
        ),
    ],
)
def test_the_exploration_of_an_old_dqn_is_one_schedule(config: dict[str, Any], epsilon: list[list[float]]) -> None:
    tree = {"rl": {"training": {"env": "CartPole-v1", "run": "APEX", "config": config}}}
    resolved = resolve([Source("get_experiment_config()", tree, is_old_script=True)], extras=None, default_preset=False)
    assert DQNSettings.of(resolved).epsilon == [[0, 1.0], *epsilon]
    assert any(f"{next(iter(config))}" in note and "rl.training.config.epsilon=" in note for note in resolved.notes)


def test_an_exploration_that_samples_the_policy_is_noted() -> None:
    config = old_script(exploration_config={"type": "StochasticSampling"})
    assert any("sample the policy's distribution" in note for note in config.notes)
    with pytest.raises(UserError, match=r"The schedule of exploration is rl.training.config.epsilon"):
        from_json({"rl.training.run": "DQN", "rl.training.config.exploration_fraction": "0.2"})


def test_without_gae_lambda_is_1() -> None:
    config = from_json({"rl.training.config.use_gae": "false", "rl.training.config.lambda": "0.9"})
    assert PPOSettings.of(config).lambda_ == 1.0
    assert any("use_gae is false: lambda_ is 1" in note for note in config.notes)
    assert (
        PPOSettings.of(from_json({"rl.training.config.use_gae": "true", "rl.training.config.lambda": "0.9"})).lambda_
        == 0.9
    )


def test_torch_may_be_asked_for_since_it_is_what_there_is() -> None:
    assert from_json({"rl.training.config.framework": "torch"}).notes
    with pytest.raises(UserError, match="PyTorch"):
        from_json({"rl.training.config.framework": "tf"})


def test_env_config_is_a_free_tree() -> None:
    config = from_json(
        {
            "rl.training.config.env_config.a.b": "1",
            "rl.training.config.env_config": '{"compat": "bullet"}',
        }
    )
    assert config.algorithm.env_config == {"a": {"b": 1}, "compat": "bullet"}


def test_a_minibatch_larger_than_the_batch_is_refused() -> None:
    with pytest.raises(UserError, match=r"minibatch_size: got 5000 .* at most train_batch_size, which is 4096"):
        from_json({"preset": "reacher", "rl.training.config.minibatch_size": "5000"})


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_resolves_and_names_an_environment_that_exists(name: str) -> None:
    config = resolve([Source("test", {"preset": name})], extras={}, check_env=check_env_name)
    assert config.stop.given()
    assert config.preset == name


@pytest.mark.parametrize("alias", ["RLCOACH_PRESET", "RLRAY_PRESET"])
def test_the_notebooks_names_for_a_preset_work(alias: str) -> None:
    assert from_json({alias: '"hopper"'}).env == "RoboschoolHopper-v1"


def test_a_users_own_preset_file_works(tmp_path: Any) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("training: {env: CartPole-v1, stop: {training_iteration: 1}, config: {lr: 1e-4}}\n")
    assert PPOSettings.of(from_json({"preset": str(path)})).lr == 1e-4


def test_all_faults_of_a_users_preset_file_are_told_at_once(tmp_path: Any) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("desciption: mine\nminutes: many\n")
    with pytest.raises(UserError) as error:
        from_json({"preset": str(path)})
    assert str(error.value).splitlines() == [
        f"3 problems with the preset {path}:",
        f"  {path}: minutes: got 'many': input should be a valid number, unable to parse string as a number.",
        f"  {path}: got no 'training'; expected a mapping with env, run, stop and config.",
        f"  {path}: got 'desciption'; expected fields among description, source, expected_return, minutes, steps, "
        "training. Did you mean 'description'?",
    ]
    path.write_text("training: {env: [}\n")
    with pytest.raises(UserError, match="not a valid preset"):
        from_json({"preset": str(path)})


def test_an_environment_without_a_preset_named_gets_its_own_or_general_settings() -> None:
    assert from_json({"rl.training.env": "RoboschoolHopper-v1"}).preset == "hopper"
    general = from_json({"rl.training.env": "Pendulum-v1"})
    assert general.preset is None
    assert general.stop.given() == {}  # another environment's goal would be none
    assert general.sources["config.lr"] == "default for any environment"
    assert from_json({}).preset == "reacher"


def test_general_settings_follow_the_steps_and_the_episodes() -> None:
    def of(**values: str) -> tuple[object, object]:
        names = {"env": "Acrobot-v1", **values}
        found = from_json({f"rl.training.{name.replace('__', '.')}": value for name, value in names.items()})
        return PPOSettings.of(found).lr, PPOSettings.of(found).gamma

    assert of() == (0.0005, 0.99)
    assert of(stop__timesteps_total="200000") == ([[0, 0.0005], [200000, 0.00005]], 0.99)
    assert of(stop__timesteps_total="200000", config__lr="0.001") == (0.001, 0.99)
    assert of(env="MountainCarContinuous-v0", stop__time_total_s="60") == (0.0005, 0.99)  # 999 steps
    assert of(env="BipedalWalker-v3", config__gamma="0.9")[1] == 0.9
    assert of(env="BipedalWalker-v3")[1] == 0.995  # 1,600 steps
    assert of(env="BipedalWalker-v3", config__horizon="300")[1] == 0.99
    assert of(env="my_module:MyEnv", config__horizon="1000")[1] == 0.995


@pytest.mark.parametrize(
    "values",
    [
        {"rl__training__env": "CartPole-v1"},
        {"rl": '{"training": {"env": "CartPole-v1"}}'},
        {"rl.training.config.env": "CartPole-v1"},
        {"rl.training.env": '"CartPole-v1"'},
    ],
)
def test_an_environment_finds_its_preset_in_every_spelling(values: dict[str, Any]) -> None:
    assert from_json(values).preset == "cartpole"


def test_a_setting_in_the_wrong_tree_is_suggested_in_full() -> None:
    with pytest.raises(UserError, match=r"Did you mean 'rl\.training\.config\.model\.use_lstm'\?"):
        from_json({"rl.training.config.use_lstm": "true"})


def test_null_switches_a_presets_criterion_off() -> None:
    config = from_json({"preset": "reacher", "rl.training.stop.episode_reward_mean": "null"})
    assert "episode_reward_mean" not in config.stop.given()


def test_a_presets_width_gives_way_to_a_state_dependent_one() -> None:
    config = from_json({"preset": "reacher", "rl.training.config.model.free_log_std": "false"})
    assert "initial_log_std" not in config.algorithm.model.given()


def test_a_branch_of_env_config_cannot_also_be_a_leaf() -> None:
    with pytest.raises(UserError, match=r"env_config\.a"):
        from_json({"rl.training.config.env_config.a": "1", "rl.training.config.env_config.a.b": "2"})


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("rl.training.config.lr", "Infinity"),
        ("rl.training.config.seed", "99999999999999"),
        ("rl.training.config.model.conv_filters", "[[16, [-1, 3], 2]]"),
    ],
)
def test_values_beyond_any_range_are_refused(name: str, raw: str) -> None:
    with pytest.raises(UserError, match="expected"):
        from_json({name: raw})
