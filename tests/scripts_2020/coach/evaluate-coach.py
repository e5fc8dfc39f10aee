"""An evaluation script in the style of 2020: Coach's launcher, made to evaluate a checkpoint."""

import argparse
import os

import rl_coach
from rl_coach.base_parameters import Frameworks, TaskParameters  # noqa: F401
from rl_coach.core_types import EnvironmentSteps
from sagemaker_rl.coach_launcher import CoachConfigurationList, SageMakerCoachPresetLauncher

BASE = os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml")


class MyLauncher(SageMakerCoachPresetLauncher):
    def default_preset_name(self):
        return "preset-cartpole-clippedppo"

    def start_single_threaded(self, task_parameters, graph_manager, args):
        graph_manager.agent_params.visualization.dump_csv = False
        graph_manager.create_graph(task_parameters)
        graph_manager.evaluate(EnvironmentSteps(args.evaluate_steps))
        graph_manager.close()

    def get_config_args(self, parser):
        args, _ = parser.parse_known_args(args=[])
        parser = self.sagemaker_argparser()
        sage_args, _ = parser.parse_known_args()
        args.preset = sage_args.RLCOACH_PRESET
        args.framework = Frameworks[os.getenv("COACH_BACKEND", "tensorflow")]
        args.checkpoint_save_dir = None
        args.checkpoint_restore_dir = os.path.join(BASE, "input/data/checkpoint")
        index = os.path.join(args.checkpoint_restore_dir, "checkpoint")
        with open(index) as f:
            contents = f.read()
        with open(index, "w") as f:
            f.write(contents.replace("/opt/ml/output/data/checkpoint", "."))
        args.experiment_path = os.path.join(BASE, "output/intermediate")
        rl_coach.logger.experiment_path = args.experiment_path
        args.evaluate = True
        args.evaluate_steps = sage_args.evaluate_steps
        args.no_summary = True
        self.hyperparameters = CoachConfigurationList()
        return args

    def sagemaker_argparser(self):
        parser = argparse.ArgumentParser()
        parser.add_argument("-p", "--RLCOACH_PRESET", default=self.default_preset_name(), type=str)
        parser.add_argument("--evaluate_steps", default=1000, type=int)
        return parser

    @classmethod
    def evaluate_main(cls):
        evaluator = cls()
        evaluator.launch()


if __name__ == "__main__":
    MyLauncher.evaluate_main()
