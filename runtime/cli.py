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
    from runtime.outputs.console import Reporter

_EPILOG = """\
settings are NAME=VALUE, with the names that SageMaker hyperparameters have, or the end of one:
  smrl train --preset hopper rl.training.config.lr=1e-4 rl.training.stop.time_total_s=60
  smrl train --preset hopper lr=1e-4 time_total_s=60
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
    _add_options(train, env=True)
    train.set_defaults(command=_train)
    resume = commands.add_parser("resume", help="resume a training with the settings that it began with")
    resume.add_argument("results", type=Path, help="results folder")
    resume.epilog = "NAME=VALUE changes a setting, as stop.timesteps_total=2000000 for a training that has ended"
    _add_options(resume)
    resume.set_defaults(command=_resume)
    _add_collect(commands)
    _add_join(commands)
    _add_deploy_gate(commands)
    _add_rollback_check(commands)
    _add_ope(commands)
    evaluate = commands.add_parser("evaluate", help="evaluate a trained policy")
    evaluate.add_argument(
        "model",
        nargs="?",
        type=Path,
        help="results folder, model directory, checkpoint (RLlib's own too) or model.tar.gz; the channel if absent",
    )
    evaluate.add_argument(
        "--out", type=folder, help="where evaluation.json and the video go; evaluation/ beside the model if not given"
    )
    evaluate.add_argument("--car", type=Path, help="evaluate the archive NAME.tar.gz of a DeepRacer car instead")
    _add_options(evaluate, env=True)
    evaluate.set_defaults(command=_evaluate)
    export = commands.add_parser("export", help="export a trained policy as SavedModel, ONNX and Torch program")
    export.add_argument("model", type=Path, help="folder of results, a model or RLlib's checkpoint; written into it")
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
    serve.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="NAME=DIR:WEIGHT",
        help="a policy that answers this share of the decisions; repeat it, with weights that sum to 1",
    )
    serve.add_argument("--shadow", type=folder, help="model whose decisions are captured and not sent")
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
    _add_options(tune, env=True)
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
    listing = commands.add_parser("list", help="list trainings: state, return, steps, age")
    listing.add_argument("folder", nargs="?", type=Path, default=Path("results"), help="folder; results if not given")
    listing.add_argument("--json", action="store_true", help="print a JSON array")
    listing.set_defaults(command=_list)
    completion = commands.add_parser("completion", help="print a script that completes smrl's words in a shell")
    completion.add_argument("shell", choices=("bash", "zsh"))
    completion.epilog = "source <(smrl completion bash) in ~/.bashrc, or with zsh in ~/.zshrc"
    completion.set_defaults(command=_completion)
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
    examples = commands.add_parser("examples", help="copy the examples that the documentation names")
    examples.add_argument("folder", nargs="?", type=folder, default=Path("examples"), help="examples if not given")
    examples.set_defaults(command=_examples)
    return parser


def _add_options(command: argparse.ArgumentParser, *, env: bool = False) -> None:
    """Adds the short names of settings, and how much is printed."""
    if env:
        command.add_argument("--env", help="environment: a Gymnasium id, or module:Class")
        command.add_argument("--seed", type=natural, help="seed of environments, policy and shuffling")
    command.add_argument("--steps", type=positive, help="environment steps to end after")
    amount = command.add_mutually_exclusive_group()
    amount.add_argument("--quiet", action="store_true", help="print the last screen alone")
    amount.add_argument("--verbose", action="store_true", help="print lines, with every setting and its source")
    command.add_argument(
        "--json", action="store_true", help="print the last screen as JSON on stdout, the rest on stderr"
    )


def _settings(arguments: argparse.Namespace, **names: str) -> dict[str, Any]:
    """The settings of a command line, those that are options included.

    Args:
        arguments: The parsed arguments.
        names: Setting by option.

    Raises:
        UserError: A word is no setting, or an option is set again by its setting's name.
    """
    settings: dict[str, Any] = dict(parse_settings(arguments.settings))
    for option, setting in names.items():
        if option in settings and setting != option:
            settings[setting] = settings.pop(option)
        value = getattr(arguments, option)
        if value is None:
            continue
        if setting in settings:
            raise UserError(
                f"--{option}: got {value!r} beside {setting}={settings[setting]} from the command line; expected one "
                "of them. Leave the other out."
            )
        settings[setting] = str(value)
    return settings


def _take_seed(arguments: argparse.Namespace) -> int:
    """Takes `--seed 1` or `seed=1` out of a command line that has no settings of a job; 0 if there is neither.

    Raises:
        UserError: There are both, or it is no seed.
    """
    named = [word for word in arguments.settings if word.startswith("seed=")]
    arguments.settings = [word for word in arguments.settings if word not in named]
    given = [str(arguments.seed)] if arguments.seed is not None else []
    values = [*given, *(word.partition("=")[2] for word in named)]
    if len(values) > 1 or not all(value.isdigit() for value in values):
        raise UserError(
            f"seed: got {' and '.join(values) or 'nothing'} from the command line; expected one whole number of at "
            "least 0."
        )
    return int(values[0]) if values else 0


_OF_TRAINING = {
    "env": "rl.training.env",
    "seed": "rl.training.config.seed",
    "steps": "rl.training.stop.timesteps_total",
}


def _reporter(arguments: argparse.Namespace) -> Reporter | None:
    """How much a command prints; None for the usual amount."""
    from runtime.outputs.lines import JsonReporter, QuietReporter, VerboseReporter

    if arguments.json:
        return JsonReporter(is_quiet=arguments.quiet)
    if arguments.quiet:
        return QuietReporter()
    return VerboseReporter() if arguments.verbose else None


def _add_collect(commands: Any) -> None:
    collect = commands.add_parser("collect", help="log episodes of an environment, as data for smrl train --data")
    collect.add_argument("--env", help="Gymnasium id, as CartPole-v0")
    collect.add_argument("--envs", type=positive, help="copies of the environment; 1 if not given")
    collect.add_argument("--episodes", type=positive, help="whole episodes to collect in each copy; 1 if not given")
    collect.add_argument("--steps", type=positive, help="steps to take in each copy, instead of episodes")
    collect.add_argument("--policy", default="uniform", help="uniform, or the results folder of a training")
    collect.add_argument("--epsilon", type=float, default=0.0, help="share of uniformly random actions, 0 to 1")
    collect.add_argument("--seed", type=natural, help="seed of environments and actions; 0 if not given")
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


def _add_deploy_gate(commands: Any) -> None:
    gate = commands.add_parser("deploy-gate", help="decide from a log whether a policy may replace the served one")
    place = "model directory, results folder or model.tar.gz of"
    gate.add_argument("--champion", type=Path, required=True, help=f"{place} the policy that is served")
    gate.add_argument("--challenger", type=Path, required=True, help=f"{place} the policy that may replace it")
    gate.add_argument("--data", type=Path, required=True, help="log of episodes that neither policy learned from")
    gate.add_argument("--margin", type=float, default=0.0, help="return by which it must be better; 0 if not given")
    gate.add_argument("--gamma", type=float, default=0.99, help="discount per step; 0.99 if not given")
    gate.add_argument("--horizon", type=positive, help="steps after which every episode is over")
    gate.add_argument("--seed", type=natural, default=0, help="seed of the estimators; 0 if not given")
    gate.add_argument("--temperature", type=at_least_0, default=0.0, help="at which both are served; 0 if not given")
    gate.add_argument("--epsilon", type=share, default=0.0, help="with which both are served; 0 if not given")
    gate.epilog = "exit codes: 0 deploy the challenger, 4 do not, 2 a mistake on the command line or in a file"
    gate.set_defaults(command=_deploy_gate)


def _add_rollback_check(commands: Any) -> None:
    check = commands.add_parser("rollback-check", help="decide from joined rewards whether a variant is worse")
    check.add_argument("data", type=Path, help="log that smrl join wrote, of a server with --variant")
    check.add_argument("--control", required=True, help="name of the variant that a rollback returns to")
    check.add_argument("--treatment", required=True, help="name of the variant that may be worse")
    check.add_argument(
        "--rewards", type=float, nargs=2, required=True, metavar=("LEAST", "MOST"), help="range of all possible rewards"
    )
    check.add_argument("--alpha", type=float, default=0.05, help="chance of a false alarm, ever; 0.05 if not given")
    check.add_argument("--margin", type=float, default=0.0, help="reward by which it may be worse; 0 if not given")
    check.epilog = "exit codes: 0 keep the treatment, 4 roll back, 2 a mistake on the command line or in a file"
    check.set_defaults(command=_rollback_check)


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
    check.add_argument("--seed", type=natural, help="seed of objects that are placed at random; 0 if not given")
    check.epilog = "track=NAME, tracks=FOLDER, number_of_obstacles=6, … set the race; speed=2.5 the speed in m/s"
    check.set_defaults(command=_reward_check)


def _train(arguments: argparse.Namespace) -> int:
    from runtime.container.job import run_job
    from runtime.container.signals import LOOKING

    overrides = _settings(arguments, **_OF_TRAINING)
    if arguments.preset:
        overrides["preset"] = arguments.preset
    if arguments.data is not None:
        overrides["rl.training.data"] = arguments.data

    def train(container: Container, stop: StopRequest) -> None:
        from runtime.jobs.training import Request, run_training  # slow import, during which signals are handled
        from runtime.report.report_command import finish

        request = Request(overrides, results=arguments.out, reporter=_reporter(arguments))
        finish(run_training(container, stop, request))

    return run_job(train, phase=LOOKING)


def _resume(arguments: argparse.Namespace) -> int:
    from runtime.container.job import run_job
    from runtime.container.signals import LOOKING

    changes = _settings(arguments, steps=_OF_TRAINING["steps"])

    def resume(container: Container, stop: StopRequest) -> None:
        from runtime.jobs.resuming import describe_resumption, read_finished
        from runtime.jobs.training import run_training
        from runtime.outputs.console import Reporter
        from runtime.report.report_command import finish

        reporter = _reporter(arguments)
        request = describe_resumption(arguments.results, changes, reporter=reporter)
        finished = None if changes else read_finished(arguments.results)
        if finished is not None:
            (reporter or Reporter()).finish(finished)
            return
        finish(run_training(container, stop, request))

    return run_job(resume, phase=LOOKING)


def _evaluate(arguments: argparse.Namespace) -> int:
    from runtime.container.job import run_job
    from runtime.jobs.evaluation import run_evaluation
    from runtime.report.report_command import finish

    # If no model is given, argparse takes the first setting as the model.
    is_setting = arguments.model is not None and "=" in str(arguments.model) and not arguments.model.exists()
    words = [str(arguments.model), *arguments.settings] if is_setting else arguments.settings
    model = None if is_setting else arguments.model
    arguments.settings = words
    settings = _settings(arguments, env="env", seed="seed", steps="evaluate_steps")
    reporter = _reporter(arguments)
    return run_job(
        lambda container, stop: finish(
            run_evaluation(
                container, stop, settings, model=model, out=arguments.out, car=arguments.car, reporter=reporter
            )
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
    names = ("model", "host", "port", "workers", "access_log", "temperature", "epsilon", "capture", "shadow")
    given = {name: getattr(arguments, name) for name in names}
    run_server(read_serving_settings(), ServeRequest(**given, variant=tuple(arguments.variant)))
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

    seed = _take_seed(arguments)
    refuse_settings(arguments.settings)
    names = ("env", "envs", "episodes", "steps", "policy", "epsilon", "out", "states", "action_probs")
    request = CollectRequest(**{name: getattr(arguments, name) for name in names}, seed=seed)
    return run_job(lambda container, stop: run_collect(request, stop))


def _join(arguments: argparse.Namespace) -> int:
    from runtime.offline.data.joining import JoinRequest, run_join

    refuse_settings(arguments.settings)
    run_join(JoinRequest(tuple(arguments.inputs), arguments.out, arguments.window, arguments.default_reward))
    return 0


def _deploy_gate(arguments: argparse.Namespace) -> int:
    from runtime.offline.deploy_gate import GateRequest, run_gate
    from runtime.serving.exploring import Exploration

    refuse_settings(arguments.settings)
    names = ("champion", "challenger", "data", "margin", "gamma", "horizon", "seed")
    exploration = Exploration(arguments.temperature, arguments.epsilon)
    return run_gate(GateRequest(**{name: getattr(arguments, name) for name in names}, exploration=exploration))


def _rollback_check(arguments: argparse.Namespace) -> int:
    from runtime.offline.rollback_check import RollbackRequest, run_rollback_check

    refuse_settings(arguments.settings)
    least, most = arguments.rewards
    names = ("data", "control", "treatment", "alpha", "margin")
    return run_rollback_check(
        RollbackRequest(**{name: getattr(arguments, name) for name in names}, least=least, most=most)
    )


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

    overrides = _settings(arguments, **_OF_TRAINING)
    if arguments.preset:
        overrides["preset"] = arguments.preset
    request = TuningRequest(arguments.job, overrides, arguments.out, finish, _reporter(arguments))
    return run_job(lambda container, stop: finish(run_tuning(container, stop, request)))


def _report(arguments: argparse.Namespace) -> int:
    from runtime.report.report_command import run_report

    refuse_settings(arguments.settings)
    print(run_report(arguments.results, arguments.out))
    return 0


def _completion(arguments: argparse.Namespace) -> int:
    from runtime.completion import completion_script

    refuse_settings(arguments.settings)
    print(completion_script(arguments.shell, _parser()), end="")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from runtime.report.run_list import list_runs

    refuse_settings(arguments.settings)
    print(list_runs(arguments.folder, as_json=arguments.json))
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

    seed = _take_seed(arguments)
    settings = {name: parse_text(text) for name, text in parse_settings(arguments.settings).items()}
    out = arguments.out or arguments.file.with_suffix(".reward.png")
    print(check_reward(arguments.file, settings, out, seed=seed))
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


def _examples(arguments: argparse.Namespace) -> int:
    from runtime.reference.examples import copy_examples

    refuse_settings(arguments.settings)
    for path in copy_examples(arguments.folder):
        print(path)
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
