"""Which programs get the stand-ins of 2020, and the failure reason that SageMaker gets of a failing script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, OptMl, clean_environment, run_smrl

JOB = {"SM_TRAINING_ENV": "{}"}
OURS = "[name for name in sys.modules if name.split('.')[0] in ('runtime', 'envs', 'presets')]"


def run_python(*words: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `python WORDS` as somebody else would in this environment."""
    command = [sys.executable, *map(str, words)]
    return subprocess.run(
        command, cwd=cwd, env={**clean_environment(), **environment}, capture_output=True, text=True, check=False
    )


def write(folder: Path, **files: str) -> None:
    """Writes Python files by their names, where two underscores stand for a slash."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_script_beside_its_own_runtime_gets_its_own(tmp_path: Path) -> None:
    write(
        tmp_path,
        runtime__helper="number = 1",
        envs="number = 2",
        train="import runtime.helper, envs; print(runtime.helper.number, envs.number)",
    )
    (tmp_path / "runtime" / "__init__.py").touch()
    for environment in ({}, JOB):  # in a job too, while it asks for no name of 2020
        done = run_python("train.py", cwd=tmp_path, **environment)
        assert (done.stdout, done.stderr) == ("1 2\n", "")


@pytest.mark.parametrize("environment", [{}, JOB], ids=["laptop", "job"])
def test_a_package_called_runtime_does_not_run_at_the_start_of_python(
    environment: dict[str, str], tmp_path: Path
) -> None:
    for name in ("runtime", "envs", "presets"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"print('{name} ran')")
    done = run_python("-c", f"import sys; print({OURS})", cwd=ROOT, PYTHONPATH=str(tmp_path), **environment)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_nothing_is_in_the_way_of_any_other_python(tmp_path: Path) -> None:
    program = "import sys; print('smrl_scripts_of_2020' in sys.modules)"
    for environment, is_there in (({}, False), (JOB, True)):
        assert run_python("-c", program, cwd=tmp_path, **environment).stdout == f"{is_there}\n"
    done = run_python("-c", "import sagemaker_rl", cwd=tmp_path)
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'sagemaker_rl'\n")


def test_an_error_at_the_start_of_python_disturbs_no_program(tmp_path: Path) -> None:
    write(tmp_path, smrl_scripts_of_2020="raise RuntimeError('broken')")
    done = run_python("-c", "print('fine')", cwd=tmp_path, PYTHONPATH=str(tmp_path), **JOB)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


@pytest.mark.parametrize("shadow", ["runtime__helper", "envs__maze", "presets__mine", "runtime", "envs"])
def test_a_script_of_2020_with_a_package_of_our_names_is_told(shadow: str, tmp_path: Path) -> None:
    write(tmp_path, **{shadow: "x = 1", "train": "from sagemaker_rl.ray_launcher import SageMakerRayLauncher\n"})
    done = run_python("train.py", cwd=tmp_path, SM_OUTPUT_DIR=str(tmp_path / "output"), **JOB)
    assert done.returncode == 1
    name, _, inside = shadow.partition("__")
    kind = "folder" if inside else "file"
    reason = f"ShadowError: {name}: got a {kind} of that name in {tmp_path}; expected none"
    assert (tmp_path / "output" / "failure").read_text().startswith(reason)
    assert "Rename it, and its imports, to something else, as my_" in done.stderr


def test_a_library_stays_as_it_is_where_ours_cannot_be_imported_to_change_it(tmp_path: Path) -> None:
    write(tmp_path, envs="number = 2", train="import envs, gym; print(envs.number, hasattr(gym.wrappers, 'Monitor'))")
    done = run_python("train.py", cwd=tmp_path, **JOB)
    assert done.stdout == "2 False\n", done.stderr
    assert "gym stays as today's is" in done.stderr


def test_our_own_entry_points_and_a_copy_of_the_package_get_libraries_as_they_are(tmp_path: Path) -> None:
    write(
        tmp_path,
        runtime__compat__stand_ins="raise RuntimeError('imported')",
        entrypoints__train="import gym; print(hasattr(gym.wrappers, 'Monitor'))",
    )
    done = run_python("entrypoints/train.py", cwd=tmp_path, PYTHONPATH=str(tmp_path), **JOB)
    assert done.stdout == "False\n", done.stderr


def test_smrl_run_runs_a_script_of_2020_on_a_laptop(tmp_path: Path) -> None:
    write(
        tmp_path,
        src__helper="place = 'beside the script'",
        src__script="import gym, helper, os, roboschool, sys\n"
        "from sagemaker_rl.ray_launcher import SageMakerRayLauncher\n"
        "env = gym.make('RoboschoolReacher-v1')\n"
        "print(sys.argv[1:], helper.place, env.reset().shape, len(env.step(env.action_space.sample())))\n"
        "sys.exit(7)\n",
    )
    done = run_smrl("run", "src/script.py", "--lr", "0.1", "--help", "a=b", cwd=tmp_path)
    assert done.stdout == "['--lr', '0.1', '--help', 'a=b'] beside the script (9,) 4\n", done.stderr
    assert done.returncode == 7


def test_smrl_run_without_a_script_is_the_users_mistake(tmp_path: Path) -> None:
    done = run_smrl("run", "absent.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "smrl: error: run: got absent.py from the command line; expected a Python file.\n",
    )


def test_a_model_of_rays_first_api_is_registered(tmp_path: Path) -> None:
    """Ray 1.0 dropped the class, and TensorFlow's contrib is gone; nothing builds the model."""
    write(
        tmp_path,
        model="import tensorflow as tf\n"
        "import tensorflow.contrib.slim as slim\n"
        "from ray.rllib.models import Model, ModelCatalog\n"
        "class Masked(Model):\n    def _build_layers_v2(self, inputs, outputs, options):\n        return tf.nn.tanh\n"
        "ModelCatalog.register_custom_model('masked', Masked)\n",
        train="from model import Masked\nfrom sagemaker_rl.ray_launcher import SageMakerRayLauncher\n"
        "print(Masked.__name__)\n",
    )
    done = run_python("train.py", cwd=tmp_path, **JOB)
    assert done.stdout == "Masked\n", done.stderr


