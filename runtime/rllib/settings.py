"""Hyperparameters that RLlib's algorithms share, under RLlib's names (ray 2.60) and with its defaults."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from runtime.settings.schema import AlgorithmSettings, NetworkSettings
from runtime.settings.types import Setting

_ACTIVATIONS = ("tanh", "relu", "swish", "silu", "linear")


class EncoderSettings(NetworkSettings):
    """Settings below `rl.training.config.model` that every network has."""

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


class ActorCriticSettings(EncoderSettings):
    """Settings below `rl.training.config.model` of a policy with a value function."""

    free_log_std: Annotated[
        bool, Setting("bool", "One log standard deviation an action, not a function of the state.")
    ] = False
    log_std_clip_param: Annotated[
        float, Setting("float", "Bound on the log standard deviation.", low=0, above=True)
    ] = 20.0
    vf_share_layers: Annotated[bool, Setting("bool", "One network for policy and value.")] = True


class RLlibSettings(AlgorithmSettings):
    """Settings below `rl.training.config` that every algorithm of RLlib has.

    Attributes:
        OURS: Settings whose default is ours, not RLlib's; a job's settings list them.
    """

    OURS: ClassVar[tuple[str, ...]] = ("num_env_runners", "observation_filter", "metrics_num_episodes_for_smoothing")

    # The loss
    gamma: Annotated[float, Setting("float", "Discount per step.", low=0, high=1)] = 0.99
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
    rollout_fragment_length: Annotated[
        int | Literal["auto"], Setting("int_or_auto", "Steps that an env runner collects at a time.", low=0, above=True)
    ] = "auto"
    min_time_s_per_iteration: Annotated[
        float | None, Setting("float", "Shortest time of an iteration, in s.", low=0, none_ok=True)
    ] = None
    min_sample_timesteps_per_iteration: Annotated[int, Setting("int", "Fewest steps of an iteration.", low=0)] = 0

    # Learning
    num_learners: Annotated[int, Setting("int", "Learner processes; 0 learns in the main process.", low=0)] = 0
    num_cpus_per_learner: Annotated[float | None, Setting("float", "CPUs reserved for a learner.", low=0)] = None
    num_gpus_per_learner: Annotated[float, Setting("float", "GPUs for each learner.", low=0)] = 0.0
    metrics_num_episodes_for_smoothing: Annotated[int, Setting("int", "Episodes in each mean.", low=0, above=True)] = (
        100
    )

    # Ours
    output: Annotated[
        str | None,
        Setting(
            "text",
            "Folder in which each episode of training is logged, as JSON that rl.training.data reads; `logdir` is the "
            "results folder. Not for DeepRacer, Unity and several agents.",
            none_ok=True,
        ),
    ] = None
    evaluation_episodes: Annotated[
        int,
        Setting(
            "int",
            "Episodes of the deterministic policy before each checkpoint, whose mean return chooses the best one; 0 "
            "for none.",
            low=0,
        ),
    ] = 0

    @property
    def has_critic(self) -> bool:
        """Whether a value function is learned."""
        return True
