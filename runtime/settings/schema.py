"""Every hyperparameter that a job takes: its type, range, and one line of what it does.

Names are today's RLlib names (ray 2.60); `old_names` maps those of 2020 onto them.
"""

from __future__ import annotations

from runtime.settings.types import Setting

OFFLINE_ALGORITHMS = ("BCQ", "DDQN", "CQL", "TD3+BC", "IQL")

TRAINING: dict[str, Setting] = {
    "env": Setting("text", "Environment: a Gymnasium id, or module:Class; null for a log without one.", none_ok=True),
    "run": Setting("text", "Algorithm; all but PPO learn from logged data.", choices=("PPO", *OFFLINE_ALGORITHMS)),
    "data": Setting("text", "Logged data: a file or folder; the channel training, train or data if not given."),
    "restore": Setting("text", "Checkpoint, results folder or model folder to go on from."),
    "trust_checkpoint": Setting("bool", "Resume from a checkpoint whose pickles could run code of its author."),
    "checkpoint_freq": Setting("int", "Iterations between checkpoints; 0 for none but the last.", low=0),
    "checkpoint_at_end": Setting("bool", "Accepted; a job always ends with a checkpoint, the model's own."),
    "video_freq": Setting("int", "Iterations between videos; 0 for none.", low=0),
    "fast": Setting("bool", "PPO: sample and learn by compiled code where it covers the job; false: by RLlib's own."),
    "cluster_timeout_s": Setting(
        "float", "Several hosts: how long they wait for each other before the job fails.", low=0, above=True
    ),
    "export": Setting("bool", "At the end, export the policy as SavedModel, ONNX and Torch program."),
}

STOP: dict[str, Setting] = {
    "episode_reward_mean": Setting("float", "Mean return of the last 100 episodes."),
    "timesteps_total": Setting("int", "Environment steps.", low=0, above=True),
    "training_iteration": Setting("int", "Training iterations.", low=0, above=True),
    "time_total_s": Setting("float", "Seconds of training, without start-up.", low=0, above=True),
    "episodes_total": Setting("int", "Finished episodes.", low=0, above=True),
    "evaluation_progress_mean": Setting(
        "float", "DeepRacer: per cent of the lap, mean of an iteration's evaluations.", low=0, above=True, high=100
    ),
}

_BATCH: dict[str, Setting] = {
    "train_batch_size": Setting("int", "Environment steps in an iteration's batch.", low=0, above=True),
    "minibatch_size": Setting("int", "Steps in a gradient step's minibatch.", low=0, above=True),
    "num_epochs": Setting("int", "Passes over each batch.", low=0, above=True),
    "rollout_fragment_length": Setting("int_or_auto", "Steps that a runner collects at a time.", low=0, above=True),
    "batch_mode": Setting("text", "Where rollouts are cut.", choices=("truncate_episodes", "complete_episodes")),
    "shuffle_batch_per_epoch": Setting("bool", "Whether each epoch shuffles the batch anew."),
    "min_time_s_per_iteration": Setting("float", "Least seconds of an iteration.", low=0, none_ok=True),
    "min_sample_timesteps_per_iteration": Setting("int", "Least steps of an iteration.", low=0),
}

_LOSS: dict[str, Setting] = {
    "lr": Setting("schedule", "Adam's learning rate.", low=0),
    "gamma": Setting("float", "Discount per step.", low=0, high=1),
    "lambda_": Setting("float", "GAE's lambda.", low=0, high=1),
    "use_gae": Setting("bool", "Generalized advantage estimation; false: discounted returns minus values (lambda_ 1)."),
    "use_critic": Setting("bool", "A value function as baseline."),
    "clip_param": Setting("float", "PPO's ratio clip.", low=0, above=True),
    "vf_clip_param": Setting("float", "Clip of the squared value error; large for large returns.", low=0, above=True),
    "vf_loss": Setting("text", "DeepRacer: the value loss.", choices=("mse", "huber")),
    "vf_loss_coeff": Setting("float", "Weight of the value loss.", low=0),
    "entropy_coeff": Setting("schedule", "Weight of the entropy bonus.", low=0),
    "use_kl_loss": Setting("bool", "Adaptive KL penalty."),
    "kl_coeff": Setting("float", "Initial weight of the KL penalty.", low=0),
    "kl_target": Setting("float", "KL that the penalty aims at.", low=0, above=True),
    "grad_clip": Setting("float", "Largest gradient norm.", low=0, above=True, none_ok=True),
    "grad_clip_by": Setting("text", "What grad_clip bounds.", choices=("global_norm", "norm", "value")),
    "torch_skip_nan_gradients": Setting("bool", "Skip updates whose gradients are NaN."),
}

