"""Batch RL as its users run it: the loop of commands, the notebook's cells, and SageMaker's toolkit."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pandas
import pytest

from runtime.offline.results import COACH_CSV
from tests.conftest import BIN, ROOT, OptMl, clean_environment, run_smrl

pytestmark = pytest.mark.slow
SYSTEM = pytest.mark.system

# SageMaker's own regex for Coach's test episodes.
TESTING = re.compile(r"^Testing>.*Total reward=(.*?),", re.M)
FEW = ("rl.training.stop.training_iteration=2", "rl.training.config.updates_per_iteration=20")
QUICK = (*FEW, "rl.training.export=false")


def smrl(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = run_smrl(*words, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def fail(*words: str, cwd: Path) -> str:
    done = run_smrl(*words, cwd=cwd)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder to which `smrl collect` has logged the notebook's 500 episodes."""
    made = tmp_path_factory.mktemp("batch")
    words = ("--env", "CartPole-v0", "--envs", "100", "--episodes", "5", "--policy", "uniform", "--seed", "3")
    smrl("collect", *words, "--out", "data/cartpole.csv", cwd=made)
    return made


@pytest.fixture(scope="module")
def few(folder: Path) -> str:
    """The first 60 of the episodes, for tests of what learns from them and not of what it learns."""
    log = pandas.read_csv(folder / "data" / "cartpole.csv")
    log[log["episode_id"].isin(log["episode_id"].unique()[:60])].to_csv(folder / "data" / "few.csv", index=False)
    return "data/few.csv"


def learn(folder: Path, out: str, *words: str) -> Path:
    """Trains the preset; returns its results folder, with its output beside it."""
    done = smrl(*("train", "--preset", "cartpole-bcq", "--out", out, "rl.training.config.seed=0", *words), cwd=folder)
    (folder / out / "said.txt").write_text(done.stdout)
    return folder / out


@pytest.fixture(scope="module")
def learned(folder: Path) -> Path:
    """Results of the preset on all the episodes."""
    return learn(folder, "learned", "--data", "data/cartpole.csv")


@pytest.fixture(scope="module")
def results(folder: Path, few: str) -> Path:
    """Results of the preset after two short iterations."""
    return learn(folder, "results", "--data", few, *FEW)


def test_the_log_is_the_notebooks(folder: Path) -> None:
    log = pandas.read_csv(folder / "data" / "cartpole.csv")
    states = [f"state_feature_{i}" for i in range(4)]
    head = ["action", "all_action_probabilities", "episode_id", "reward", "cumulative_rewards", *states]
    assert list(log.columns) == [*head, "transition_number", "terminated", "truncated"]
    assert log["episode_id"].nunique() == 500
    mean = log["cumulative_rewards"].sum() / 500  # the notebook's own cell
    assert mean == log.groupby("episode_id")["reward"].sum().mean()
    assert 18 < mean < 28
    assert log["all_action_probabilities"].unique().tolist() == ["[0.5, 0.5]"]


@pytest.mark.parametrize(("fixture", "iterations"), [("results", 2), pytest.param("learned", 16, marks=SYSTEM)])
def test_a_policy_is_chosen_and_its_return_estimated_beside_the_logs(
    fixture: str, iterations: int, request: pytest.FixtureRequest
) -> None:
    results = request.getfixturevalue(fixture)
    said = (results / "said.txt").read_text()
    chosen = re.search(rf"chosen policy +iteration (\d+) of {iterations}", said)
    summary = json.loads((results / "ope.json").read_text())
    value, low, high = (summary["value"][name] for name in ("value", "low", "high"))
    shown = f"{value:.2f} [{low:.2f}, {high:.2f}], discounted by 0.99, with its 95 % interval"
    if summary["refused"]:
        shown = (
            f"{value:.2f}, discounted by 0.99, without an interval\n  interval          refused: {summary['refused']}"
        )
    logged = re.search(r"logged return +(\S+) \[", said)
    assert chosen
    assert f"estimated return  {shown}" in said
    assert logged
    assert float(logged[1]) < 25
    assert 0 < low <= value <= high <= 100
    if fixture == "learned":
        assert low > 25
    assert summary["chosen_iteration"] == int(chosen[1])
    rows = [json.loads(line) for line in (results / "metrics.jsonl").read_text().splitlines()]
    best = max(row["pessimistic_return"] for row in rows)
    close = [row["training_iteration"] for row in rows if row["pessimistic_return"] >= 0.99 * best]
    assert close[-1] == int(chosen[1])
    assert said.count("Off-Policy Evaluation> Epoch=") == iterations
    manifest = json.loads((results / "model" / "manifest.json").read_text())
    assert manifest["algorithm"] == "BCQ"
    assert manifest["chosen_iteration"] == int(chosen[1])
    assert [entry["format"] for entry in manifest["exports"]] == ["tensorflow-savedmodel", "onnx", "torch-export"]
    assert manifest["signatures"]["serving_default"]["outputs"] == {
        "action_probabilities": {"dtype": "float32", "shape": [-1, 2]}
    }


