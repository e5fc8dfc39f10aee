"""Hyperparameters of DQN, SAC, IMPALA and APPO, under RLlib's names (ray 2.60) and with its defaults.

The replay buffer's settings have the names of RLlib 1; its defaults are those of `replay_buffer_config`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from runtime.rllib.settings import ActorCriticSettings, EncoderSettings, RLlibSettings
from runtime.settings.types import Setting


class ReplaySettings(RLlibSettings):
    """Settings of the algorithms that learn from a replay buffer."""

    train_batch_size: Annotated[int, Setting("int", "Transitions of an update.", low=0, above=True)] = 32
    n_step: Annotated[int, Setting("int", "Steps of the return before the value estimate.", low=0, above=True)] = 1
    tau: Annotated[
        float, Setting("float", "Share of the network in each update of the target network.", low=0, high=1, above=True)
    ] = 1.0
    target_network_update_freq: Annotated[
        int, Setting("int", "Environment steps between updates of the target network.", low=0)
    ] = 500
    training_intensity: Annotated[
        float | None,
        Setting(
            "float",
            "Transitions learned from for each environment step; null: one update for each round of sampling.",
            low=0,
            above=True,
            none_ok=True,
        ),
    ] = None
    num_steps_sampled_before_learning_starts: Annotated[
        int, Setting("int", "Environment steps before the first update, and after each start of the job.", low=0)
    ] = 1000
    buffer_size: Annotated[int, Setting("int", "Transitions in the replay buffer.", low=0, above=True)] = 50000
    prioritized_replay: Annotated[
        bool, Setting("bool", "Replay transitions with larger errors more often; false: all alike.")
    ] = True
    prioritized_replay_alpha: Annotated[
        float, Setting("float", "How much more often; 0 is uniform.", low=0, above=True)
    ] = 0.6
    prioritized_replay_beta: Annotated[
        float, Setting("float", "How far importance weights correct for that.", low=0, above=True)
    ] = 0.4


class DQNSettings(ReplaySettings):
    """Settings below `rl.training.config` of DQN."""

    lr: Annotated[float | list[Any], Setting("schedule", "Adam's learning rate.", low=0)] = 0.0005
    epsilon: Annotated[
        float | list[Any], Setting("schedule", "Share of uniform actions while training.", low=0, high=1)
    ] = Field(default_factory=lambda: [[0, 1.0], [10000, 0.05]])
    double_q: Annotated[bool, Setting("bool", "Choose the next action by the network itself, not its target.")] = True
    dueling: Annotated[bool, Setting("bool", "Separate heads for the state's value and the advantages.")] = True
    td_error_loss_fn: Annotated[str, Setting("text", "Loss of the Q function.", choices=("huber", "mse"))] = "huber"
    num_atoms: Annotated[
        int, Setting("int", "Atoms of the return's distribution; 1 learns its mean alone.", low=0, above=True)
    ] = 1
    v_min: Annotated[float, Setting("float", "Value of the first atom.")] = -10.0
    v_max: Annotated[float, Setting("float", "Value of the last atom.")] = 10.0
    grad_clip: Annotated[float | None, Setting("float", "Largest gradient norm.", low=0, above=True, none_ok=True)] = (
        40.0
    )
    min_sample_timesteps_per_iteration: Annotated[int, Setting("int", "Fewest steps of an iteration.", low=0)] = 1000

    model: EncoderSettings = EncoderSettings()


class SACSettings(ReplaySettings):
    """Settings below `rl.training.config` of SAC."""

    actor_lr: Annotated[float | list[Any], Setting("schedule", "SAC: learning rate of the policy.", low=0)] = 3e-05
    critic_lr: Annotated[float | list[Any], Setting("schedule", "SAC: learning rate of the Q functions.", low=0)] = (
        0.0003
    )
    alpha_lr: Annotated[float | list[Any], Setting("schedule", "SAC: learning rate of the temperature.", low=0)] = (
        0.0003
    )
    initial_alpha: Annotated[float, Setting("float", "SAC: temperature before training.", low=0, above=True)] = 1.0
    target_entropy: Annotated[
        float | None,
        Setting("float", "SAC: entropy to keep; null: the negative number of dimensions of an action.", none_ok=True),
    ] = None
    twin_q: Annotated[bool, Setting("bool", "SAC: two Q functions, of which the smaller value counts.")] = True
    train_batch_size: Annotated[int, Setting("int", "Transitions of an update.", low=0, above=True)] = 256
    tau: Annotated[
        float, Setting("float", "Share of the network in each update of the target network.", low=0, high=1, above=True)
    ] = 0.005
    target_network_update_freq: Annotated[
        int, Setting("int", "Environment steps between updates of the target network.", low=0)
    ] = 0
    num_steps_sampled_before_learning_starts: Annotated[
        int, Setting("int", "Environment steps before the first update, and after each start of the job.", low=0)
    ] = 1500
    buffer_size: Annotated[int, Setting("int", "Transitions in the replay buffer.", low=0, above=True)] = 1000000
    min_time_s_per_iteration: Annotated[
        float | None, Setting("float", "Shortest time of an iteration, in s.", low=0, none_ok=True)
    ] = 1.0
    min_sample_timesteps_per_iteration: Annotated[int, Setting("int", "Fewest steps of an iteration.", low=0)] = 100

    model: EncoderSettings = EncoderSettings()


class VTraceSettings(RLlibSettings):
    """Settings of the algorithms whose env runners sample while the learner learns, corrected by V-trace."""

    OURS: ClassVar[tuple[str, ...]] = (*RLlibSettings.OURS, "num_learners")

    train_batch_size: Annotated[int, Setting("int", "Environment steps of an update.", low=0, above=True)] = 500
    rollout_fragment_length: Annotated[
        int, Setting("int", "Steps that an env runner collects at a time.", low=0, above=True)
    ] = 50
    num_epochs: Annotated[int, Setting("int", "Passes over each batch.", low=0, above=True)] = 1
    minibatch_size: Annotated[
        int | None, Setting("int", "Steps of a gradient step; null: the batch.", low=0, above=True, none_ok=True)
    ] = None
    lr: Annotated[float | list[Any], Setting("schedule", "Adam's learning rate.", low=0)] = 0.0005
    vf_loss_coeff: Annotated[float, Setting("float", "Weight of the value loss.", low=0)] = 0.5
    entropy_coeff: Annotated[float | list[Any], Setting("schedule", "Weight of the entropy bonus.", low=0)] = 0.01
    vtrace_clip_rho_threshold: Annotated[
        float, Setting("float", "V-trace: clip of the ratios in the value targets.", low=0, above=True)
    ] = 1.0
    vtrace_clip_pg_rho_threshold: Annotated[
        float, Setting("float", "V-trace: clip of the ratios in the policy's gradient.", low=0, above=True)
    ] = 1.0
    broadcast_interval: Annotated[
        int, Setting("int", "Updates between broadcasts of the weights to the env runners.", low=0, above=True)
    ] = 1
    grad_clip: Annotated[float | None, Setting("float", "Largest gradient norm.", low=0, above=True, none_ok=True)] = (
        40.0
    )
    min_time_s_per_iteration: Annotated[
        float | None, Setting("float", "Shortest time of an iteration, in s.", low=0, none_ok=True)
    ] = 10.0


class IMPALASettings(VTraceSettings):
    """Settings below `rl.training.config` of IMPALA."""

    learner_queue_size: Annotated[
        int, Setting("int", "IMPALA: batches that may wait for the learner.", low=0, above=True)
    ] = 3

    model: ActorCriticSettings = ActorCriticSettings()


class APPONetworkSettings(ActorCriticSettings):
    """Settings below `rl.training.config.model` of APPO."""

    vf_share_layers: Annotated[bool, Setting("bool", "One network for policy and value.")] = False


class APPOSettings(VTraceSettings):
    """Settings below `rl.training.config` of APPO."""

    clip_param: Annotated[float, Setting("float", "PPO's ratio clip.", low=0, above=True)] = 0.4
    use_kl_loss: Annotated[bool, Setting("bool", "Adaptive KL penalty.")] = False
    kl_coeff: Annotated[float, Setting("float", "Initial weight of the KL penalty.", low=0)] = 1.0
    kl_target: Annotated[float, Setting("float", "Target of the KL divergence.", low=0, above=True)] = 0.01
    tau: Annotated[
        float, Setting("float", "Share of the network in each update of the target network.", low=0, high=1, above=True)
    ] = 1.0
    target_network_update_freq: Annotated[
        int, Setting("int", "Updates of the target network wait for this many rounds of the circular buffer.", low=0)
    ] = 2
    target_worker_clipping: Annotated[
        float, Setting("float", "APPO: clip of the ratio to the target network.", low=0, above=True)
    ] = 2.0
    circular_buffer_num_batches: Annotated[
        int, Setting("int", "APPO: batches in the circular buffer.", low=0, above=True)
    ] = 8
    circular_buffer_iterations_per_batch: Annotated[
        int, Setting("int", "APPO: how often each batch is learned from at most.", low=0, above=True)
    ] = 2

    model: APPONetworkSettings = APPONetworkSettings()