_SAMPLING: dict[str, Setting] = {
    "num_env_runners": Setting("int_or_auto", "Sampling processes; 0 samples in the main process.", low=0),
    "num_envs_per_env_runner": Setting(
        "int", "Environments, or Unity players, that a runner steps together.", low=0, above=True
    ),
    "num_cpus_per_env_runner": Setting("float", "CPUs reserved for a runner.", low=0),
    "num_gpus_per_env_runner": Setting("float", "GPUs reserved for a runner.", low=0),
    "gym_env_vectorize_mode": Setting("text", "How a runner steps its environments.", choices=("sync", "async")),
    "observation_filter": Setting("text", "Running normalisation.", choices=("MeanStdFilter", "NoFilter")),
    "normalize_actions": Setting("bool", "Policy in ±1, scaled to the action space."),
    "clip_actions": Setting("bool", "Clip actions into the action space."),
    "explore": Setting("bool", "Sample actions while training."),
    "horizon": Setting("int", "Cut episodes after this many steps.", low=0, above=True, none_ok=True),
    "sample_timeout_s": Setting("float", "Longest wait for a runner, in s.", low=0, above=True),
    "restart_failed_env_runners": Setting("bool", "Start a runner anew when its process dies."),
    "restart_failed_sub_environments": Setting("bool", "Build an environment anew when it raises."),
    "ignore_env_runner_failures": Setting("bool", "Go on without a dead runner."),
    "max_num_env_runner_restarts": Setting("int", "Restarts before giving up.", low=0),
    "env_config": Setting("mapping", "Keyword arguments of the environment."),
    "episodes_per_iteration": Setting("int", "DeepRacer: whole episodes of an iteration.", low=0, above=True),
    "epsilon_greedy": Setting("float", "DeepRacer: least share of uniform actions.", low=0, high=1, none_ok=True),
    "epsilon_steps": Setting("int", "DeepRacer: steps over which that share falls from 1.", low=0, above=True),
    "most_steps_per_iteration": Setting("int", "DeepRacer: episodes that last longer are dropped.", low=0, above=True),
}

_LEARNING: dict[str, Setting] = {
    "num_learners": Setting("int", "Learner processes; 0 learns in the main process.", low=0),
    "num_cpus_per_learner": Setting("float", "CPUs reserved for a learner.", low=0),
    "num_gpus_per_learner": Setting("float", "GPUs for each learner.", low=0),
    "seed": Setting("int", "Seed of environments, policy and shuffling.", low=0, high=2**32 - 1, none_ok=True),
    "metrics_num_episodes_for_smoothing": Setting("int", "Episodes in each mean.", low=0, above=True),
}

PPO: dict[str, Setting] = _BATCH | _LOSS | _SAMPLING | _LEARNING

_ACTIVATIONS = ("tanh", "relu", "swish", "silu", "linear")

MODEL: dict[str, Setting] = {
    "fcnet_hiddens": Setting("ints", "Widths of the hidden layers.", low=0, above=True),
    "fcnet_activation": Setting("text", "Activation of the hidden layers.", choices=_ACTIVATIONS),
    "fcnet_use_layernorm": Setting("bool", "LayerNorm after each hidden layer."),
    "fcnet_kernel_initializer": Setting("text", "Name in torch.nn.init for hidden weights.", none_ok=True),
    "fcnet_kernel_initializer_kwargs": Setting("mapping", "Its arguments.", none_ok=True),
    "fcnet_bias_initializer": Setting("text", "Name in torch.nn.init for hidden biases.", none_ok=True),
    "fcnet_bias_initializer_kwargs": Setting("mapping", "Its arguments.", none_ok=True),
    "head_fcnet_hiddens": Setting("ints", "Hidden layers of the policy and value heads.", low=0, above=True),
    "head_fcnet_activation": Setting("text", "Activation of the heads' hidden layers.", choices=_ACTIVATIONS),
    "head_fcnet_kernel_initializer": Setting("text", "Name in torch.nn.init for head weights.", none_ok=True),
    "head_fcnet_kernel_initializer_kwargs": Setting("mapping", "Its arguments.", none_ok=True),
    "conv_filters": Setting("layers", "Convolutions as [channels, kernel, stride].", low=0, above=True, none_ok=True),
    "conv_activation": Setting("text", "Activation of the convolutions.", choices=_ACTIVATIONS),
    "free_log_std": Setting("bool", "One log standard deviation an action, not a function of the state."),
    "initial_log_std": Setting(
        "float", "Its value before training; needs free_log_std or use_sde.", low=-10, high=2, none_ok=True
    ),
    "use_sde": Setting("bool", "Exploration that depends on the state and lasts for some steps (gSDE)."),
    "sde_sample_freq": Setting("int", "Steps that a draw of such noise lasts.", low=0, above=True),
    "log_std_clip_param": Setting("float", "Bound on the log standard deviation.", low=0, above=True),
    "vf_share_layers": Setting("bool", "One network for policy and value."),
    "use_lstm": Setting("bool", "An LSTM after the encoder."),
    "lstm_cell_size": Setting("int", "Its width.", low=0, above=True),
    "max_seq_len": Setting("int", "Steps that it is trained through.", low=0, above=True),
}