@SYSTEM
def test_the_chosen_policy_holds_the_pole_up(learned: Path, folder: Path) -> None:
    said = smrl("evaluate", "learned", "evaluate_steps=1000", "seed=5", cwd=folder).stdout
    rewards = [float(found) for found in TESTING.findall(said)]
    assert 5 <= len(rewards) <= 7
    assert np.mean(rewards) >= 190
    assert (learned / "evaluation" / "evaluation.mp4").stat().st_size > 1000


def test_the_notebooks_plotting_cell_runs_on_the_csv(results: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    frame = pandas.read_csv(results / COACH_CSV)
    frame = frame.dropna(subset=["Sequential Doubly Robust"])
    frame.dropna(subset=["Weighted Importance Sampling"])
    assert len(frame) == 2
    plt.figure(figsize=(12, 5))
    plt.xlabel("Number of epochs")
    first = frame["Weighted Importance Sampling"].plot(color="blue", grid=True, label="WIS")
    second = frame["Sequential Doubly Robust"].plot(color="red", grid=True, secondary_y=True, label="SDR")
    handles, labels = first.get_legend_handles_labels()
    more_handles, more_labels = second.get_legend_handles_labels()
    plt.legend(handles + more_handles, labels + more_labels, loc=1)
    assert len(first.get_lines()) == 1
    assert len(second.get_lines()) == 1
    plt.close("all")


def test_the_loop_closes_states_to_probabilities_to_rollouts(results: Path, folder: Path) -> None:
    """Three rounds: transform the states, act by the probabilities, and write the states that follow."""
    smrl("collect", "--env", "CartPole-v0", "--envs", "6", "--seed", "1", "--states", "s.jsonl", cwd=folder)
    for turn in range(3):
        smrl("transform", "results", "--input", "s.jsonl", "--output", "out", "--join", "input", cwd=folder)
        smrl("collect", "--action-probs", "out/s.jsonl.out", "--states", "s.jsonl", "--out", "new.csv", cwd=folder)
        log = pandas.read_csv(folder / "new.csv")
        assert len(log) == 6 * (turn + 1)
    answers = [json.loads(line) for line in (folder / "out" / "s.jsonl.out").read_text().splitlines()]
    latest = log[log["transition_number"] == 2]
    np.testing.assert_allclose(
        latest.filter(like="state_feature"), [line["SageMakerInput"] for line in answers], rtol=1e-5
    )
    chosen = [int(np.argmax(line["SageMakerOutput"]["predictions"][0])) for line in answers]
    assert latest["action"].tolist() == chosen  # the probabilities are 0 and 1
    # Probabilities for states of ended episodes are ignored.
    stale = fail("collect", "--action-probs", "out/s.jsonl.out", "--states", "s.jsonl", "--out", "new.csv", cwd=folder)
    assert "line 1: got probabilities for the state" in stale
    assert len(pandas.read_csv(folder / "new.csv")) == 18


@SYSTEM
def test_a_trained_policy_collects_better_data(learned: Path, folder: Path) -> None:
    words = ("--env", "CartPole-v0", "--envs", "10", "--policy", "learned", "--epsilon", "0.1")
    smrl("collect", *words, "--out", "better.parquet", cwd=folder)
    log = pandas.read_parquet(folder / "better.parquet")
    assert log.groupby("episode_id")["reward"].sum().mean() > 100
    assert {round(p, 3) for row in log["all_action_probabilities"] for p in row} == {0.05, 0.95}
    ends = log.groupby("episode_id").last()
    np.testing.assert_array_equal(ends["truncated"], ends["transition_number"] == 199)


def read_rows(results: Path) -> list[dict[str, float]]:
    """metrics.jsonl without its clock."""
    rows = [json.loads(line) for line in (results / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "time_total_s"} for row in rows]


@SYSTEM
def test_a_job_resumes_from_its_checkpoint_as_if_never_stopped(folder: Path, few: str) -> None:
    words = ("train", "--data", few, *QUICK[1:], "rl.training.config.seed=4")
    smrl(*words, "--out", "resumed", "rl.training.stop.training_iteration=2", cwd=folder)
    done = smrl(*words, "--out", "resumed", "rl.training.stop.training_iteration=4", cwd=folder)
    assert "resuming from" in done.stderr
    rows = read_rows(folder / "resumed")
    assert [row["training_iteration"] for row in rows] == [1, 2, 3, 4]
    assert [row["updates"] for row in rows] == [20, 40, 60, 80]
    assert len(pandas.read_csv(folder / "resumed" / COACH_CSV)) == 4
    smrl(*words, "--out", "through", "rl.training.stop.training_iteration=4", cwd=folder)
    assert read_rows(folder / "through") == rows
    said = fail(*words, "--out", "through", "rl.training.run=DDQN", "rl.training.config.gamma=0.5", cwd=folder)
    assert "algorithm: got 'DDQN' for " in said
    assert "gamma: got 0.5 for " in said
    assert "start a new job with another --out" in said


@SYSTEM
def test_a_job_resumes_with_the_episodes_that_it_began_with(folder: Path, few: str) -> None:
    """Otherwise a restart would evaluate on episodes that it has learned from."""
    words = ("train", "--out", "unseeded", *QUICK[1:])
    data = ("--data", few)
    first = smrl(*words, *data, "rl.training.stop.training_iteration=1", cwd=folder)
    second = smrl(*words, *data, "rl.training.stop.training_iteration=2", cwd=folder)
    split = [re.search(r"smrl: (.* held out)", done.stderr) for done in (first, second)]
    assert split[0]
    assert split[1]
    assert split[0][1] == split[1][1]
    said = fail(*words, *data, "rl.training.config.seed=5", "rl.training.stop.training_iteration=3", cwd=folder)
    assert "rl.training.config.seed: got 5 from the command line; expected" in said
    log = pandas.read_csv(folder / few).drop(columns="all_action_probabilities")
    log.loc[0, "action"] = 2
    log.to_csv(folder / "three.csv", index=False)
    said = fail(*words, "--data", "three.csv", "rl.training.stop.training_iteration=3", cwd=folder)
    assert "got a checkpoint whose action_space is Discrete(2); expected Discrete(3), as the data has" in said


@SYSTEM
def test_continuous_actions_from_log_to_server(folder: Path) -> None:
    smrl("collect", "--env", "Pendulum-v1", "--envs", "12", "--steps", "60", "--out", "p.csv", cwd=folder)
    words = ("train", "--data", "p.csv", "rl.training.env=Pendulum-v1", "rl.training.config.gamma=0.9", *FEW)
    done = smrl(*words, "rl.training.run=IQL", "--out", "iql", cwd=folder)
    assert "policies are evaluated by fitted Q evaluation alone" in done.stderr
    (folder / "p.jsonl").write_text("[1.0, 0.0, 0.5]\n[0.0, 1.0, -3.0]\n")
    smrl("transform", "iql", "--input", "p.jsonl", "--output", "po", cwd=folder)
    found = [json.loads(line)["predictions"][0] for line in (folder / "po" / "p.jsonl.out").read_text().splitlines()]
    assert all(-2 <= action <= 2 for (action,) in found)
    assert "evaluated 1 episodes" in smrl("evaluate", "iql", "evaluate_episodes=1", cwd=folder).stdout
    smrl(*words, "rl.training.run=BCQ", "--out", "bcq", cwd=folder)
    smrl("transform", "bcq", "--input", "p.jsonl", "--output", "po", cwd=folder)
    found = [json.loads(line)["predictions"][0] for line in (folder / "po" / "p.jsonl.out").read_text().splitlines()]
    assert all(-2 <= action <= 2 for (action,) in found)
    assert "evaluated 1 episodes" in smrl("evaluate", "bcq", "evaluate_episodes=1", cwd=folder).stdout


@SYSTEM
def test_a_log_without_probabilities_or_an_environment(folder: Path, few: str) -> None:
    log = pandas.read_csv(folder / few)
    log.drop(columns=["all_action_probabilities", "terminated", "truncated"]).to_csv(folder / "bare.csv", index=False)
    done = smrl("train", "--data", "bare.csv", "--out", "bare", *QUICK, cwd=folder)
    assert "the data has no action probabilities" in done.stderr
    rows = [json.loads(line) for line in (folder / "bare" / "metrics.jsonl").read_text().splitlines()]
    assert all("weighted_importance_sampling" in row for row in rows)
    assert "env: got none, and the model names none" in fail("evaluate", "bare", cwd=folder)
    said = smrl("evaluate", "bare", "env=CartPole-v0", "evaluate_episodes=2", cwd=folder).stdout
    assert len(TESTING.findall(said)) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--preset", "cartpole-bcq"), "data: got no data; expected logged episodes. Name them with --data"),
        (("--data", "none.csv"), "data: got 'none.csv', which does not exist"),
        (("--data", "data/cartpole.csv", "rl.training.run=IQL"), "got 'IQL' for data with discrete actions"),
        (("--data", "data/cartpole.csv", "rl.training.run=PPO"), "expected an algorithm that learns from data"),
        (
            ("--data", "data/cartpole.csv", "rl.training.config.kl_coeff=1", "rl.training.stop.timesteps_total=5"),
            "rl.training.config.kl_coeff: got 1.0 from the command line; expected a setting of BCQ: seed, horizon",
        ),
        (
            ("--data", "data/cartpole.csv", "rl.training.config.gamma=1"),
            "expected a number between 0 and 0.999 for logged data",
        ),
        (
            ("--data", "data/cartpole.csv", "rl.training.env=Acrobot-v1"),
            "got 4 state features and 2 discrete actions; expected 6 and 3 discrete, as Acrobot-v1 has",
        ),
        (("--preset", "reacher", "rl.training.config.loss=mse"), "expected a setting of PPO"),
    ],
)
def test_settings_that_do_not_fit_are_refused(words: tuple[str, ...], message: str, folder: Path) -> None:
    assert message in fail("train", *words, "--out", "refused", cwd=folder)
    assert not list((folder / "refused").rglob("metrics.jsonl"))


