"""Hyperparameters of learning from logged data; the defaults are the numbers of the preset cartpole-bcq."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from runtime.settings.schema import AlgorithmSettings, NetworkSettings
from runtime.settings.types import Setting

ALGORITHMS = ("BCQ", "DDQN", "CQL", "TD3+BC", "IQL", "BC", "MARWIL")
STOP_CRITERIA = ("training_iteration", "time_total_s")
# Where nothing sets a stop criterion.
TRAINING_ITERATIONS = 16


class OfflineNetworkSettings(NetworkSettings):
    """Settings below `rl.training.config.model`: the networks of the learned policy."""

    fcnet_hiddens: Annotated[list[int], Setting("ints", "Widths of the hidden layers.", low=0, above=True)] = Field(
        default_factory=lambda: [128, 128]
    )
    fcnet_activation: Annotated[
        str, Setting("text", "Activation of the hidden layers.", choices=("relu", "tanh", "swish"))
    ] = "relu"


class OfflineSettings(AlgorithmSettings):
    """Settings below `rl.training.config`."""

    train_batch_size: Annotated[int, Setting("int", "Transitions of an update.", low=0, high=1000000, above=True)] = 128
    updates_per_iteration: Annotated[
        int, Setting("int", "Updates between two estimates of the policy's return.", low=0, above=True)
    ] = 250
    lr: Annotated[float, Setting("float", "Adam's learning rate.", low=0, high=1, above=True)] = 0.0003
    gamma: Annotated[float, Setting("float", "Discount per step.", low=0, high=0.999)] = 0.99
    loss: Annotated[str, Setting("text", "Loss of the Q function for discrete actions.", choices=("mse", "huber"))] = (
        "mse"
    )
    target_network_update_freq: Annotated[
        int, Setting("int", "Updates between copies of the target network.", low=0, above=True)
    ] = 50
    action_flexibility: Annotated[
        float,
        Setting("float", "BCQ: lowest probability of an action, relative to the likeliest one's.", low=0, high=0.99),
    ] = 0.3
    beta: Annotated[
        float,
        Setting(
            "float",
            "MARWIL: how much an action with a higher advantage is preferred; 0 is behavior cloning.",
            low=0,
            high=10,
        ),
    ] = 1.0
    weight_averaging: Annotated[
        float, Setting("float", "Decay of the averaged weights, which act; smaller at first.", low=0, high=1)
    ] = 0.999
    train_fraction: Annotated[
        float, Setting("float", "Share of the episodes to learn from; the rest evaluate.", low=0.05, high=0.95)
    ] = 0.7
    num_actions: Annotated[
        int | None,
        Setting("int", "Number of discrete actions, where the data does not say.", low=1, above=True, none_ok=True),
    ] = None
    model: OfflineNetworkSettings = OfflineNetworkSettings()
