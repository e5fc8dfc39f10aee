"""The runner that samples: RLlib's, plus a way for an environment's exception to reach the training loop.

RLlib answers any exception in a remote runner by sleeping 60 s and starting the runner anew, for ever. That is right
for a process that died; a bug in the environment comes back each time, and its author is to hear of it.
"""

from __future__ import annotations

import contextlib
import pickle
import secrets
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from runtime.errors import JobError, RemoteError, describe_root, find_cause
from runtime.ppo.seeds import derive_seed

_KEY = b"smrl-environment-fault"


class Runner(SingleAgentEnvRunner):  # type: ignore[misc]  # ray is not typed for strict mode
    """Samples episodes; a remote one leaves word of an exception before it raises it.

    Attributes:
        is_restarted: Whether another process sampled as this env runner before, and died.
    """

    _seeded_env: Any = None
    _env_seeds = 0

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        is_remote = bool(kwargs.get("worker_index"))
        with _word_left() if is_remote else contextlib.nullcontext():
            self.is_restarted = is_remote and bool(ray.get_runtime_context().was_current_actor_reconstructed)
            if self.is_restarted and config.seed is not None:  # the same one would lead to the same episodes
                config = config.copy(copy_frozen=False).debugging(seed=secrets.randbelow(2**31))
            super().__init__(config=config, **kwargs)

    def take_env_seed(self) -> int | None:
        """The seed of the environments' next reset, environment i's being i more; None once they have one.

        RLlib seeds the first reset of every `sample` of whole episodes, so that all of them would begin alike.
        """
        if self.config.seed is None or self.env is self._seeded_env:
            return None
        number, self._env_seeds, self._seeded_env = self._env_seeds, self._env_seeds + 1, self.env
        return derive_seed(self.config.seed, self.worker_index or 0, number)

    def _try_env_reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        """Called by RLlib, with its own idea of the seed."""
        found: tuple[Any, Any] = super()._try_env_reset(seed=self.take_env_seed(), options=options)
        return found

    def apply(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Called by RLlib for everything that it asks of a remote runner."""
        with _word_left():
            return func(self, *args, **kwargs)


@contextlib.contextmanager
def _word_left() -> Iterator[None]:
    try:
        yield
    except (Exception, SystemExit) as error:
        if not hasattr(error, "ray_terminate_msg"):  # with one, Ray itself ends the process
            fault = find_cause(error, JobError) or RemoteError(describe_root(error), traceback.format_exc())
            _internal_kv_put(_KEY, pickle.dumps(fault))
        raise


def raise_reported_fault() -> None:
    """Raises what a remote runner left word of, if anything.

    Raises:
        JobError: An expected failure, as it was raised.
        RemoteError: Any other, with the runner's traceback.
    """
    word = _internal_kv_get(_KEY)
    if word is None:
        return
    _internal_kv_del(_KEY)
    raise pickle.loads(word) from None  # what RLlib makes of it says less
