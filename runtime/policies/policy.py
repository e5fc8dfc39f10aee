"""A trained policy, ready to act: observation filter, network, scaling and clipping, as in training."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.utils.spaces.space_utils import clip_action, unsquash_action

from runtime.policies.filter import ObservationFilter
from runtime.policies.rllib_filter import filter_of_state, find_filter_connector
from runtime.policies.spaces import ACTION_MASK, join_mask, mask_size


class Policy:
    """Acts deterministically on one observation at a time.

    Args:
        module: RLlib's network.
        action_space: The environment's.
        observation_filter: Observation filter of the training, or None.
        normalize_actions: The network's ±1 is scaled to a bounded action space, then clipped.
        clip_actions: Actions are clipped into the action space, where they are not scaled.
    """

    def __init__(
        self,
        module: Any,
        action_space: gymnasium.Space[Any],
        *,
        observation_filter: ObservationFilter | None,
        normalize_actions: bool = True,
        clip_actions: bool = False,
    ) -> None:
        self.module = module
        self.action_space = action_space
        self.observation_filter = observation_filter
        self.normalize_actions = normalize_actions
        self.clip_actions = clip_actions
        self.reset()

    @classmethod
    def of_algorithm(cls, algorithm: Any, action_space: gymnasium.Space[Any]) -> Policy:
        """Returns the policy of a running algorithm, sharing its network."""
        module = algorithm.get_module()
        connector = find_filter_connector(algorithm.env_runner)
        return cls(
            module,
            action_space,
            observation_filter=None
            if connector is None
            else filter_of_state(connector.get_state(), module.observation_space),
            normalize_actions=algorithm.config.normalize_actions,
            clip_actions=algorithm.config.clip_actions,
        )

    def in_double(self) -> Policy:
        """The same policy computed in float64, from observations filtered to float32: what rounding is measured by."""
        return Policy(
            copy.deepcopy(self.module).double(),
            self.action_space,
            observation_filter=self.observation_filter,
            normalize_actions=self.normalize_actions,
            clip_actions=self.clip_actions,
        )

    def for_agent(self) -> Policy:
        """The same policy with a recurrent state of its own, sharing its network."""
        return copy.copy(self)

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self.module.parameters()).dtype
        return dtype

    def reset(self) -> None:
        """Forgets the episode so far; matters to recurrent networks alone."""
        state = self.module.get_initial_state() if self.module.is_stateful() else None
        self._state = None if state is None else _map_tensors(state, lambda array: torch.as_tensor(array)[None])

    @property
    def takes_masks(self) -> bool:
        """Whether the policy was trained with action masks beside the observations, as Unity's, and expects them."""
        return bool(self.module.model_config.get("action_mask"))

    @property
    def mask_size(self) -> int:
        """How many of an observation's last numbers are an action mask; 0 if it has none."""
        return mask_size(self.module.observation_space)

    def act(self, observation: Any, *, mask: NDArray[np.bool_] | None = None) -> Any:
        """Returns the most likely action, in the environment's own units.

        Args:
            observation: One observation of the environment, unfiltered; a row with its mask at the end, or a dict with
                the entry `action_mask`, if the policy trained with a mask in its observations.
            mask: (M,) true where a discrete action is allowed, if the policy trained with masks beside them.

        Raises:
            UserError: The entries of a dict are not as many numbers as the policy's observations.
        """
        if self.mask_size and isinstance(observation, Mapping):
            observation = join_mask(observation, self.module.observation_space)
        return self.act_many(np.asarray(observation)[None], masks=None if mask is None else mask[None])[0]

    def act_many(self, observations: NDArray[Any], *, masks: NDArray[np.bool_] | None = None) -> list[Any]:
        """Returns the most likely action for each of (B, O) observations, with (B, M) masks."""
        logits = torch.as_tensor(self.logits(observations, masks=masks))
        actions = self.module.get_inference_action_dist_cls().from_logits(logits).to_deterministic().sample()
        if _is_hybrid(actions):
            return [self.to_environment(row) for row in zip(*(part.numpy() for part in actions), strict=True)]
        return [self.to_environment(row) for row in actions.numpy()]

    def logits(self, observations: NDArray[Any], *, masks: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Inputs of the action distribution, (B, L), for unfiltered observations (B, O) and masks (B, M)."""
        if self.observation_filter is not None:
            observations = self.observation_filter(observations)
        tensor = torch.as_tensor(np.asarray(observations, np.float32)).to(self._dtype)
        with torch.inference_mode():
            if self._state is None:
                batch: dict[str, Any] = {Columns.OBS: tensor}
                if masks is not None:
                    batch[ACTION_MASK] = torch.as_tensor(masks)
                output = self.module.forward_inference(batch)[Columns.ACTION_DIST_INPUTS]
            else:
                batch = {Columns.OBS: tensor[:, None], Columns.STATE_IN: self._state}
                result = self.module.forward_inference(batch)
                self._state = result[Columns.STATE_OUT]
                output = result[Columns.ACTION_DIST_INPUTS][:, -1]
        logits: NDArray[np.float32] = output.numpy()
        return logits

    def outputs(self, observations: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Computes what an exported policy returns for unfiltered observations (B, O), by the network itself.

        Returns:
            `actions` (B, …) in the environment's units, numbers and choices of hybrid ones side by side;
            `action_logp` and `action_prob` (B,) of those actions, `behaviour_logits` (B, L), `vf_preds` (B,).
            DQN's has `actions` and `q_values` (B, A); SAC's `actions` and `behaviour_logits`.
        """
        if not isinstance(self.module, ValueFunctionAPI):
            inputs = self.logits(observations)
            actions = self.act_many(observations)
            name = "q_values" if isinstance(self.action_space, gymnasium.spaces.Discrete) else "behaviour_logits"
            return {"actions": np.stack(actions), name: inputs}
        logits = torch.as_tensor(self.logits(observations))
        filtered = observations if self.observation_filter is None else self.observation_filter(observations)
        with torch.inference_mode():
            values = self.module.compute_values(
                {Columns.OBS: torch.as_tensor(np.asarray(filtered, np.float32)).to(self._dtype)}
            )
            distribution = self.module.get_inference_action_dist_cls().from_logits(logits)
            actions = distribution.to_deterministic().sample()
            logp = distribution.logp(actions)
        rows = zip(*(part.numpy() for part in actions), strict=True) if _is_hybrid(actions) else actions.numpy()
        chosen = [self.to_environment(row) for row in rows]
        return {
            "actions": np.stack([np.concatenate(row).astype(np.float32) if _is_hybrid(row) else row for row in chosen]),
            "action_logp": logp.numpy(),
            "action_prob": logp.exp().numpy(),
            "behaviour_logits": logits.numpy(),
            "vf_preds": values.numpy(),
        }

    def to_environment(self, action: Any) -> Any:
        """Converts the network's action to the environment's units and bounds."""
        if isinstance(self.action_space, gymnasium.spaces.Tuple):
            numbers, choices = action  # continuous ones in ±1, as they are, and discrete ones
            return np.clip(numbers, -1, 1), np.asarray(choices)
        if isinstance(self.action_space, gymnasium.spaces.Discrete):
            return int(action)
        if self.normalize_actions:
            action = unsquash_action(action, self.action_space)
        elif self.clip_actions:
            action = clip_action(action, self.action_space)
        return np.asarray(action, self.action_space.dtype)


def _is_hybrid(actions: Any) -> bool:
    """Whether actions have a continuous and a discrete part."""
    return isinstance(actions, tuple | list)


def _map_tensors(state: Any, function: Any) -> Any:
    if isinstance(state, dict):
        return {key: _map_tensors(value, function) for key, value in state.items()}
    return function(state)