OFFLINE: dict[str, Setting] = {
    "train_batch_size": Setting("int", "Transitions of an update.", low=0, above=True, high=1_000_000),
    "updates_per_iteration": Setting("int", "Updates between two estimates of the policy's return.", low=0, above=True),
    "lr": Setting("float", "Adam's learning rate.", low=0, above=True, high=1),
    "gamma": Setting("float", "Discount per step.", low=0, high=0.999),
    "loss": Setting("text", "Of the Q function for discrete actions.", choices=("mse", "huber")),
    "target_network_update_freq": Setting("int", "Updates between copies of the target network.", low=0, above=True),
    "action_flexibility": Setting(
        "float", "BCQ: least probability of an action, of the likeliest's.", low=0, high=0.99
    ),
    "weight_averaging": Setting(
        "float", "Share of the old mean in the averaged weights, which act; less at first.", low=0, high=1
    ),
    "train_fraction": Setting("float", "Share of the episodes to learn from; the rest judge.", low=0.05, high=0.95),
    "num_actions": Setting("int", "Of discrete actions, where the data does not say.", low=1, above=True, none_ok=True),
    "seed": Setting("int", "Seed of the split, the weights and the batches.", low=0, high=2**32 - 1, none_ok=True),
    "horizon": _SAMPLING["horizon"],
    "env_config": _SAMPLING["env_config"],
}

OFFLINE_MODEL: dict[str, Setting] = {
    "fcnet_hiddens": MODEL["fcnet_hiddens"],
    "fcnet_activation": Setting("text", MODEL["fcnet_activation"].doc, choices=("relu", "tanh", "swish")),
}

OFFLINE_STOP: dict[str, Setting] = {name: STOP[name] for name in ("training_iteration", "time_total_s")}

EVALUATION: dict[str, Setting] = {
    "evaluate_episodes": Setting("int", "Episodes to play.", low=0, above=True),
    "evaluate_steps": Setting("int", "Steps to play at least, in whole episodes; instead.", low=0, above=True),
    "env": Setting("text", "Environment; the one that the model was trained on if not given."),
    "algorithm": Setting("text", "Algorithm that trained the model.", choices=("PPO", *OFFLINE_ALGORITHMS)),
    "checkpoint": Setting("text", "Checkpoint below the model directory, as best; its final one if not given."),
    "seed": Setting("int", "Seed of the first episode; each further one adds 1.", low=0, high=2**32 - 1),
    "trust_checkpoint": Setting("bool", "Read the pickles of a model that an older version wrote."),
}

# A DeepRacer race, under the names of the simulator's job files.
RACE: dict[str, Setting] = {
    "race_type": Setting(
        "text", "Kind of race.", choices=("TIME_TRIAL", "OBJECT_AVOIDANCE", "HEAD_TO_BOT", "HEAD_TO_MODEL", "F1")
    ),
    "reverse_dir": Setting("bool", "Drive the track against its order."),
    "alternate_driving_direction": Setting("bool", "Turn round with each episode."),
    "change_start_position": Setting("bool", "Start each episode farther along the track."),
    "round_robin_advance_dist": Setting("float", "By how much, as a share of the lap.", low=0),
    "start_position_offset": Setting("float", "Share of the lap of the first start.", low=0),
    "number_of_resets": Setting("int", "How often a car may go on after a failure.", low=0),
    "off_track_penalty": Setting("float", "Seconds of standing after leaving the track.", low=0),
    "collision_penalty": Setting("float", "Seconds of standing after a crash.", low=0),
    "penalty_seconds": Setting("float", "Seconds that a bot car stands after it was hit.", low=0),
    "is_continuous": Setting("bool", "Laps follow each other in one episode."),
    "number_of_obstacles": Setting("int", "Boxes on the track.", low=0, high=100),
    "min_distance_between_obstacles": Setting("float", "Metres from the start to the first.", low=0),
    "randomize_obstacle_locations": Setting("bool", "Place them anew in each episode."),
    "is_obstacle_bot_car": Setting("bool", "Parked cars instead of boxes."),
    "object_positions": Setting("any", "Share of the lap and lane of each object."),
    "number_of_bot_cars": Setting("int", "Cars that drive by themselves.", low=0, high=100),
    "bot_car_speed": Setting("float", "Their metres a second.", low=0),
    "is_lane_change": Setting("bool", "They change lanes."),
    "lower_lane_change_time": Setting("float", "Seconds between changes, at least.", low=0),
    "upper_lane_change_time": Setting("float", "At most.", low=0),
    "lane_change_distance": Setting("float", "Metres that a change takes.", low=0),
    "min_distance_between_bot_cars": Setting("float", "Metres from the start to the first.", low=0),
    "randomize_bot_car_locations": Setting("bool", "Place them anew in each episode."),
    "enable_domain_randomization": Setting("bool", "A light of its own in each episode."),
    "dynamics": Setting("any", "How the car answers: kinematic, real, or a mapping as {latency_s: 0.1}."),
}

