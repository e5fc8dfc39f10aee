"""`sagemaker_rl.mpi_launcher`: runs a training script once on every host, where it joins one training of ours."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.compat.arguments import as_arguments
from runtime.container.layout import read_container
from runtime.errors import UserError

__all__ = ["MPILauncher"]

# How many of MPI's processes each host was to have; the script's launcher reads it.
processes_per_host = [1]


class MPILauncher:
    """Runs a script that trains over all hosts of the job; Ray, not MPI, connects them.

    Args:
        train_script: The script, beside the program.
        train_script_args: Its arguments; hyperparameters that are not among them are added.
        num_of_processes_per_host: Processes that each had a batch of their own, and whose gradients were averaged.
        instance_type: Accepted; there is one way to connect hosts.
    """

    def __init__(
        self,
        train_script: str,
        train_script_args: Sequence[str] | None = None,
        num_of_processes_per_host: int = 1,
        instance_type: str | bool | None = False,
    ) -> None:
        self._train_script = train_script
        self._arguments = [str(word) for word in train_script_args or ()]
        self._processes = num_of_processes_per_host

    def mpi_run(self) -> None:
        """Runs the script in this process, so that it gets the job's signals.

        Raises:
            UserError: There is no such script.
        """
        main = getattr(sys.modules.get("__main__"), "__file__", None)
        folder = Path(main).resolve().parent if main else Path.cwd()
        script = next(
            (path for path in (Path(self._train_script), folder / self._train_script) if path.is_file()), None
        )
        if script is None:
            beside = ", ".join(sorted(path.name for path in folder.glob("*.py")))
            raise UserError(f"MPILauncher: got the script {self._train_script!r}; expected one of {beside}.")
        given = {word for word in self._arguments if word.startswith("--")}
        rest = as_arguments(
            {name: value for name, value in read_container().hyperparameters.items() if f"--{name}" not in given}
        )
        processes_per_host[0] = max(1, int(self._processes))
        sys.argv = [str(script), *self._arguments, *rest]
        runpy.run_path(str(script), run_name="__main__")
