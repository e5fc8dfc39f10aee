"""Batch RL: from logged transitions to a policy that is chosen and estimated without an environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.offline.evaluation import PolicyEvaluation, evaluate_policy

__all__ = ["PolicyEvaluation", "evaluate_policy"]


def __getattr__(name: str) -> Any:
    """Imports what is asked for, as jobs that only read settings must start without PyTorch."""
    if name in __all__:
        from runtime.offline import evaluation

        return getattr(evaluation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
