"""A training script in the style of 2020 that registers a TensorFlow model of its own for masked actions."""

import argparse

import numpy as np
import ray  # noqa: F401
from bins_env import MaskedBinsEnv
from ray.rllib.models import ModelCatalog
from ray.rllib.models.tf.fcnet import FullyConnectedNetwork
from ray.rllib.models.tf.tf_modelv2 import TFModelV2
from ray.rllib.utils import try_import_tf
from ray.rllib.utils.torch_ops import FLOAT_MIN  # noqa: F401
from ray.tune.registry import register_env
from sagemaker_rl.ray_launcher import SageMakerRayLauncher

tf1, tf, tfv = try_import_tf()


class MaskedActionsModel(TFModelV2):
    def __init__(self, obs_space, action_space, num_outputs, model_config, name, true_obs_shape=(4,), **kwargs):
        super().__init__(obs_space, action_space, num_outputs, model_config, name, **kwargs)
        true_obs_space = model_config["custom_model_config"]["space"]
        self.inner = FullyConnectedNetwork(true_obs_space, action_space, num_outputs, model_config, name + "_inner")

    def forward(self, input_dict, state, seq_lens):
        logits, _ = self.inner({"obs": input_dict["obs"]["real_obs"]})
        mask = tf.maximum(tf.math.log(input_dict["obs"]["action_mask"]), tf.float32.min)
        return logits + mask, state

    def value_function(self):
        return self.inner.value_function()


class MyLauncher(SageMakerRayLauncher):
    def __init__(self):
        super().__init__()
        parser = argparse.ArgumentParser()
        parser.add_argument("--num_items", type=int, default=6)
        parser.add_argument("--action_factor", type=float)
        parser.add_argument("--learning_freq", type=str)
        args, _ = parser.parse_known_args()
        print("ARGUMENTS", args.num_items, args.action_factor, args.learning_freq)
        self.env_config = {"num_items": args.num_items, "bag_capacity": 9}

    def register_env_creator(self):
        register_env("MaskedBins-v1", lambda env_config: MaskedBinsEnv(env_config))
        ModelCatalog.register_custom_model("action_mask", MaskedActionsModel)

    def get_experiment_config(self):
        return {
            "training": {
                "env": "MaskedBins-v1",
                "run": "PPO",
                "config": {
                    "gamma": 0.995,
                    "lr": 0.001,
                    "entropy_coeff": 0.01,
                    "sgd_minibatch_size": 60,
                    "train_batch_size": 240,
                    "num_workers": 0,
                    "use_gae": False,
                    "batch_mode": "complete_episodes",
                    "observation_filter": "MeanStdFilter",
                    "env_config": self.env_config,
                    "model": {
                        "custom_model": "action_mask",
                        "custom_model_config": {"shape": np.array([4]), "limits": {"low": np.zeros(4)}},
                        "fcnet_hiddens": [32, 32],
                        "vf_share_layers": False,
                    },
                },
            }
        }


if __name__ == "__main__":
    MyLauncher().train_main()
