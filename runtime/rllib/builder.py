"""The interface of what differs between RLlib's algorithms in a training."""

from __future__ import annotations

from typing import Any, Protocol

from runtime.cluster.machines import Machines
from runtime.environments.spec import EnvSpec
from runtime.interfaces.family import EnvFamily
from runtime.policies.spaces import Spaces
from runtime.settings.schema import JobConfig


class Builder(Protocol):
    """Builds one of RLlib's algorithms from a job's settings."""

    def needs_ray(self, config: JobConfig, env: EnvSpec, machines: Machines) -> bool:
        """Whether a job has env runners or learners in processes of their own, which Ray starts."""

    def env_bytes(self, env: EnvSpec) -> float:
        """Memory of one environment in bytes; 0 where it is not known."""

    def stored_bytes(self, config: JobConfig, spaces: Spaces) -> int:
        """Bytes of each number of an observation in the replay buffer, if the algorithm has one; at least."""

    def patience_s(self, config: JobConfig) -> float:
        """Longest time in s that iterations without a step are no fault, as where sampling is asynchronous."""

    def fit(
        self, config: JobConfig, family: EnvFamily, spaces: Spaces, machines: Machines
    ) -> tuple[JobConfig, list[str]]:
        """Fits settings to the environment's spaces and to the machine.

        Returns:
            The config, and a note of each setting that was changed.

        Raises:
            UserError: The algorithm does not learn in these spaces, or more GPUs are asked for than there are.
        """

    def compiles(self, config: JobConfig, family: EnvFamily) -> bool:
        """Whether building, or the first iteration, compiles code for this processor, which takes a while."""

    def build(self, config: JobConfig, env: EnvSpec, family: EnvFamily, machines: Machines, *, steps: int) -> Any:
        """Builds RLlib's algorithm, with Ray already running if `needs_ray`.

        Args:
            config: The job's settings, fit to the machine.
            env: The job's environment.
            family: Its family.
            machines: CPUs and GPUs for sampling and learning.
            steps: Environment steps taken before this start; 0 for the first one.
        """

    def describe_path(self, algorithm: Any, config: JobConfig, family: EnvFamily) -> str:
        """Describes in one line how a job samples and learns."""
