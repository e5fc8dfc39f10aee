"""PPO as a job runs it: its settings, its training from end to end, and its policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from runtime.ppo import rules
from runtime.ppo.settings import PPOSettings
from runtime.rllib.algorithm import TrainedByRLlib, check_warm_start
from runtime.settings.catalog import Draft
from runtime.settings.schema import StopCriteria

if TYPE_CHECKING:
    from runtime.rllib.builder import Builder


class PPO(TrainedByRLlib):
    """The PPO algorithm of a job, on RLlib."""

    names = ("PPO",)
    settings = PPOSettings
    stop_criteria = tuple(StopCriteria.settings())
    inputs: tuple[str, ...] = ()
    general: Mapping[str, object] = {}
    chooses_preset = True
    takes_family_settings = True
    uses_cluster = True
    acts_in_environment = True

    def complete(self, draft: Draft) -> None:
        """Sets PPO's own defaults, and checks the rules between its settings."""
        rules.complete(draft)
        check_warm_start(draft)

    def _builder(self) -> Builder:
        from runtime.ppo.rllib_config import PPOBuilder

        return PPOBuilder()
