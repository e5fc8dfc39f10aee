"""A training script in the style of 2020: Coach's launcher, with shortcuts for two hyperparameters."""

import tensorflow as tf
from sagemaker_rl.coach_launcher import SageMakerCoachPresetLauncher


class MyLauncher(SageMakerCoachPresetLauncher):
    def default_preset_name(self):
        return "preset-cartpole-clippedppo"

    def map_hyperparameter(self, name, value):
        mapping = {
            "discount": "rl.agent_params.algorithm.discount",
            "evaluation_episodes": "rl.evaluation_steps:EnvironmentEpisodes",
            "improve_steps": "rl.improve_steps:TrainingSteps",
        }
        if name in mapping:
            self.apply_hyperparameter(mapping[name], value)
        else:
            super().map_hyperparameter(name, value)

    def _save_tf_model(self):
        session = tf.Session(config=tf.ConfigProto(allow_soft_placement=True))
        session.run(tf.global_variables_initializer())


if __name__ == "__main__":
    MyLauncher.train_main()
