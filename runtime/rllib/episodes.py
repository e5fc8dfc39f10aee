"""Reports the return and length of each finished episode from the env runners to the training loop."""

from __future__ import annotations

from typing import Any

from ray.rllib.callbacks.callbacks import RLlibCallback

RETURNS = "smrl_returns"
LENGTHS = "smrl_lengths"


class EpisodeReports(RLlibCallback):  # type: ignore[misc]  # ray is not typed for strict mode
    """Logs the sums of `EpisodeMonitor` as one item for each episode, in local and remote env runners."""

    def on_episode_end(self, *, episode: Any, metrics_logger: Any = None, **kwargs: Any) -> None:
        """Logs one episode; called by RLlib."""
        sums = episode.get_infos(-1)["episode"]
        metrics_logger.log_value(RETURNS, sums["r"], reduce="item_series")
        metrics_logger.log_value(LENGTHS, sums["l"], reduce="item_series")
