"""`sagemaker_rl.coach_launcher`: trains, or evaluates, what a preset of Coach describes.

Source: awslabs' `sagemaker_rl/coach_launcher.py`, whose methods scripts override.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from runtime.compat.arguments import as_arguments
from runtime.compat.coach.hyperparameters import CoachConfigurationList
from runtime.compat.coach.levels import find_creator, register_for_evaluation
from runtime.compat.coach.outputs import CoachFamily, copy_checkpoint, write_gifs
from runtime.compat.coach.preset_files import folder_of_script, load_graph
from runtime.compat.coach.translation import Translation, translate
from runtime.compat.coach.vocabulary import (
    BatchRLGraphManager,
    EnvironmentEpisodes,
    Frameworks,
    GraphManager,
    StepMethod,
    TaskParameters,
)
from runtime.container.job import run_script
from runtime.container.layout import Container
from runtime.container.signals import StopRequest
from runtime.errors import Problems, UserError, suggest
from runtime.jobs.evaluation import run_evaluation
from runtime.jobs.training import Request, run_training
from runtime.report.report_command import finish
from runtime.settings.renamed import PRESETS_OF_2020

__all__ = ["CoachConfigurationList", "SageMakerCoachPresetLauncher"]

_OURS = "rl.training."
_SHORTCUTS = ("rl.agent_params.…", "rl.env_params.…", "rl.improve_steps:TrainingSteps")


class SageMakerCoachPresetLauncher:
    """Trains the graph that a preset describes: a .py file beside the script that leaves `graph_manager`.

    Subclasses implement `default_preset_name`, may override `map_hyperparameter`, `get_config_args` and
    `start_single_threaded`, and call `train_main()`, or `launch()` to evaluate.

    Attributes:
        hyperparameters: Values for the graph's attributes, by path.
    """

    def __init__(self) -> None:
        self.hyperparameters = CoachConfigurationList()
        self._own_settings: dict[str, Any] = {}
        self._translated_before: Translation | None = None
        self._preset = ""

    def default_preset_name(self) -> str:
        """Returns the preset that is trained where no hyperparameter names one."""
        preset = getattr(self, "DEFAULT_PRESET", None)
        if preset is None:
            raise UserError(f"{type(self).__name__}.default_preset_name: missing; expected a method of the subclass.")
        return str(preset)

    @classmethod
    def train_main(cls) -> None:
        """Trains, and ends the process with an exit code other than 0 on failure."""
        cls().launch()

    def launch(self) -> None:
        """Reads the arguments and the preset, and runs the graph."""
        run_script(self._run)

    # What subclasses override

    def sagemaker_argparser(self) -> argparse.ArgumentParser:
        """Returns the parser of the arguments that are not hyperparameters of the preset."""
        parser = _Arguments(allow_abbrev=False)
        parser.add_argument("-n", "--num_workers", default=1, type=int)
        parser.add_argument("-p", "--RLCOACH_PRESET", default=self.default_preset_name())
        parser.add_argument("--save_model", default=0, type=int)
        return parser

    def get_config_args(self, parser: argparse.ArgumentParser) -> argparse.Namespace:
        """Returns the arguments; hyperparameters of the preset go to `map_hyperparameter` one by one.

        Args:
            parser: Has Coach's own arguments, whose defaults the result starts with.

        Raises:
            UserError: A hyperparameter is unknown; all are listed.
        """
        args, _ = parser.parse_known_args([])
        given, others = self.sagemaker_argparser().parse_known_args()
        args.num_workers = given.num_workers
        args.preset = given.RLCOACH_PRESET
        args.save_model = given.save_model
        self.hyperparameters = CoachConfigurationList()
        problems = Problems("the hyperparameters of the preset")
        for name, value in _pairs(others):
            name = name.replace("__", ".") if name.startswith("rl__") else name
            if name.startswith(_OURS) or name == "seed":
                self._own_settings[name] = value
                continue
            try:
                self.map_hyperparameter(name, value)
            except UserError as error:
                problems.add_line(str(error))
        problems.raise_if_any()
        return args

    def map_hyperparameter(self, name: str, value: Any) -> None:
        """Maps a hyperparameter to an attribute of the graph; subclasses add shortcuts.

        Raises:
            UserError: The name does not begin with `rl.`, and is no shortcut.
        """
        if not name.startswith("rl."):
            raise UserError(
                f"{name}: got {value!r} from the hyperparameters; expected a name that {type(self).__name__}."
                f"map_hyperparameter knows, an attribute of the preset's graph ({', '.join(_SHORTCUTS)}), or a setting "
                f"of smrl ({_OURS}…)." + suggest(name, _names_in(type(self).map_hyperparameter))
            )
        self.apply_hyperparameter(name, value)

    def apply_hyperparameter(self, name: str, value: Any) -> None:
        """Notes a value for an attribute of the graph."""
        print(f"Applying RL hyperparameter {name}={value}")
        self.hyperparameters.store(name, value)

    def path_of_main_launcher(self) -> str:
        """Returns the folder of the script."""
        return str(folder_of_script())

    def preset_from_name(self, preset_name: str) -> GraphManager:
        """Loads the graph of a preset.

        Raises:
            UserError: There is no such file, it fails, or it leaves no `graph_manager`.
        """
        print(f"Loading preset {preset_name} from {self.path_of_main_launcher()}")
        return load_graph(preset_name, Path(self.path_of_main_launcher()))

    def get_graph_manager_from_args(self, args: argparse.Namespace) -> GraphManager:
        """Loads the preset's graph, and sets the hyperparameters in it."""
        graph = self.preset_from_name(args.preset)
        self._translated_before = translate(graph, self._preset)
        self.hyperparameters.apply_subset(graph, "rl.")
        return graph

    def start_single_threaded(
        self, task_parameters: TaskParameters, graph_manager: GraphManager, args: argparse.Namespace
    ) -> None:
        """Trains; evaluation scripts evaluate instead."""
        graph_manager.create_graph(task_parameters)
        graph_manager.improve()
        graph_manager.close()

    def start_multi_threaded(self, graph_manager: GraphManager, args: argparse.Namespace) -> None:
        """Trains in one process: `rl.training.config.num_env_runners` adds processes that sample."""
        self.start_single_threaded(TaskParameters(), graph_manager, args)

    def _save_tf_model(self) -> None:
        """Does nothing: every job writes the policy as SavedModel, ONNX and Torch program."""

    _save_onnx_model = _save_tf_model

    # The job

    def _run(self, container: Container, stop: StopRequest) -> None:
        if len(sys.argv) == 1 and container.hyperparameters:
            sys.argv += as_arguments(container.hyperparameters)
        args = self.get_config_args(_coachs_arguments())
        self._preset = _preset_file(args.preset)
        is_ours = args.preset.removeprefix("preset-").removesuffix(".py") in PRESETS_OF_2020
        is_training = type(self).start_single_threaded is SageMakerCoachPresetLauncher.start_single_threaded
        if is_ours and is_training and not (Path(self.path_of_main_launcher()) / self._preset).is_file():
            request = Request({"preset": args.preset, **self._own_settings}, source="the hyperparameters")
            finish(run_training(replace(container, hyperparameters={}), stop, request))
            return
        graph = self.get_graph_manager_from_args(args)
        bare = replace(container, hyperparameters={})
        graph.attach(
            improve=lambda: self._improve(graph, args, bare, stop),
            evaluate=lambda steps: self._evaluate(graph, args, bare, stop, steps),
        )
        self._mention_arguments(args)
        task = TaskParameters(experiment_path=str(getattr(args, "experiment_path", "")))
        if getattr(args, "num_workers", 1) > 1:
            self.start_multi_threaded(graph, args)
        else:
            self.start_single_threaded(task, graph, args)

    def _mention_arguments(self, args: argparse.Namespace) -> None:
        if getattr(args, "num_workers", 1) > 1:
            _note(f"num_workers={args.num_workers}: rl.training.config.num_env_runners adds processes that sample")
        own = (type(self)._save_tf_model, type(self)._save_onnx_model)
        if getattr(args, "save_model", 0) and own != (SageMakerCoachPresetLauncher._save_tf_model,) * 2:
            _note("_save_tf_model and _save_onnx_model of the script are not called: every job exports its policy")

    def _improve(self, graph: GraphManager, args: argparse.Namespace, container: Container, stop: StopRequest) -> None:
        """Translates the graph, and trains."""
        translation = translate(graph, self._preset, given=self.hyperparameters.applied)
        for note in translation.notes:
            _note(note)
        name = args.preset.removeprefix("preset-").removesuffix(".py")
        request = self._request(translation, PRESETS_OF_2020.get(name))
        result = run_training(container, stop, request)
        if result is not None and result.layout is not None:
            copy_checkpoint(result.layout)
            if graph.visualization_parameters.dump_gifs and request.family is not None:  # else nothing was played
                write_gifs(result.layout, result.reporter)
        finish(result)

    def _request(self, translation: Translation, our_preset: str | None) -> Request:
        """Returns the request for a graph; one that our preset takes the place of changes what a user changed in it."""
        own = self._own_settings
        if our_preset is not None:
            before = {} if self._translated_before is None else self._translated_before.settings
            changed = {path: value for path, value in translation.settings.items() if before.get(path) != value}
            _note(
                f"the numbers are those of smrl's preset {our_preset}, which is measured; hyperparameters override them"
            )
            settings = {f"{_OURS}{path}": value for path, value in changed.items()}
            log = {f"{_OURS}data": translation.settings["data"]} if "data" in translation.settings else {}
            return Request({"preset": our_preset, **log, **settings, **own}, source="the hyperparameters")
        level = str(translation.settings.get("env", ""))
        creator = find_creator(level) if level else None
        return Request(
            own,
            source="the hyperparameters",
            experiment=translation.as_experiment(),
            experiment_source=self._preset,
            find_creator=lambda name: creator if name == level else None,
            family=CoachFamily(translation.reward_scale) if level else None,
        )

    def _evaluate(
        self,
        graph: GraphManager,
        args: argparse.Namespace,
        container: Container,
        stop: StopRequest,
        steps: StepMethod,
    ) -> None:
        """Evaluates the checkpoint that the arguments name, or that of the job's channel."""
        counted = "evaluate_episodes" if isinstance(steps, EnvironmentEpisodes) else "evaluate_steps"
        level = None if graph.env_params is None else str(graph.env_params.level)
        settings: dict[str, Any] = {counted: steps.num_steps}
        creator = find_creator(level) if level else None
        if level is not None and creator is not None:
            register_for_evaluation(level, creator)
        if level is not None:
            settings["env"] = level
        place = getattr(args, "checkpoint_restore_dir", None)
        result = run_evaluation(container, stop, settings, model=None if place is None else Path(place))
        if not isinstance(graph, BatchRLGraphManager):  # whose evaluation prints them by itself
            _print_episodes(json.loads(Path(result.summary.facts["results"]).read_text(encoding="utf-8")))
        finish(result)