@SYSTEM
def test_coachs_job_under_sagemakers_toolkit(folder: Path, opt_ml: OptMl, tmp_path: Path) -> None:
    """The notebook's hyperparameters and source folder; then its evaluation of the checkpoint that came out."""
    script = tmp_path / "train-coach.py"
    script.write_text(
        "from sagemaker_rl.coach_launcher import SageMakerCoachPresetLauncher\n"
        "class MyLauncher(SageMakerCoachPresetLauncher):\n"
        "    def default_preset_name(self):\n"
        "        return 'preset-cartpole-ddqnbcq'\n"
        "if __name__ == '__main__':\n"
        "    MyLauncher.train_main()\n"
    )
    shutil.copy(folder / "data" / "cartpole.csv", tmp_path / "cartpole_dataset.csv")
    coach = {"RLCOACH_PRESET": '"preset-cartpole-ddqnbcq"', "save_model": "1", "sagemaker_program": '"train-coach.py"'}
    opt_ml.write({**coach, **dict(word.split("=") for word in FEW)})
    opt_ml.add_code(script, tmp_path / "cartpole_dataset.csv")
    done = opt_ml.run()
    assert done.code == 0, done.log[-3000:]
    output = opt_ml.base / "output"
    frame = pandas.read_csv(output / "intermediate" / COACH_CSV)
    assert frame[["Weighted Importance Sampling", "Sequential Doubly Robust"]].notna().all().all()
    assert (opt_ml.base / "model" / "1" / "saved_model.pb").is_file()
    assert (output / "data" / "ope.png").stat().st_size > 10_000

    evaluation = OptMl(tmp_path / "evaluation", opt_ml.environment)
    preset = {"RLCOACH_PRESET": '"preset-cartpole-ddqnbcq-env"', "evaluate_steps": "60"}
    evaluation.write({**preset, "sagemaker_program": "evaluate.py"}, channels=("checkpoint",))
    shutil.copytree(output / "data" / "checkpoint", evaluation.base / "input/data/checkpoint", dirs_exist_ok=True)
    evaluation.add_code(ROOT / "entrypoints" / "evaluate.py")
    evaluated = evaluation.run()
    assert evaluated.code == 0, evaluated.log[-3000:]
    assert TESTING.findall(evaluated.log)


