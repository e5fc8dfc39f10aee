"""The class that users' training scripts subclass, with the interface of the 2020 notebooks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from runtime.container.job import run_script
from runtime.container.layout import Container, read_container
from runtime.container.signals import StopRequest
from runtime.environments.old_gym import as_gymnasium
from runtime.environments.spec import EnvCreator
from runtime.errors import UserError
from runtime.jobs.training import Request, run_training
from runtime.offline.settings import ALGORITHMS as OFFLINE_ALGORITHMS
from runtime.outputs.console import Reporter
from runtime.report.report_command import finish
from runtime.settings.logged_input import as_learning_from_log
from runtime.settings.schema import JobConfig


class SageMakerRayLauncher:
    """Trains the experiment that a subclass describes; the job's hyperparameters override its settings.

    Subclasses implement `register_env_creator` and `get_experiment_config` and call `train_main()`.

    Attributes:
        num_cpus: CPUs that this job may use.
        num_gpus: GPUs of this host.
        hosts_info: Names of all hosts.
        host_name: This host's name.
        is_master_node: Whether this host trains and writes the model.
    """

    def __init__(self) -> None:
        self._container = read_container()
        self.num_cpus = self._container.num_cpus
        self.num_gpus = self._container.num_gpus
        self.hosts_info = list(self._container.hosts)
        self.host_name = self._container.current_host
        self.is_master_node = self._container.is_master

    def register_env_creator(self) -> None:
        """Calls `ray.tune.registry.register_env`; not needed for environments that Gymnasium knows."""

    def get_experiment_config(self) -> dict[str, Any]:
        """Returns the experiment as `{"training": {"env": …, "run": "PPO", "stop": {…}, "config": {…}}}`."""
        raise UserError(f"{type(self).__name__}.get_experiment_config: missing; expected a method of the subclass.")

    def customize_experiment_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """Changes the experiment before the job's hyperparameters override it."""
        return config

    def ray_init_config(self) -> dict[str, Any]:
        """Additional arguments of `ray.init`."""
        return {}

    def save_checkpoint_and_serving_model(
        self, algorithm: str | None = None, env_string: str | None = None, use_torch: bool = True
    ) -> None:
        """Writes the model directory; a subclass may do more before or after."""
        self._write_model()

    @classmethod
    def train_main(cls) -> None:
        """Trains, and ends the process with an exit code other than 0 on failure."""
        run_script(lambda container, stop: cls()._train(container, stop))

    def _train(self, container: Container, stop: StopRequest) -> None:
        self.register_env_creator()
        experiment = self.customize_experiment_config(self.get_experiment_config())
        if not isinstance(experiment, dict):
            raise UserError(
                f"{type(self).__name__}.get_experiment_config: got {experiment!r}; expected a dict with 'training'."
            )
        experiment, notes = as_learning_from_log(experiment, OFFLINE_ALGORITHMS, OFFLINE_ALGORITHMS[0])
        for note in notes:
            Reporter().note(note)
        request = Request(
            overrides={},
            experiment=experiment,
            find_creator=registered_creator,
            ray_options=self.ray_init_config(),
        )
        finish(run_training(container, stop, request, save_model=self._save))

    def _save(self, write_model: Callable[[], None], config: JobConfig) -> None:
        self._write_model = write_model
        self.save_checkpoint_and_serving_model(algorithm=config.run, env_string=config.env_id, use_torch=True)


def registered_creator(name: str) -> EnvCreator | None:
    """Returns the environment creator that a script registered with Ray, with old environments wrapped."""
    if "ray" not in sys.modules:
        return None
    from ray.tune.registry import ENV_CREATOR, _global_registry

    if not _global_registry.contains(ENV_CREATOR, name):
        return None
    creator = _global_registry.get(ENV_CREATOR, name)
    return lambda config: as_gymnasium(creator(config))
