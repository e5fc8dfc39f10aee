"""PPO's hyperparameters, under RLlib's names (ray 2.60) and with its defaults, but for those in `OURS`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from runtime.rllib.settings import ActorCriticSettings, RLlibSettings
from runtime.settings.schema import ROOT, JobConfig
from runtime.settings.types import Setting

MODULE = "config.model.module"


class PPONetworkSettings(ActorCriticSettings):
    """Settings below `rl.training.config.model`: the policy's and the value function's network."""

    initial_log_std: Annotated[
        float | None,
        Setting(
            "float",
            "Log standard deviation before training; needs free_log_std or use_sde.",
            low=-10,
            high=2,
            none_ok=True,
        ),
    ] = None
    log_std_schedule: Annotated[
        float | list[Any] | None,
        Setting(
            "schedule",
            "Log standard deviation by steps, which is then not learned; needs free_log_std.",
            low=-10,
            high=2,
            none_ok=True,
        ),
    ] = None
    use_sde: Annotated[
        bool, Setting("bool", "Exploration that depends on the state and lasts for some steps (gSDE).")
    ] = False
    sde_sample_freq: Annotated[int, Setting("int", "Steps between draws of that noise.", low=0, above=True)] = 4
    use_lstm: Annotated[bool, Setting("bool", "An LSTM after the encoder.")] = False
    lstm_cell_size: Annotated[int, Setting("int", "Width of the LSTM.", low=0, above=True)] = 256
    max_seq_len: Annotated[int, Setting("int", "Steps that the LSTM is trained through.", low=0, above=True)] = 20
    module: Annotated[
        str | None,
        Setting(
            "text",
            "A network of your own, as my_module:MyModule, a class of TorchRLModule and ValueFunctionAPI; RLlib's own "
            "code trains it. Its model_config holds what is set here.",
            none_ok=True,
        ),
    ] = None
    module_config: Annotated[dict[str, Any], Setting("mapping", "Further entries of that network's model_config.")] = (
        Field(default_factory=dict)
    )


class PPOSettings(RLlibSettings):
    """Settings below `rl.training.config`."""

    # Batches
    train_batch_size: Annotated[
        int, Setting("int", "Environment steps in an iteration's batch.", low=0, above=True)
    ] = 4000
    minibatch_size: Annotated[int, Setting("int", "Steps in a gradient step's minibatch.", low=0, above=True)] = 128
    num_epochs: Annotated[int, Setting("int", "Passes over each batch.", low=0, above=True)] = 30
    batch_mode: Annotated[
        str, Setting("text", "Where rollouts are cut.", choices=("truncate_episodes", "complete_episodes"))
    ] = "truncate_episodes"
    shuffle_batch_per_epoch: Annotated[bool, Setting("bool", "Whether each epoch shuffles the batch.")] = True

    # The loss
    lr: Annotated[float | list[Any], Setting("schedule", "Adam's learning rate.", low=0)] = 5e-05
    lambda_: Annotated[float, Setting("float", "GAE's lambda.", low=0, high=1)] = 1.0
    use_gae: Annotated[
        bool, Setting("bool", "Generalized advantage estimation; false: discounted returns minus values (lambda_ 1).")
    ] = True
    training_horizon: Annotated[
        int | None,
        Setting(
            "int",
            "Truncate episodes of training, not of videos and evaluations, after this many steps: the starts of long "
            "episodes are trained more often.",
            low=0,
            above=True,
            none_ok=True,
        ),
    ] = None
    normalize_rewards: Annotated[
        bool, Setting("bool", "Rewards over the running deviation of the discounted return, in the losses.")
    ] = False
    use_critic: Annotated[bool, Setting("bool", "A value function as baseline.")] = True
    clip_param: Annotated[float, Setting("float", "PPO's ratio clip.", low=0, above=True)] = 0.3
    vf_clip_param: Annotated[
        float, Setting("float", "Clip of the squared value error; large for large returns.", low=0, above=True)
    ] = 10.0
    vf_loss: Annotated[str, Setting("text", "DeepRacer: the value loss.", choices=("mse", "huber"))] = "mse"
    vf_loss_coeff: Annotated[float, Setting("float", "Weight of the value loss.", low=0)] = 1.0
    entropy_coeff: Annotated[float | list[Any], Setting("schedule", "Weight of the entropy bonus.", low=0)] = 0.0
    use_kl_loss: Annotated[bool, Setting("bool", "Adaptive KL penalty.")] = True
    kl_coeff: Annotated[float, Setting("float", "Initial weight of the KL penalty.", low=0)] = 0.2
    kl_target: Annotated[float, Setting("float", "Target of the KL divergence.", low=0, above=True)] = 0.01

    # DeepRacer
    episodes_per_iteration: Annotated[
        int, Setting("int", "DeepRacer: whole episodes of an iteration.", low=0, above=True)
    ] = 20
    epsilon_greedy: Annotated[
        float | None, Setting("float", "DeepRacer: smallest share of uniform actions.", low=0, high=1, none_ok=True)
    ] = None
    epsilon_steps: Annotated[
        int, Setting("int", "DeepRacer: steps over which that share falls from 1.", low=0, above=True)
    ] = 10000
    most_steps_per_iteration: Annotated[
        int | None, Setting("int", "DeepRacer: episodes that last longer are dropped.", low=0, above=True)
    ] = None

    model: PPONetworkSettings = PPONetworkSettings()

    @property
    def has_critic(self) -> bool:
        """Whether a value function is learned."""
        return self.use_critic


_LR, _LEAST_LR = 0.0005, 0.00005
_LONG_EPISODE = 1000  # steps
# For an environment that no preset is for: PPO's usual numbers, as Stable-Baselines3 and CleanRL have them, and rewards
# in units of their return, without which the value function of Pendulum-v1 learns nothing (benchmarks/classic.md).
GENERAL: dict[str, object] = {
    "config.num_envs_per_env_runner": 8,
    "config.train_batch_size": 2048,
    "config.minibatch_size": 128,
    "config.num_epochs": 10,
    "config.lr": _LR,
    "config.gamma": 0.99,
    "config.lambda_": 0.95,
    "config.clip_param": 0.2,
    "config.use_kl_loss": False,
    "config.vf_clip_param": 10000.0,
    "config.vf_loss_coeff": 0.5,
    "config.grad_clip": 0.5,
    "config.observation_filter": "MeanStdFilter",
    "config.normalize_rewards": True,
    "config.model.fcnet_hiddens": [64, 64],
    "config.model.fcnet_activation": "tanh",
    "config.model.vf_share_layers": False,
    "config.model.free_log_std": True,
}


def general_settings(steps: object, episode_limit: int | None) -> dict[str, object]:
    """Returns the settings for an environment that no preset is for.

    Args:
        steps: Steps after which the training stops, to which the learning rate falls: at the end, a policy that learns
            as fast as at the start is good or bad by chance. None, or anything but a number, keeps the rate.
        episode_limit: Steps of the longest episode; None if it is not known.
    """
    settings = dict(GENERAL)
    if isinstance(steps, int | float) and steps > 0:
        settings["config.lr"] = [[0, _LR], [int(steps), _LEAST_LR]]
    if episode_limit is not None and episode_limit >= _LONG_EPISODE:
        settings["config.gamma"] = 0.995
    return settings


def describe_module(config: JobConfig, *, why: str) -> list[str]:
    """Returns a line if a network of the user's own is named for a family of environments that has another one.

    Args:
        config: The job's settings.
        why: Why the network has no place there.
    """
    name = config.values().get(MODULE)
    if name is None:
        return []
    return [f"{ROOT}{MODULE}: got {name!r} from {config.sources[MODULE]}; expected none, as {why}. Leave it out."]