def _print_episodes(report: Mapping[str, Any]) -> None:
    """Prints Coach's line for each episode of an evaluation, which SageMaker's metric definitions read."""
    for number, episode in enumerate(report["episodes"], start=1):
        print(
            f"Testing> Name=main_level/agent, Worker=0, Episode={number}, "
            f"Total reward={episode['total_reward']}, Exploration=0, Steps={episode['steps']}"
        )


class _Arguments(argparse.ArgumentParser):
    """A parser whose errors are the user's."""

    def error(self, message: str) -> NoReturn:
        """Raises.

        Raises:
            UserError: Always.
        """
        raise UserError(f"arguments of {Path(sys.argv[0]).name}: {message}; expected --NAME VALUE for each.")


def _coachs_arguments() -> argparse.ArgumentParser:
    """Returns a parser with the arguments of Coach's own launcher that scripts read or set."""
    parser = _Arguments(allow_abbrev=False)
    for name in (
        "preset",
        "experiment_name",
        "experiment_path",
        "checkpoint_restore_dir",
        "checkpoint_save_dir",
        "seed",
    ):
        parser.add_argument(f"--{name}")
    for name in ("evaluate", "no_summary", "render", "export_onnx_graph"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--num_workers", type=int, default=1)
    parser.add_argument("--checkpoint_save_secs", type=int)
    parser.add_argument("--framework", default=Frameworks.tensorflow)
    return parser


def _pairs(words: list[str]) -> list[tuple[str, str]]:
    """Splits `--name value` words.

    Raises:
        UserError: A name has no value, or a word is none.
    """
    if len(words) % 2 or not all(word.startswith("-") for word in words[::2]):
        raise UserError(f"arguments: got {' '.join(words)!r}; expected --NAME VALUE for each.")
    return [(name.lstrip("-"), value) for name, value in zip(words[::2], words[1::2], strict=True)]


def _names_in(function: Any) -> list[str]:
    """Returns the texts in a function, among which are the shortcuts that it knows."""
    constants = getattr(function, "__code__", None)
    texts = constants.co_consts if constants is not None else ()
    flat = [one for text in texts for one in (text if isinstance(text, tuple) else (text,))]
    return [text for text in flat if isinstance(text, str) and text.isidentifier()]


def _preset_file(name: str) -> str:
    return f"{name.removesuffix('.py')}.py"


def _note(text: str) -> None:
    sys.stderr.write(f"smrl: {text}\n")
