"""A pole on a cart, by PPO, with normalized observations."""

from rl_coach.agents.clipped_ppo_agent import ClippedPPOAgentParameters
from rl_coach.architectures.layers import Dense
from rl_coach.base_parameters import (
    DistributedCoachSynchronizationType,
    PresetValidationParameters,
    VisualizationParameters,
)
from rl_coach.core_types import EnvironmentEpisodes, EnvironmentSteps, TrainingSteps
from rl_coach.environments.gym_environment import GymVectorEnvironment
from rl_coach.exploration_policies.e_greedy import EGreedyParameters
from rl_coach.filters.observation.observation_normalization_filter import ObservationNormalizationFilter
from rl_coach.graph_managers.basic_rl_graph_manager import BasicRLGraphManager
from rl_coach.graph_managers.graph_manager import ScheduleParameters
from rl_coach.schedules import LinearSchedule

schedule_params = ScheduleParameters()
schedule_params.improve_steps = TrainingSteps(4096)
schedule_params.steps_between_evaluation_periods = EnvironmentSteps(2048)
schedule_params.evaluation_steps = EnvironmentEpisodes(5)
schedule_params.heatup_steps = EnvironmentSteps(0)

agent_params = ClippedPPOAgentParameters()
network = agent_params.network_wrappers["main"]
network.learning_rate = 0.0003
network.batch_size = 64
network.optimizer_epsilon = 1e-5
network.adam_optimizer_beta2 = 0.999
network.input_embedders_parameters["observation"].activation_function = "tanh"
network.input_embedders_parameters["observation"].scheme = [Dense(32)]
network.middleware_parameters.scheme = [Dense(48)]
network.middleware_parameters.activation_function = "tanh"
algorithm = agent_params.algorithm
algorithm.clip_likelihood_ratio_using_epsilon = 0.2
algorithm.clipping_decay_schedule = LinearSchedule(1.0, 0, 1000000)
algorithm.beta_entropy = 0
algorithm.gae_lambda = 0.95
algorithm.discount = 0.99
algorithm.optimization_epochs = 10
algorithm.estimate_state_value_using_gae = True
algorithm.num_steps_between_copying_online_weights_to_target = EnvironmentSteps(2048)
algorithm.distributed_coach_synchronization_type = DistributedCoachSynchronizationType.SYNC
agent_params.exploration = EGreedyParameters()
agent_params.exploration.epsilon_schedule = LinearSchedule(1.0, 0.01, 10000)
agent_params.pre_network_filter.add_observation_filter(
    "observation", "normalize_observation", ObservationNormalizationFilter(name="normalize_observation")
)

vis_params = VisualizationParameters()
vis_params.dump_gifs = True
preset_validation_params = PresetValidationParameters()
preset_validation_params.test = True
preset_validation_params.min_reward_threshold = 150

graph_manager = BasicRLGraphManager(
    agent_params=agent_params,
    env_params=GymVectorEnvironment(level="CartPole-v0"),
    schedule_params=schedule_params,
    vis_params=vis_params,
    preset_validation_params=preset_validation_params,
)