# What else an evaluation of a DeepRacer policy takes.
RACE_EVALUATION: dict[str, Setting] = {
    **RACE,
    "track": Setting("text", "DeepRacer: a built-in track, a file, or its name in tracks."),
    "tracks": Setting("text", "DeepRacer: folder of track files."),
    "number_of_trials": Setting("int", "DeepRacer: laps to drive.", low=0, above=True, high=10_000),
    "against": Setting("text", "DeepRacer: another model, on the track at the same time."),
    "params": Setting("text", "DeepRacer: an evaluation_params.yaml; settings beside it win."),
}

DEFAULTS: dict[str, object] = {
    "run": "PPO",
    "checkpoint_freq": 10,
    "checkpoint_at_end": True,
    "video_freq": 20,
    "fast": True,
    "export": True,
    "trust_checkpoint": False,
    "cluster_timeout_s": 600.0,
    "config.num_env_runners": "auto",
    "config.observation_filter": "NoFilter",
    "config.metrics_num_episodes_for_smoothing": 100,
}

# For an environment that no preset is for; PPO's usual numbers, as Stable-Baselines3 and CleanRL have them.
ANY_ENVIRONMENT: dict[str, object] = {
    "config.num_envs_per_env_runner": 8,
    "config.train_batch_size": 4096,
    "config.minibatch_size": 256,
    "config.num_epochs": 10,
    "config.lr": 3e-4,
    "config.gamma": 0.99,
    "config.lambda_": 0.95,
    "config.clip_param": 0.2,
    "config.use_kl_loss": False,
    "config.vf_clip_param": 1e4,
    "config.vf_loss_coeff": 0.5,
    "config.grad_clip": 0.5,
    "config.observation_filter": "MeanStdFilter",
    "config.model.fcnet_hiddens": [64, 64],
    "config.model.fcnet_activation": "tanh",
    "config.model.vf_share_layers": False,
}

# For a Unity scene that no preset is for: one player a runner, and images as they are.
ANY_SCENE: dict[str, object] = {
    **ANY_ENVIRONMENT,
    "config.num_envs_per_env_runner": 1,
    "config.train_batch_size": 2048,
    "config.observation_filter": "NoFilter",
    "config.entropy_coeff": 0.005,
}

# For a log that no preset is for: the numbers of the preset cartpole-bcq.
ANY_LOG: dict[str, object] = {
    "run": "BCQ",
    "stop.training_iteration": 16,
    "config.updates_per_iteration": 250,
    "config.train_batch_size": 128,
    "config.lr": 3e-4,
    "config.gamma": 0.99,
    "config.loss": "mse",
    "config.target_network_update_freq": 50,
    "config.action_flexibility": 0.3,
    "config.weight_averaging": 0.999,
    "config.train_fraction": 0.7,
    "config.model.fcnet_hiddens": [128, 128],
    "config.model.fcnet_activation": "relu",
}


def setting_of(path: str) -> Setting | None:
    """The setting at a path below `rl.training`, as `config.model.fcnet_hiddens`; None if there is none."""
    if path.startswith("stop."):
        return STOP.get(path.removeprefix("stop."))
    if path.startswith("config.model."):
        return MODEL.get(path.removeprefix("config.model."))
    if path.startswith("config.env_config."):
        return Setting("any", "A keyword argument of the environment.")
    if path.startswith("config."):
        name = path.removeprefix("config.")
        return PPO.get(name) or OFFLINE.get(name)
    return TRAINING.get(path)


def known_paths() -> list[str]:
    """All paths below `rl.training`, for suggestions and docs."""
    return [
        *TRAINING,
        *(f"stop.{name}" for name in STOP),
        *(f"config.{name}" for name in PPO | OFFLINE),
        *(f"config.model.{name}" for name in MODEL),
    ]
