"""The commands `smrl` and `serve`. Heavy libraries are imported by the job that needs them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from runtime.errors import JobError, UserError
from runtime.settings.command_line import (
    at_least_0,
    folder,
    natural,
    parse_settings,
    port,
    positive,
    refuse_settings,
    share,
)

if TYPE_CHECKING:
    from runtime.container.layout import Container
    from runtime.container.signals import StopRequest

_EPILOG = """\
settings are NAME=VALUE, with the names that SageMaker hyperparameters have:
  smrl train --preset hopper rl.training.config.lr=1e-4 rl.training.stop.time_total_s=60
  smrl evaluate results/reacher-20260101-120000 evaluate_episodes=20
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    # Every argument that is not an option is a setting, in any position.
    arguments, settings = _parser().parse_known_args(sys.argv[1:] if argv is None else argv)
    arguments.settings = settings
    try:
        code: int = arguments.command(arguments)
    except JobError as error:
        sys.stderr.write(f"smrl: error: {error}\n")
        return error.exit_code
    return code


class _Version(argparse.Action):
    """Prints the installed version; looked up only when asked for, as the look-up is slow."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from importlib import metadata

        try:
            version = metadata.version("smrl")
        except metadata.PackageNotFoundError:
            parser.error("--version: smrl is not installed as a package; pip install it")
        print(f"smrl {version}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="smrl",
        description="Reinforcement learning for SageMaker, docker run, or this machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version of smrl and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="train a policy", epilog=_EPILOG, formatter_class=parser.formatter_class)
    train.add_argument("--preset", help="name of a preset, or path of a .yaml file")
    train.add_argument("--out", type=folder, help="results folder; a job that it holds is resumed")
    train.add_argument("--data", help="logged episodes to learn from: CSV, Parquet, HDF5 or a Minari dataset's folder")
    train.set_defaults(command=_train)
    _add_collect(commands)
    _add_join(commands)
    _add_ope(commands)
    evaluate = commands.add_parser("evaluate", help="evaluate a trained policy")
    evaluate.add_argument(
        "model",
        nargs="?",
        type=Path,
        help="results folder, model directory, checkpoint or model.tar.gz; the container's channel if absent",
    )
    evaluate.add_argument(
        "--out", type=folder, help="where evaluation.json and the video go; evaluation/ beside the model if not given"
    )
    evaluate.add_argument("--car", type=Path, help="evaluate the archive NAME.tar.gz of a DeepRacer car instead")
    evaluate.set_defaults(command=_evaluate)
    export = commands.add_parser("export", help="export a trained policy as SavedModel, ONNX and Torch program")
    export.add_argument("model", type=Path, help="results folder or model directory; the files are written into it")
    export.add_argument("--car", type=folder, help="write the archive NAME.tar.gz for a DeepRacer car instead")
    export.epilog = "checkpoint=best exports the best checkpoint instead of the final one"
    export.set_defaults(command=_export)
    serve = commands.add_parser("serve", help="serve an exported policy over HTTP, as SageMaker's hosting expects")
    serve.add_argument(
        "model", nargs="?", type=Path, help="model directory, results folder or model.tar.gz; the container's if absent"
    )
    serve.add_argument("--host", help="address to listen on; every one in a container, 127.0.0.1 on a laptop if absent")
    serve.add_argument("--port", type=positive, help="port to listen on; SAGEMAKER_BIND_TO_PORT or 8080 if not given")
    serve.add_argument("--workers", type=positive, help="worker processes; one per core if not given")
    serve.add_argument("--access-log", action="store_true", help="print a JSON line for each request")
    serve.add_argument("--temperature", type=at_least_0, help="sample actions from the policy at this temperature")
    serve.add_argument("--epsilon", type=share, help="sample this share of the actions uniformly, 0 to 1")
    serve.add_argument("--capture", type=folder, help="folder for decisions, in the layout of SageMaker's Data Capture")
    serve.set_defaults(command=_serve)
    transform = commands.add_parser("transform", help="run batch transform on files, as SageMaker does")
    transform.add_argument("model", type=Path, help="model directory, results folder or model.tar.gz")
    transform.add_argument("--input", type=Path, required=True, help="JSON lines or CSV file, or a folder of them")
    transform.add_argument("--output", type=folder, required=True, help="folder for an .out file for each input file")
    transform.add_argument("--join", choices=("input",), help="write each record with its input, as JoinSource=Input")
    transform.set_defaults(command=_transform)
    tune = commands.add_parser(
        "tune", help="tune hyperparameters on this machine, as SageMaker's tuner does in the cloud"
    )
    tune.add_argument("job", nargs="?", type=Path, help="tuning job, JSON or YAML; the container's channel if absent")
    tune.add_argument("--preset", help="name of a preset, or path of a .yaml file")
    tune.add_argument("--out", type=folder, help="results folder; a tuning that it holds is resumed")
    tune.set_defaults(command=_tune)
    report = commands.add_parser("report", help="write an HTML report of results, or a comparison of several")
    report.add_argument("results", nargs="+", type=Path, help="results folders")
    report.add_argument("--out", type=folder, help="file to write; report.html in the folder, or comparison.html here")
    report.set_defaults(command=_report)
    watch = commands.add_parser("watch", help="serve the report of a job while it runs")
    watch.add_argument("results", type=Path, help="results folder")
    watch.add_argument("--host", default="127.0.0.1", help="address to listen on; 127.0.0.1 if not given")
    watch.add_argument("--port", type=port, help="port to listen on; 8081 if not given")
    watch.set_defaults(command=_watch)
    _add_deepracer(commands)
    check = commands.add_parser("check-env", help="check that an environment can be trained, without training")
    check.add_argument("env", help="Gymnasium id, or module:Class")
    check.epilog = "NAME=VALUE are keyword arguments of the environment, as size=7"
    check.set_defaults(command=_check_env)
    script = commands.add_parser("run", help="run a script of 2020, which imports gym, roboschool, sagemaker_rl, …")
    script.add_argument("script", type=Path, help="Python file")
    script.add_argument("words", nargs=argparse.REMAINDER, help="arguments of the script")
    script.set_defaults(command=_run)
    presets = commands.add_parser("presets", help="list the presets, or show one resolved")
    presets.add_argument("action", nargs="?", choices=("list", "show"), default="list")
    presets.add_argument("name", nargs="?", help="name of a preset")
    presets.set_defaults(command=_presets)
    return parser


def _add_collect(commands: Any) -> None:
    collect = commands.add_parser("collect", help="log episodes of an environment, as data for smrl train --data")
    collect.add_argument("--env", help="Gymnasium id, as CartPole-v0")
    collect.add_argument("--envs", type=positive, help="copies of the environment; 1 if not given")
    collect.add_argument("--episodes", type=positive, help="whole episodes to collect in each copy; 1 if not given")
    collect.add_argument("--steps", type=positive, help="steps to take in each copy, instead of episodes")
    collect.add_argument("--policy", default="uniform", help="uniform, or the results folder of a training")
    collect.add_argument("--epsilon", type=float, default=0.0, help="share of uniformly random actions, 0 to 1")
    collect.add_argument("--seed", type=natural, default=0, help="seed of environments and actions; 0 if not given")
    collect.add_argument("--out", type=folder, help="file to write, .csv or .parquet")
    collect.add_argument(
        "--states", type=folder, help="file for the final observations of the copies, for smrl transform"
    )
    collect.add_argument(
        "--action-probs",
        type=folder,
        help="output of smrl transform: the copies of --states continue with its probabilities",
    )
    collect.set_defaults(command=_collect)


def _add_join(commands: Any) -> None:
    join = commands.add_parser("join", help="join captured decisions and rewards, as data for smrl train --data")
    join.add_argument("inputs", nargs="+", type=Path, help="folders of smrl serve --capture, or files of JSON lines")
    join.add_argument("--out", type=Path, required=True, help="log to write, .csv or .parquet")
    join.add_argument(
        "--window", type=float, default=3600.0, help="longest time to a reward in seconds; 3600 if absent"
    )
    join.add_argument("--default-reward", type=float, default=0.0, help="reward where none came; 0 if not given")
    join.set_defaults(command=_join)


def _add_ope(commands: Any) -> None:
    ope = commands.add_parser("ope", help="estimate the return of any policy from a log, without an environment")
    ope.add_argument(
        "--policy",
        type=Path,
        help="results folder, model directory, model.tar.gz, ONNX file, RLlib's checkpoint, or d3rlpy's .d3 file",
    )
    ope.add_argument("--data", type=Path, help="log: CSV, Parquet, HDF5, a Minari dataset's folder, or RLlib's output")
    ope.add_argument("--gamma", type=float, default=0.99, help="discount per step, below 1; 0.99 if not given")
    ope.add_argument("--horizon", type=positive, help="steps after which every episode is over, if there is a limit")
    ope.add_argument("--temperature", type=at_least_0, help="evaluate actions sampled at this temperature")
    ope.add_argument("--epsilon", type=share, default=0.0, help="share of uniformly random actions, 0 to 1")
    ope.add_argument(
        "--estimate-behavior",
        action="store_true",
        help="estimate the log's action probabilities by behavior cloning where it has none",
    )
    ope.add_argument("--seed", type=natural, default=0, help="seed of features, resamples and rollouts")
    ope.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object")
    ope.set_defaults(command=_ope)


def _add_deepracer(commands: Any) -> None:
    tracks = commands.add_parser("tracks", help="list DeepRacer tracks, and draw them")
    tracks.add_argument("names", nargs="*", help="tracks; all if not given")
    tracks.add_argument("--tracks", type=folder, help="folder of the community's .npy files")
    tracks.add_argument("--out", type=folder, help="folder for a picture of each track")
    tracks.set_defaults(command=_tracks)
    check = commands.add_parser("reward-check", help="drive laps with a DeepRacer reward function, without training")
    check.add_argument("file", type=Path, help="Python file with reward_function(params)")
    check.add_argument("--out", type=folder, help="picture to write; beside the file if not given")
    check.epilog = "track=NAME, tracks=FOLDER, number_of_obstacles=6, … set the race; speed=2.5 the speed in m/s"
    check.set_defaults(command=_reward_check)


def _train(arguments: argparse.Namespace) -> int:
    from runtime.container.job import run_job
    from runtime.container.signals import LOOKING

    overrides: dict[str, Any] = dict(parse_settings(arguments.settings))
    if arguments.preset:
        overrides["preset"] = arguments.preset
    if arguments.data is not None:
        overrides["rl.training.data"] = arguments.data

    def train(container: Container, stop: StopRequest) -> None:
        from runtime.jobs.training import Request, run_training  # slow import, during which signals are handled
        from runtime.report.report_command import finish

        finish(run_training(container, stop, Request(overrides, results=arguments.out)))

    return run_job(train, phase=LOOKING)


def _evaluate(arguments: argparse.Namespace) -> int:
    from runtime.container.job import run_job
    from runtime.jobs.evaluation import run_evaluation
    from runtime.report.report_command import finish

    # If no model is given, argparse takes the first setting as the model.
    is_setting = arguments.model is not None and "=" in str(arguments.model) and not arguments.model.exists()
    words = [str(arguments.model), *arguments.settings] if is_setting else arguments.settings
    model = None if is_setting else arguments.model
    settings = parse_settings(words)
    return run_job(
        lambda container, stop: finish(
            run_evaluation(container, stop, settings, model=model, out=arguments.out, car=arguments.car)
        )
    )


def _export(arguments: argparse.Namespace) -> int:
    from runtime.container.job import run_job
    from runtime.jobs.export import run_export

    settings = parse_settings(arguments.settings)
    return run_job(lambda container, stop: run_export(arguments.model, settings, car=arguments.car))


def _serve(arguments: argparse.Namespace) -> int:
    from runtime.container.serving_settings import read_serving_settings
    from runtime.serving.server import ServeRequest, run_server

    refuse_settings(arguments.settings)
    names = ("model", "host", "port", "workers", "access_log", "temperature", "epsilon", "capture")
    given = {name: getattr(arguments, name) for name in names}
    run_server(read_serving_settings(), ServeRequest(**given))
    return 0


def _transform(arguments: argparse.Namespace) -> int:
    from runtime.container.job import run_job
    from runtime.serving.transform import run_transform

    refuse_settings(arguments.settings)
    return run_job(
        lambda container, stop: run_transform(
            arguments.model, arguments.input, arguments.output, stop, join=arguments.join is not None
        )
    )


def _collect(arguments: argparse.Namespace) -> int:
    from runtime.container.job import run_job
    from runtime.offline.data.collecting import CollectRequest, run_collect

    refuse_settings(arguments.settings)
    names = ("env", "envs", "episodes", "steps", "policy", "epsilon", "seed", "out", "states", "action_probs")
    request = CollectRequest(**{name: getattr(arguments, name) for name in names})
    return run_job(lambda container, stop: run_collect(request, stop))


def _join(arguments: argparse.Namespace) -> int:
    from runtime.offline.data.joining import JoinRequest, run_join

    refuse_settings(arguments.settings)
    run_join(JoinRequest(tuple(arguments.inputs), arguments.out, arguments.window, arguments.default_reward))
    return 0


def _ope(arguments: argparse.Namespace) -> int:
    from runtime.offline.ope_command import OpeRequest, run_ope

    refuse_settings(arguments.settings)
    names = ("policy", "data", "gamma", "horizon", "temperature", "epsilon", "estimate_behavior", "seed", "as_json")
    run_ope(OpeRequest(**{name: getattr(arguments, name) for name in names}))
    return 0


def _tune(arguments: argparse.Namespace) -> int:
    from runtime.container.job import run_job
    from runtime.report.report_command import finish
    from runtime.tuning.tuning_job import TuningRequest, run_tuning

    overrides: dict[str, Any] = dict(parse_settings(arguments.settings))
    if arguments.preset:
        overrides["preset"] = arguments.preset
    request = TuningRequest(arguments.job, overrides, arguments.out, finish)
    return run_job(lambda container, stop: finish(run_tuning(container, stop, request)))


def _report(arguments: argparse.Namespace) -> int:
    from runtime.report.report_command import run_report

    refuse_settings(arguments.settings)
    print(run_report(arguments.results, arguments.out))
    return 0


def _watch(arguments: argparse.Namespace) -> int:
    from runtime.report.watch import PORT, run_watch

    refuse_settings(arguments.settings)
    run_watch(arguments.results, host=arguments.host, port=arguments.port or PORT)
    return 0


def _tracks(arguments: argparse.Namespace) -> int:
    from runtime.families.deepracer.track_listing import list_tracks

    refuse_settings(arguments.settings)
    print(list_tracks(arguments.names, arguments.tracks, arguments.out))
    return 0


def _reward_check(arguments: argparse.Namespace) -> int:
    from runtime.families.deepracer.reward_check import check_reward
    from runtime.settings.types import parse_text

    settings = {name: parse_text(text) for name, text in parse_settings(arguments.settings).items()}
    out = arguments.out or arguments.file.with_suffix(".reward.png")
    print(check_reward(arguments.file, settings, out))
    return 0


def _check_env(arguments: argparse.Namespace) -> int:
    from runtime.cluster.session import prepare_environment
    from runtime.environments.check_env import run_check
    from runtime.settings.types import parse_text

    prepare_environment()  # so that pygame looks for no sound card
    settings = {name: parse_text(text) for name, text in parse_settings(arguments.settings).items()}
    print(run_check(arguments.env, settings))
    return 0


def _run(arguments: argparse.Namespace) -> int:
    """Replaces this process with Python running the script, its folder first on sys.path, as `python SCRIPT` does."""
    from runtime.container.environment_variables import mark_users_script

    if not arguments.script.is_file():
        raise UserError(f"run: got {arguments.script} from the command line; expected a Python file.")
    mark_users_script()
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, str(arguments.script), *arguments.words])


def _presets(arguments: argparse.Namespace) -> int:
    from runtime.reference.preset_listing import list_presets, show_preset

    if arguments.action == "show":
        if not arguments.name:
            raise UserError("presets show: got no name from the command line; expected the name of a preset.")
        print(show_preset(arguments.name, parse_settings(arguments.settings)))
    else:
        print(list_presets())
    return 0


def command() -> NoReturn:
    """Runs the command `smrl`."""
    from runtime.container.program import run_program

    run_program(main)


def serve() -> int:
    """Runs the command `serve`, by which SageMaker starts a hosting container."""
    return main(["serve", *sys.argv[1:]])


if __name__ == "__main__":
    command()
