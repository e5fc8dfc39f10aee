"""A job's hyperparameters as the arguments that SageMaker's toolkit passes to a script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.settings.types import parse_text


def as_arguments(hyperparameters: Mapping[str, Any]) -> list[str]:
    """Returns `--name value` words, sorted by name.

    Args:
        hyperparameters: Raw values, as hyperparameters.json has them.
    """
    words: list[str] = []
    for name, raw in sorted(hyperparameters.items()):
        words += [f"--{name}", str(parse_text(raw) if isinstance(raw, str) else raw)]
    return words
