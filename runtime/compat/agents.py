"""`ray.rllib.agents`, for evaluation scripts: an agent that restores our model directory and acts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from runtime.environments.old_gym import as_gymnasium, as_old_action
from runtime.environments.spec import EnvCreator, EnvSpec
from runtime.errors import UserError
from runtime.settings.renamed import ALGORITHMS_OF_2020

# The algorithms whose policies read_policy reads.
ALGORITHMS = ("PPO", "DQN", "SAC", "IMPALA", "APPO")


class PPOTrainer:
    """RLlib's 2020 agent, with the methods that evaluation scripts use.

    Args:
        config: Accepted; the policy's settings are the model's own.
        env: Name of the environment, registered by the script or known to Gymnasium; or its class.
    """

    def __init__(
        self, config: dict[str, Any] | None = None, env: str | type[Any] | None = None, **ignored: Any
    ) -> None:
        self.config = config or {}
        self.env_name = env.__name__ if isinstance(env, type) else env
        self._env_class = env if isinstance(env, type) else None
        self._policy: Any = None

    def restore(self, checkpoint: str) -> None:
        """Loads the policy of a checkpoint, a model directory, or an old path inside one.

        Raises:
            UserError: There is no checkpoint.
        """
        from runtime.artifacts.checkpoint import read_state
        from runtime.artifacts.manifest import MANIFEST
        from runtime.artifacts.model_directory import open_model
        from runtime.container.scratch import scratch_folder
        from runtime.environments.spec import make_env
        from runtime.jobs.catalog import CATALOG

        place = Path(checkpoint)
        # Scripts name a file in the model directory (checkpoint, checkpoint-10): the directory knows what it holds.
        folder = next((p for p in (place, place.parent) if (p / MANIFEST).is_file()), place)
        with tempfile.TemporaryDirectory(prefix="model-", dir=scratch_folder()) as scratch:
            found = open_model(folder, scratch=Path(scratch))
            state = read_state(found)
            name = self.env_name or state.env
            env = make_env(EnvSpec(name, state.policy["env_config"], creator=self._creator(name)))
            algorithm = CATALOG.algorithm_of(state.policy.get("algorithm"))
            self._policy = algorithm.load_policy(found, env.action_space, state, trust=False)
            env.close()

    def _creator(self, name: str) -> EnvCreator | None:
        from runtime.launcher import registered_creator

        made = self._env_class
        return registered_creator(name) if made is None else lambda config: as_gymnasium(made(config))

    def compute_action(self, observation: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns the policy's most likely action, in the environment's units."""
        if self._policy is None:
            raise UserError("compute_action: got no policy; expected restore(checkpoint) before it.")
        return as_old_action(self._policy.act(observation))

    compute_single_action = compute_action

    def stop(self) -> None:
        """Does nothing, as no process was started."""


PPOAgent = PPOTrainer


def get_agent_class(algorithm: str) -> type[PPOTrainer]:
    """Returns the agent of an algorithm by its old name; all are one class, as a checkpoint names its network.

    Raises:
        UserError: It is no algorithm of RLlib's that trains here.
    """
    names = (*ALGORITHMS, *ALGORITHMS_OF_2020)
    if algorithm not in names:
        raise UserError(f"get_agent_class: got {algorithm!r}; expected one of {', '.join(names)}.")
    return PPOTrainer
