"""PPO's hyperparameters, under RLlib's names (ray 2.60) and with its defaults, but for those in `OURS`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from runtime.settings.schema import AlgorithmSettings, NetworkSettings
from runtime.settings.types import Setting

_ACTIVATIONS = ("tanh", "relu", "swish", "silu", "linear")


class PPONetworkSettings(NetworkSettings):
    """Settings below `rl.training.config.model`: the policy's and the value function's network."""

    fcnet_hiddens: Annotated[list[int], Setting("ints", "Widths of the hidden layers.", low=0, above=True)] = Field(
        default_factory=lambda: [256, 256]
    )
    fcnet_activation: Annotated[str, Setting("text", "Activation of the hidden layers.", choices=_ACTIVATIONS)] = "tanh"
    fcnet_use_layernorm: Annotated[bool, Setting("bool", "LayerNorm after each hidden layer.")] = False
    fcnet_kernel_initializer: Annotated[
        str | None, Setting("text", "Name in torch.nn.init for hidden weights.", none_ok=True)
    ] = None
    fcnet_kernel_initializer_kwargs: Annotated[
        dict[str, Any] | None, Setting("mapping", "Arguments of that initializer.", none_ok=True)
    ] = None
    fcnet_bias_initializer: Annotated[
        str | None, Setting("text", "Name in torch.nn.init for hidden biases.", none_ok=True)
    ] = None
    fcnet_bias_initializer_kwargs: Annotated[
        dict[str, Any] | None, Setting("mapping", "Arguments of that initializer.", none_ok=True)
    ] = None
    head_fcnet_hiddens: Annotated[
        list[int], Setting("ints", "Hidden layers of the policy and value heads.", low=0, above=True)
    ] = Field(default_factory=list)
    head_fcnet_activation: Annotated[
        str, Setting("text", "Activation of the heads' hidden layers.", choices=_ACTIVATIONS)
    ] = "relu"
    head_fcnet_kernel_initializer: Annotated[
        str | None, Setting("text", "Name in torch.nn.init for head weights.", none_ok=True)
    ] = None
    head_fcnet_kernel_initializer_kwargs: Annotated[
        dict[str, Any] | None, Setting("mapping", "Arguments of that initializer.", none_ok=True)
    ] = None
    conv_filters: Annotated[
        list[Any] | None,
        Setting("layers", "Convolutions as [channels, kernel, stride].", low=0, above=True, none_ok=True),
    ] = None
    conv_activation: Annotated[str, Setting("text", "Activation of the convolutions.", choices=_ACTIVATIONS)] = "relu"
    free_log_std: Annotated[
        bool, Setting("bool", "One log standard deviation an action, not a function of the state.")
    ] = False
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
    log_std_clip_param: Annotated[
        float, Setting("float", "Bound on the log standard deviation.", low=0, above=True)
    ] = 20.0
    vf_share_layers: Annotated[bool, Setting("bool", "One network for policy and value.")] = True
    use_lstm: Annotated[bool, Setting("bool", "An LSTM after the encoder.")] = False
    lstm_cell_size: Annotated[int, Setting("int", "Width of the LSTM.", low=0, above=True)] = 256
    max_seq_len: Annotated[int, Setting("int", "Steps that the LSTM is trained through.", low=0, above=True)] = 20


class PPOSettings(AlgorithmSettings):
    """Settings below `rl.training.config`."""

    # Defaults that are ours, not RLlib's, and listed with each job's settings.
    OURS: ClassVar[tuple[str, ...]] = ("num_env_runners", "observation_filter", "metrics_num_episodes_for_smoothing")

    # Batches
    train_batch_size: Annotated[
        int, Setting("int", "Environment steps in an iteration's batch.", low=0, above=True)
    ] = 4000
    minibatch_size: Annotated[int, Setting("int", "Steps in a gradient step's minibatch.", low=0, above=True)] = 128
    num_epochs: Annotated[int, Setting("int", "Passes over each batch.", low=0, above=True)] = 30
    rollout_fragment_length: Annotated[
        int | Literal["auto"], Setting("int_or_auto", "Steps that an env runner collects at a time.", low=0, above=True)
    ] = "auto"
    batch_mode: Annotated[
        str, Setting("text", "Where rollouts are cut.", choices=("truncate_episodes", "complete_episodes"))
    ] = "truncate_episodes"
    shuffle_batch_per_epoch: Annotated[bool, Setting("bool", "Whether each epoch shuffles the batch.")] = True
    min_time_s_per_iteration: Annotated[
        float | None, Setting("float", "Shortest time of an iteration, in s.", low=0, none_ok=True)
    ] = None
    min_sample_timesteps_per_iteration: Annotated[int, Setting("int", "Fewest steps of an iteration.", low=0)] = 0

    # The loss
    lr: Annotated[float | list[Any], Setting("schedule", "Adam's learning rate.", low=0)] = 5e-05
    gamma: Annotated[float, Setting("float", "Discount per step.", low=0, high=1)] = 0.99
    lambda_: Annotated[float, Setting("float", "GAE's lambda.", low=0, high=1)] = 1.0
    use_gae: Annotated[
        bool, Setting("bool", "Generalized advantage estimation; false: discounted returns minus values (lambda_ 1).")
    ] = True
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
    grad_clip: Annotated[float | None, Setting("float", "Largest gradient norm.", low=0, above=True, none_ok=True)] = (
        None
    )
    grad_clip_by: Annotated[
        str, Setting("text", "What grad_clip bounds.", choices=("global_norm", "norm", "value"))
    ] = "global_norm"
    torch_skip_nan_gradients: Annotated[bool, Setting("bool", "Skip updates whose gradients are NaN.")] = False

    # Sampling
    num_env_runners: Annotated[
        int | Literal["auto"], Setting("int_or_auto", "Sampling processes; 0 samples in the main process.", low=0)
    ] = "auto"
    num_envs_per_env_runner: Annotated[
        int, Setting("int", "Environments, or Unity players, that an env runner steps together.", low=0, above=True)
    ] = 1
    num_cpus_per_env_runner: Annotated[float, Setting("float", "CPUs reserved for an env runner.", low=0)] = 1.0
    num_gpus_per_env_runner: Annotated[float, Setting("float", "GPUs reserved for an env runner.", low=0)] = 0.0
    gym_env_vectorize_mode: Annotated[
        str, Setting("text", "How an env runner steps its environments.", choices=("sync", "async"))
    ] = "sync"
    observation_filter: Annotated[
        str, Setting("text", "Running normalization of observations.", choices=("MeanStdFilter", "NoFilter"))
    ] = "NoFilter"
    normalize_actions: Annotated[bool, Setting("bool", "Policy in ±1, scaled to the action space.")] = True
    clip_actions: Annotated[bool, Setting("bool", "Clip actions into the action space.")] = False
    explore: Annotated[bool, Setting("bool", "Sample actions while training.")] = True
    sample_timeout_s: Annotated[float, Setting("float", "Longest wait for an env runner, in s.", low=0, above=True)] = (
        60.0
    )
    restart_failed_env_runners: Annotated[bool, Setting("bool", "Restart an env runner whose process dies.")] = True
    restart_failed_sub_environments: Annotated[bool, Setting("bool", "Rebuild an environment that raises.")] = False
    ignore_env_runner_failures: Annotated[bool, Setting("bool", "Continue without a dead env runner.")] = False
    max_num_env_runner_restarts: Annotated[int, Setting("int", "Restarts before giving up.", low=0)] = 1000
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

    # Learning
    num_learners: Annotated[int, Setting("int", "Learner processes; 0 learns in the main process.", low=0)] = 0
    num_cpus_per_learner: Annotated[float | None, Setting("float", "CPUs reserved for a learner.", low=0)] = None
    num_gpus_per_learner: Annotated[float, Setting("float", "GPUs for each learner.", low=0)] = 0.0
    metrics_num_episodes_for_smoothing: Annotated[int, Setting("int", "Episodes in each mean.", low=0, above=True)] = (
        100
    )

    model: PPONetworkSettings = PPONetworkSettings()


# For an environment that no preset is for; PPO's usual numbers, as Stable-Baselines3 and CleanRL have them.
GENERAL: dict[str, object] = {
    "config.num_envs_per_env_runner": 8,
    "config.train_batch_size": 4096,
    "config.minibatch_size": 256,
    "config.num_epochs": 10,
    "config.lr": 0.0003,
    "config.gamma": 0.99,
    "config.lambda_": 0.95,
    "config.clip_param": 0.2,
    "config.use_kl_loss": False,
    "config.vf_clip_param": 10000.0,
    "config.vf_loss_coeff": 0.5,
    "config.grad_clip": 0.5,
    "config.observation_filter": "MeanStdFilter",
    "config.model.fcnet_hiddens": [64, 64],
    "config.model.fcnet_activation": "tanh",
    "config.model.vf_share_layers": False,
}
