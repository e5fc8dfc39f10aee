"""The unmodified `train` of sagemaker-training over a temporary /opt/ml."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from runtime.artifacts.checkpoint import checkpoints_in
from tests.conftest import ROOT, TINY, OptMl
from tests.outputs.test_metrics import MAX, MEAN

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SOURCE = [ROOT / name for name in ("runtime", "envs", "presets", "entrypoints")]
SCRIPTS = ROOT / "tests" / "scripts_2020"


def iterations(log: str) -> list[int]:
    return [int(n) for n in re.findall(r"^training_iteration: (\d+) ", log, re.M)]


def test_a_job_trains_from_the_source_folder(opt_ml: OptMl) -> None:
    """The source is the whole package; jobs below have only the entry point, and use the image's package."""
    opt_ml.write(
        {
            **TINY,
            "sagemaker_program": json.dumps("entrypoints/train.py"),
            "preset": '"reacher"',
            "rl.training.config.kl_coeff": "0.5",
            "rl.training.stop.time_total_s": "3",
        }
    )
    opt_ml.add_code(*SOURCE)
    done = opt_ml.run()
    assert done.code == 0, done.log[-3000:]
    lines = [line for line in done.log.splitlines() if line.startswith("training_iteration: ")]
    assert [row["training_iteration"] for row in opt_ml.rows] == iterations(done.log)
    with_returns = [line for line in lines if MEAN.search(line)]
    assert with_returns
    assert all(len(MEAN.findall(line)) == len(MAX.findall(line)) == 1 for line in with_returns)
    assert float(MEAN.findall(with_returns[-1])[0][0]) == pytest.approx(
        opt_ml.rows[-1]["episode_reward_mean"], rel=1e-5
    )
    assert opt_ml.rows[0]["cur_kl_coeff"] > 0
    assert (opt_ml.base / "output" / "intermediate" / "last.mp4").stat().st_size > 1000
    assert (opt_ml.base / "output" / "success").exists()
    assert (opt_ml.base / "model" / "manifest.json").exists()


@pytest.mark.system
def test_a_stopped_job_saves_what_it_has_and_succeeds(opt_ml: OptMl) -> None:
    opt_ml.write({**TINY, "sagemaker_program": "train.py", "preset": "reacher"})
    opt_ml.add_code(ROOT / "entrypoints" / "train.py")
    running = opt_ml.start()
    running.wait_for(lambda log: len(iterations(log)) >= 3)
    running.process.send_signal(signal.SIGTERM)
    running.wait(30)
    assert running.code == 0, running.log[-3000:]
    assert "stopped by SIGTERM" in running.log
    last = opt_ml.rows[-1]["training_iteration"]
    manifest = json.loads((opt_ml.base / "model" / "manifest.json").read_text())
    assert manifest["training_iteration"] == last >= 3
    assert checkpoints_in(opt_ml.base / "checkpoints")[-1].name == f"checkpoint_{last:06d}"


