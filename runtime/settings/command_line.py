"""The words of a command line: `NAME=VALUE` settings, and types of options for argparse."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

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


def refuse_settings(words: Sequence[str]) -> None:
    """Raises UserError for a command that takes no settings."""
    if words:
        raise UserError(f"{' '.join(words)}: got unknown arguments from the command line; see --help.")


def folder(text: str) -> Path:
    """A path; refuses an empty one."""
    if not text:
        raise argparse.ArgumentTypeError("expected the name of a folder")
    return Path(text)


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a whole number above 0")
    return int(text)


def port(text: str) -> int:
    """A TCP port."""
    if not text.isdigit() or not 0 < int(text) < 65_536:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a port, 1 to 65535")
    return int(text)


def natural(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a whole number of at least 0")
    return int(text)


def at_least_0(text: str) -> float:
    """A number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a number of at least 0")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = at_least_0(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a number from 0 to 1")
    return value
