"""`sagemaker_rl.coach_launcher`, with what the batch RL notebook's training script uses."""

from __future__ import annotations

from runtime.container.job import run_script
from runtime.container.layout import Container
from runtime.container.signals import StopRequest
from runtime.errors import UserError
from runtime.jobs.training import Request, run_training
from runtime.report.report_command import finish

_PRESET_KEYS = ("RLCOACH_PRESET", "preset")


class SageMakerCoachPresetLauncher:
    """Trains the preset that replaces Coach's of the same name; the preset's .py file beside the script is not read."""

    def default_preset_name(self) -> str:
        """Returns the preset that is trained where no hyperparameter names one."""
        raise UserError(f"{type(self).__name__}.default_preset_name: missing; expected a method of the subclass.")

    @classmethod
    def train_main(cls) -> None:
        """Trains, and ends the process with an exit code other than 0 on failure."""
        run_script(lambda container, stop: cls()._train(container, stop))

    def _train(self, container: Container, stop: StopRequest) -> None:
        is_named = any(key in container.hyperparameters for key in _PRESET_KEYS)
        finish(run_training(container, stop, Request({} if is_named else {"preset": self.default_preset_name()})))
