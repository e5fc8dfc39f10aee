"""Settings as they are typed: `NAME=VALUE` words of a command line."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.errors import UserError


def parse_settings(words: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` words, or `--NAME VALUE` pairs as SageMaker's toolkit writes them, to a mapping.

    Raises:
        UserError: A word is neither.
    """
    settings: dict[str, str] = {}
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if word.startswith("-") and "=" not in word and waiting:
            settings[word.lstrip("-")] = waiting.pop(0)
        elif "=" in word:
            name, _, value = word.partition("=")
            settings[name.lstrip("-")] = value
        else:
            raise UserError(f"{word}: got a word from the command line; expected NAME=VALUE.")
    return settings