def test_mlagents_messages_are_read_in_a_script_of_2020(tmp_path: Path) -> None:
    write(
        tmp_path, script="from mlagents_envs.environment import UnityEnvironment; print(UnityEnvironment.API_VERSION)"
    )
    done = run_python("script.py", cwd=tmp_path, **JOB)
    assert done.stdout == "1.5.0\n", done.stderr


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import no_such_library_of_2020\n", "ModuleNotFoundError: No module named 'no_such_library_of_2020'\n"),
        ("import os\ndef train(:\n", "SyntaxError: invalid syntax (train.py, line 2)\n"),
        (
            "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import helpers_mistake'])\n1 / 0\n",
            "ZeroDivisionError: division by zero\n",
        ),
    ],
    ids=["import", "syntax", "helper"],
)
def test_the_reason_of_a_script_that_fails_before_it_asks_for_us(script: str, reason: str, opt_ml: OptMl) -> None:
    opt_ml.write({"sagemaker_program": "train.py"})
    write(opt_ml.base / "code", train=script)
    done = opt_ml.run()
    assert done.code == 1
    assert opt_ml.failure.startswith(reason)
    assert reason.split(" (")[0] in done.log  # the traceback, as Python prints it


def test_the_reason_of_a_shell_scripts_python(opt_ml: OptMl) -> None:
    opt_ml.write({"sagemaker_program": "train.sh"})
    write(opt_ml.base / "code", train="raise ValueError('no data')")
    (opt_ml.base / "code" / "train.sh").write_text(f"{sys.executable} train.py\n")
    assert opt_ml.run().code == 1
    assert opt_ml.failure.startswith("ValueError: no data\n")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "train.py",
            "import subprocess, sys\nsubprocess.run([sys.executable, '-c', '1 / 0'])\n"
            "try:\n    import no_such_library_of_2020\nexcept ImportError:\n    sys.exit(0)\n",
        ),
        ("train.sh", f"{sys.executable} -c '1 / 0' || true\n"),
    ],
)
def test_a_script_that_succeeds_leaves_no_reason(name: str, text: str, opt_ml: OptMl) -> None:
    opt_ml.write({"sagemaker_program": name})
    code = opt_ml.base / "code"
    code.mkdir(parents=True)
    (code / name).write_text(text)
    done = opt_ml.run()
    assert (done.code, "ZeroDivisionError" in done.log) == (0, True), done.log[-3000:]
    assert sorted(os.listdir(opt_ml.base / "output")) == ["success"]


@pytest.mark.parametrize("earlier", [None, "of another job"])
def test_a_reason_of_the_scripts_own_is_kept(earlier: str | None, opt_ml: OptMl) -> None:
    opt_ml.write({"sagemaker_program": "train.py"})
    failure = opt_ml.base / "output" / "failure"
    if earlier is not None:
        failure.parent.mkdir()
        failure.write_text(earlier)
    # The kernel's clock for files lags behind Python's by up to some milliseconds; here by an hour.
    write(
        opt_ml.base / "code",
        train=f"import os, time\nfrom pathlib import Path\nfailure = Path({str(failure)!r})\n"
        "failure.write_text('my own words')\nan_hour_ago = time.time() - 3600\n"
        "os.utime(failure, (an_hour_ago, an_hour_ago))\nraise ValueError\n",
    )
    assert opt_ml.run().code == 1
    assert opt_ml.failure == "my own words"


def test_the_reason_of_another_job_is_replaced(opt_ml: OptMl) -> None:
    opt_ml.write({"sagemaker_program": "train.py"})
    write(opt_ml.base / "code", train="raise ValueError('no data')")
    failure = opt_ml.base / "output" / "failure"
    failure.parent.mkdir()
    failure.write_text("of another job")
    assert opt_ml.run().code == 1
    assert opt_ml.failure.startswith("ValueError: no data\n")
