"""The interface of every policy that can act."""

from __future__ import annotations

from typing import Any, Protocol


class ActingPolicy(Protocol):
    """A policy that acts deterministically, one observation at a time.

    Attributes:
        takes_masks: Whether `act` takes a mask of the allowed discrete actions.
    """

    @property
    def takes_masks(self) -> bool: ...  # noqa: D102  # the class's docstring says it

    def reset(self) -> None:
        """Starts an episode; a recurrent network forgets the one before."""

    def act(self, observation: Any, *, mask: Any = None) -> Any:
        """Returns the action for one unfiltered observation, in the environment's units.

        Args:
            observation: One observation of the environment.
            mask: (M,) true where a discrete action is allowed; None where the policy takes none.
        """