def test_the_script_is_told_apart_from_the_uploader(tmp_path: Path) -> None:
    """The toolkit forks its S3 uploader, which then has the toolkit's own command line."""
    program = (
        "import multiprocessing, subprocess, sys, time\n"
        "from runtime.container.toolkit import find_script\n"
        "fork = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,), daemon=True)\n"
        "fork.start()\n"
        "print(find_script('train.py'))\n"
        "script = subprocess.Popen([sys.executable, '--', sys.argv[1]])\n"
        "print(find_script('train.py').pid == script.pid)\n"
        "script.kill(); fork.kill()\n"
    )
    (tmp_path / "train.py").write_text("import time; time.sleep(60)\n")
    toolkit = tmp_path / "train"
    toolkit.write_text(program)
    done = subprocess.run(
        [sys.executable, str(toolkit), str(tmp_path / "train.py")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["None", "True"]


@pytest.mark.system
def test_a_killed_job_resumes_with_its_counters(opt_ml: OptMl) -> None:
    opt_ml.write(
        {
            **TINY,
            "sagemaker_program": "train.py",
            "preset": "reacher",
            "rl.training.checkpoint_freq": "1",
            "rl.training.stop.training_iteration": "40",
            "rl.training.video_freq": "0",
        }
    )
    opt_ml.add_code(ROOT / "entrypoints" / "train.py")
    running = opt_ml.start()
    running.wait_for(lambda log: len(iterations(log)) >= 5)
    running.kill_script(signal.SIGKILL)
    running.wait(60)
    assert running.code == 1
    reached = iterations(running.log)[-1]
    shutil.rmtree(opt_ml.base / "output")  # a new machine gets the checkpoints alone
    again = opt_ml.run()
    assert again.code == 0, again.log[-3000:]
    resumed_at = iterations(again.log)[0]
    assert reached - 1 <= resumed_at <= reached + 2
    assert [row["training_iteration"] for row in opt_ml.rows] == list(range(1, 41))
    steps = [row["timesteps_total"] for row in opt_ml.rows]
    assert steps == [64 * n for n in range(1, 41)]
    times = [row["time_total_s"] for row in opt_ml.rows]
    assert times == sorted(times)


@pytest.mark.system
def test_scripts_of_2020_train_and_evaluate_unmodified(opt_ml: OptMl, tmp_path: Path) -> None:
    old_copy = tmp_path / "sagemaker_rl"
    old_copy.mkdir()
    (old_copy / "__init__.py").write_text("raise RuntimeError('the dead launcher was imported')\n")
    opt_ml.write(
        {
            "sagemaker_program": '"train-reacher.py"',
            "rl.training.stop.training_iteration": "3",
            "rl.training.config.num_sgd_iter": "1",
            "rl.training.config.train_batch_size": "600",
        }
    )
    opt_ml.add_code(SCRIPTS / "train-reacher.py", old_copy)
    trained = opt_ml.run()
    assert trained.code == 0, trained.log[-3000:]
    assert "old copy that no longer runs; the container's sagemaker_rl is used" in trained.log
    assert trained.log.count("num_sgd_iter is called") == 1
    params = json.loads((opt_ml.base / "model" / "params.json").read_text())
    assert params["training"]["config"]["num_epochs"] == 1  # the job's hyperparameter wins over the script
    assert params["training"]["config"]["gamma"] == 0.995
    assert opt_ml.rows[-1]["timesteps_total"] == 1800

    evaluation = OptMl(tmp_path / "evaluation", opt_ml.environment)
    evaluation.write(
        {
            "sagemaker_program": '"evaluate-ray.py"',
            "evaluate_episodes": "2",
            "algorithm": '"PPO"',
            "env": '"RoboschoolReacher-v1"',
        },
        channels=("model",),
    )
    shutil.copytree(opt_ml.base / "model", evaluation.base / "input" / "data" / "model", dirs_exist_ok=True)
    evaluation.add_code(SCRIPTS / "evaluate-ray.py")
    evaluated = evaluation.run()
    assert evaluated.code == 0, evaluated.log[-3000:]
    assert len(re.findall(r"^Episode reward: \S+\. Episode steps: 150$", evaluated.log, re.M)) == 2
    assert "Mean Reward:" in evaluated.log
    assert len(list((evaluation.base / "output" / "intermediate").glob("*.mp4"))) == 2


@pytest.mark.system
def test_our_evaluation_entry_point_reads_the_model_channel(opt_ml: OptMl, tiny_results: Path) -> None:
    opt_ml.write(
        {"sagemaker_program": "evaluate.py", "evaluate_episodes": "2", "algorithm": '"PPO"'}, channels=("model",)
    )
    shutil.copytree(tiny_results / "model", opt_ml.base / "input" / "data" / "model", dirs_exist_ok=True)
    opt_ml.add_code(ROOT / "entrypoints" / "evaluate.py")
    done = opt_ml.run()
    assert done.code == 0, done.log[-3000:]
    assert done.log.count("Episode reward: ") == 2
    assert (opt_ml.base / "output" / "data" / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("hyperparameters", "reason"),
    [
        ({"preset": "reachr"}, "preset: got 'reachr' from hyperparameters.json"),
        ({"preset": "reacher", "rl.training.stop.time_total_s": "-1"}, "expected a number above 0"),
        ({"rl.training.env": "NoSuchEnv-v3"}, "expected an environment that Gymnasium knows"),
    ],
)
def test_a_users_mistake_is_the_failure_reason(hyperparameters: dict[str, str], reason: str, opt_ml: OptMl) -> None:
    opt_ml.write({**hyperparameters, "sagemaker_program": "train.py"})
    opt_ml.add_code(ROOT / "entrypoints" / "train.py")
    done = opt_ml.run()
    assert done.code == 1  # the toolkit's own code for any failure of the script
    assert "ExitCode 2" in done.log
    assert reason in opt_ml.failure.splitlines()[0]
    assert "Traceback" not in opt_ml.failure


def test_an_empty_channel_is_the_failure_reason(opt_ml: OptMl) -> None:
    opt_ml.write({**TINY, "sagemaker_program": "train.py", "preset": "reacher"}, channels=("checkpoint",))
    opt_ml.add_code(ROOT / "entrypoints" / "train.py")
    done = opt_ml.run()
    assert done.code == 1
    assert opt_ml.failure.startswith("channel checkpoint: got nothing in ")


@pytest.mark.system
def test_a_model_channel_with_the_archive_that_sagemaker_delivers_is_trained_on(
    opt_ml: OptMl, tiny_results: Path
) -> None:
    opt_ml.write(
        {**TINY, "sagemaker_program": "train.py", "preset": "reacher", "rl.training.stop.training_iteration": "10"},
        channels=("model",),
    )
    with tarfile.open(opt_ml.base / "input" / "data" / "model" / "model.tar.gz", "w:gz") as tar:
        tar.add(tiny_results / "model", arcname=".")
    opt_ml.add_code(ROOT / "entrypoints" / "train.py")
    done = opt_ml.run()
    assert done.code == 0, done.log[-3000:]
    assert iterations(done.log) == [9, 10]


@pytest.mark.system
def test_a_launchers_hooks_are_called(opt_ml: OptMl) -> None:
    opt_ml.write({**TINY, "sagemaker_program": "train-mine.py", "rl.training.stop.training_iteration": "1"})
    script = opt_ml.base / "code" / "train-mine.py"
    script.parent.mkdir(parents=True)
    script.write_text(
        "import gym\nfrom ray.tune.registry import register_env\n"
        "from sagemaker_rl.ray_launcher import SageMakerRayLauncher\n"
        "class Doubled(gym.RewardWrapper):\n    def reward(self, reward):\n        return 2 * reward\n"
        "class Halved(gym.ObservationWrapper):\n    def observation(self, seen):\n        return seen / 2\n"
        "class Mine(SageMakerRayLauncher):\n"
        "    def register_env_creator(self):\n"
        "        register_env('mine', lambda config: Doubled(Halved(gym.make('CartPole-v1'))))\n"
        "    def get_experiment_config(self):\n"
        "        assert self.is_master_node and self.host_name == 'localhost' and self.hosts_info == ['localhost']\n"
        "        return {'training': {'env': 'mine', 'run': 'PPO', 'config': {'gamma': 0.5, 'lr_schedule': None}}}\n"
        "    def customize_experiment_config(self, config):\n"
        "        config['training']['config']['gamma'] = 0.75\n        return config\n"
        "    def ray_init_config(self):\n        return {'object_store_memory': 100 * 1024 * 1024}\n"
        "    def save_checkpoint_and_serving_model(self, algorithm=None, env_string=None, use_torch=False):\n"
        "        super().save_checkpoint_and_serving_model(algorithm, env_string, use_torch)\n"
        "        print('SAVED', algorithm, env_string)\n"
        "Mine().train_main()\n"
    )
    done = opt_ml.run()
    assert done.code == 0, done.log[-3000:]
    assert "SAVED PPO mine" in done.log
    params = json.loads((opt_ml.base / "model" / "params.json").read_text())
    assert params["training"]["config"]["gamma"] == 0.75
    row = opt_ml.rows[-1]
    assert row["episode_reward_mean"] == pytest.approx(2 * row["episode_len_mean"])  # CartPole pays 1, the wrapper 2


def test_a_script_that_raises_tells_sagemaker_why(opt_ml: OptMl) -> None:
    opt_ml.write({"sagemaker_program": "train-mine.py"})
    script = opt_ml.base / "code" / "train-mine.py"
    script.parent.mkdir(parents=True)
    script.write_text(
        "from sagemaker_rl.ray_launcher import SageMakerRayLauncher\nraise ValueError('my own mistake')\n"
    )
    done = opt_ml.run()
    assert done.code == 1
    assert opt_ml.failure.startswith("ValueError: my own mistake\n")


def test_a_folder_of_ours_in_the_users_source_is_named(opt_ml: OptMl) -> None:
    opt_ml.write({"sagemaker_program": "train-reacher.py"})
    opt_ml.add_code(SCRIPTS / "train-reacher.py")
    (opt_ml.base / "code" / "envs").mkdir()
    (opt_ml.base / "code" / "envs" / "__init__.py").write_text("")
    done = opt_ml.run()
    assert done.code == 1
    assert "envs: got a folder of that name in " in opt_ml.failure
    assert "rename it" in opt_ml.failure.lower()


@pytest.mark.system
def test_a_script_of_2020_with_a_model_for_masked_actions_gets_ours(opt_ml: OptMl) -> None:
    """Its own hyperparameters reach its argv; its environment raises when an item is put where it does not fit."""
    opt_ml.write(
        {
            "sagemaker_program": '"train-bins.py"',
            "num_items": "5",
            "action_factor": "1",
            "learning_freq": "2",
            "rl.training.stop.training_iteration": "2",
            "rl.training.video_freq": "0",
        }
    )
    opt_ml.add_code(SCRIPTS / "train-bins.py", SCRIPTS / "bins_env.py")
    done = opt_ml.run(timeout_s=600)
    assert done.code == 0, done.log[-3000:]
    assert "ARGUMENTS 5 1.0 2" in done.log
    assert done.log.count("rl.training.config.model.custom_model has no meaning today: the network is RLlib's own") == 1
    assert opt_ml.rows[-1]["episode_len_mean"] == 5
    manifest = json.loads((opt_ml.base / "model" / "manifest.json").read_text())
    assert manifest["observation_space"]["mask_size"] == 6
    assert [export["inputs"]["action_mask"]["shape"] for export in manifest["exports"]] == [[-1, 6]] * 3
