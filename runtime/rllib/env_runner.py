"""RLlib's env runner, extended so that an environment's exception reaches the training loop.

RLlib answers any exception in a remote env runner by sleeping for 60 s and restarting the env runner, without end. That
is right for a process that died. A bug in the environment raises again each time, and the user has to see it.
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
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from runtime.errors import JobError, RemoteError, describe_root, find_cause
from runtime.rllib.seeds import derive_seed, without_dynamo

_KEY = b"smrl-environment-fault"


class _Reporting:
    """Mixin for RLlib's env runners: a remote one reports an exception to the training loop before raising it.

    Attributes:
        is_restarted: Whether this process replaces one that died.
    """

    config: Any
    env: Any
    worker_index: int | None
    _seeded_env: Any = None
    _env_seeds = 0

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        is_remote = bool(kwargs.get("worker_index"))
        with _report_exceptions() if is_remote else contextlib.nullcontext():
            self.is_restarted = is_remote and bool(ray.get_runtime_context().was_current_actor_reconstructed)
            if self.is_restarted and config.seed is not None:  # the same seed would give the same episodes again
                config = config.copy(copy_frozen=False).debugging(seed=secrets.randbelow(2**31))
            with without_dynamo():
                super().__init__(config=config, **kwargs)  # type: ignore[call-arg]  # RLlib's

    def take_env_seed(self) -> int | None:
        """The seed of the environments' next reset, or None if they are seeded already; environment i adds i to it.

        RLlib would seed the first reset of every `sample` of whole episodes, so that all of them would start alike.
        """
        if self.config.seed is None or self.env is self._seeded_env:
            return None
        number = self._env_seeds
        self._env_seeds = self._env_seeds + 1
        self._seeded_env = self.env
        return derive_seed(self.config.seed, self.worker_index or 0, number)

    def _try_env_reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        """Resets the environments; called by RLlib, whose seed is replaced."""
        seed = self.take_env_seed()
        results: tuple[Any, Any] = super()._try_env_reset(seed=seed, options=options)  # type: ignore[misc]  # RLlib's
        return results

    def apply(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Runs a function on this env runner; RLlib makes every remote call through it."""
        with _report_exceptions():
            return func(self, *args, **kwargs)


class Runner(_Reporting, SingleAgentEnvRunner):  # type: ignore[misc]  # ray is not typed for strict mode
    """Samples episodes of one agent."""


class AgentsRunner(_Reporting, MultiAgentEnvRunner):  # type: ignore[misc]  # ray is not typed for strict mode
    """Samples episodes of several agents."""


@contextlib.contextmanager
def _report_exceptions() -> Iterator[None]:
    try:
        yield
    except (Exception, SystemExit) as error:
        if not hasattr(error, "ray_terminate_msg"):  # with that attribute, Ray itself ends the process
            fault = find_cause(error, JobError) or RemoteError(describe_root(error), traceback.format_exc())
            _internal_kv_put(_KEY, pickle.dumps(fault))
        raise


def raise_reported_fault() -> None:
    """Raises the exception that a remote env runner reported, if any.

    Raises:
        JobError: An expected failure, as the env runner raised it.
        RemoteError: Any other exception, with the env runner's traceback.
    """
    if not ray.is_initialized():  # there are no remote env runners
        return
    report = _internal_kv_get(_KEY)
    if report is None:
        return
    _internal_kv_del(_KEY)
    raise pickle.loads(report) from None  # RLlib's own exception says less
