"""The runner that samples: RLlib's, plus a way for an environment's exception to reach the training loop.

RLlib answers any exception in a remote runner by sleeping 60 s and starting the runner anew, for ever. That is right
for a process that died; a bug in the environment comes back each time, and its author is to hear of it.
"""

from __future__ import annotations

import contextlib
import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from runtime.errors import JobError, find_cause

_KEY = b"smrl-environment-fault"


class Runner(SingleAgentEnvRunner):  # type: ignore[misc]  # ray is not typed for strict mode
    """Samples episodes; a remote one leaves word of an exception before it raises it."""

    def __init__(self, **kwargs: Any) -> None:
        with _word_left() if kwargs.get("worker_index") else contextlib.nullcontext():
            super().__init__(**kwargs)

    def apply(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Called by RLlib for everything that it asks of a remote runner."""
        with _word_left():
            return func(self, *args, **kwargs)


@contextlib.contextmanager
def _word_left() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        fault = find_cause(error, JobError) or traceback.format_exc()
        _internal_kv_put(_KEY, pickle.dumps(fault))
        raise


def raise_reported_fault() -> None:
    """Raises what a remote runner left word of, if anything.

    Raises:
        JobError: An expected failure, as it was raised.
        RuntimeError: Any other, with the runner's traceback.
    """
    word = _internal_kv_get(_KEY)
    if word is None:
        return
    _internal_kv_del(_KEY)
    fault = pickle.loads(word)
    if isinstance(fault, JobError):
        raise fault
    raise RuntimeError(f"an environment runner failed:\n{fault}")
