"""A pole on a cart, by DQN."""

from rl_coach.agents.dqn_agent import DQNAgentParameters
from rl_coach.base_parameters import VisualizationParameters
from rl_coach.core_types import *  # noqa: F403
from rl_coach.environments.gym_environment import GymVectorEnvironment
from rl_coach.graph_managers.basic_rl_graph_manager import BasicRLGraphManager
from rl_coach.graph_managers.graph_manager import ScheduleParameters
from rl_coach.memories.memory import MemoryGranularity
from rl_coach.schedules import LinearSchedule

schedule_params = ScheduleParameters()
schedule_params.improve_steps = TrainingSteps(600)  # noqa: F405
schedule_params.steps_between_evaluation_periods = EnvironmentEpisodes(10)  # noqa: F405
schedule_params.evaluation_steps = EnvironmentEpisodes(1)  # noqa: F405
schedule_params.heatup_steps = EnvironmentSteps(200)  # noqa: F405

agent_params = DQNAgentParameters()
agent_params.algorithm.num_steps_between_copying_online_weights_to_target = EnvironmentSteps(100)  # noqa: F405
agent_params.algorithm.discount = 0.99
agent_params.algorithm.num_consecutive_playing_steps = EnvironmentSteps(1)  # noqa: F405
agent_params.network_wrappers["main"].learning_rate = 0.00025
agent_params.network_wrappers["main"].replace_mse_with_huber_loss = False
agent_params.memory.max_size = (MemoryGranularity.Transitions, 40000)
agent_params.exploration.epsilon_schedule = LinearSchedule(1.0, 0.01, 10000)

graph_manager = BasicRLGraphManager(
    agent_params=agent_params,
    env_params=GymVectorEnvironment(level="CartPole-v0"),
    schedule_params=schedule_params,
    vis_params=VisualizationParameters(),
)