@SYSTEM
def test_a_stopped_job_hands_over_what_it_has(folder: Path, few: str) -> None:
    words = ("train", "--data", few, "--out", "stopped", "rl.training.stop.time_total_s=600")
    command = [str(BIN / "smrl"), *words, "rl.training.config.updates_per_iteration=50"]
    said = ""
    with subprocess.Popen(
        command, cwd=folder, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as job:
        for line in job.stdout or ():
            said += line
            if line.startswith("training_iteration: 3 "):
                job.send_signal(signal.SIGTERM)
    assert job.returncode == 0, said
    assert "ended because" in said
    assert "stopped by SIGTERM" in said
    manifest = json.loads((folder / "stopped" / "model" / "manifest.json").read_text())
    assert manifest["training_iteration"] >= 3
    assert manifest["exports"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--env: got none; expected the environment to collect from"),
        (("--env", "Nope-v0", "--out", "x.txt"), "2 problems with this collection"),
        (("--env", "CartPole-v0"), "--out: got none; expected a file to write"),
        (("--env", "CartPole-v0", "--out", "a.csv", "--states", "a.csv"), "--states: got 'a.csv'"),
        (("--env", "CartPole-v0", "--out", "a.csv", "--epsilon", "nan"), "--epsilon: got nan"),
        (("--env", "CartPole-v0", "--out", "a.csv", "--steps", "1", "--episodes", "1"), "expected one of them"),
        (("--action-probs", "x.out", "--states", "s.jsonl"), "--out: got none beside --action-probs"),
        (("--action-probs", "x.out", "--states", "none.jsonl", "--out", "a.csv"), "got no session (FileNotFoundError"),
        (("--env", "Acrobot-v1", "--policy", "results", "--out", "a.csv"), "--policy: got one for observations (4,)"),
    ],
)
def test_collections_that_cannot_be_are_refused(words: tuple[str, ...], message: str, results: Path) -> None:
    assert message in fail("collect", *words, cwd=results.parent)
    assert not (results.parent / "a.csv").exists()


def test_episodes_that_were_not_played_to_their_end_stay_open(folder: Path) -> None:
    from runtime.offline.data.reading import read_transitions
    from runtime.offline.data.transitions import UNKNOWN

    smrl("collect", "--env", "CartPole-v0", "--envs", "9", "--steps", "4", "--out", "cut.csv", cwd=folder)
    data = read_transitions(folder / "cut.csv")
    np.testing.assert_array_equal(data.next_rows[3::4], np.full(9, UNKNOWN))
    assert "9 of 9 episodes were cut off, not ended" in data.notes[0]
