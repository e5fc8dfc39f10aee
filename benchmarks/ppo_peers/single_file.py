"""PPO in one file, in the manner of CleanRL: a loop, PyTorch, and nothing else."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical, Normal

from benchmarks.ppo_peers.counting import Clock, makers, quiet, read_job

_ENVS = 8
_STEPS = 512
_MINIBATCH = 128
_EPOCHS = 10
_GAMMA = 0.99
_LAMBDA = 0.95
_CLIP = 0.2


def _layer(inputs: int, outputs: int, advantage: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, advantage)
    nn.init.zeros_(layer.bias)
    return layer


def _network(inputs: int, outputs: int, advantage: float) -> nn.Sequential:
    root = float(np.sqrt(2))
    return nn.Sequential(
        _layer(inputs, 64, root), nn.Tanh(), _layer(64, 64, root), nn.Tanh(), _layer(64, outputs, advantage)
    )


class _Agent(nn.Module):
    def __init__(self, envs: Any) -> None:
        super().__init__()
        inputs = int(np.prod(envs.single_observation_space.shape))
        space = envs.single_action_space
        self.is_discrete = isinstance(space, gymnasium.spaces.Discrete)
        actions = int(space.n) if self.is_discrete else int(np.prod(space.shape))
        self.actor = _network(inputs, actions, 0.01)
        self.critic = _network(inputs, 1, 1.0)
        self.log_std = nn.Parameter(torch.zeros(1, actions))

    def distribution(self, seen: torch.Tensor) -> Any:
        outputs = self.actor(seen)
        return Categorical(logits=outputs) if self.is_discrete else Normal(outputs, self.log_std.exp())

    def log_probability(self, distribution: Any, actions: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = distribution.log_prob(actions)
        return found if self.is_discrete else found.sum(1)

    def entropy(self, distribution: Any) -> torch.Tensor:
        found: torch.Tensor = distribution.entropy()
        return found if self.is_discrete else found.sum(1)


def main() -> None:  # one function is what this stands for
    """Trains, and prints one line of JSON."""
    job = read_job()
    torch.set_num_threads(1)
    torch.manual_seed(job["seed"])
    returns: list[float] = []
    clock = Clock(returns, threshold=None)
    with quiet():
        envs: Any = gymnasium.vector.SyncVectorEnv(
            makers(job["env"], _ENVS, returns), autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP
        )
        agent = _Agent(envs)
        adam = torch.optim.Adam(agent.parameters(), lr=3e-4, eps=1e-5)
        seen = torch.tensor(envs.reset(seed=job["seed"])[0], dtype=torch.float32)
    ended = torch.zeros(_ENVS)
    steps = 0
    while steps < job["steps"]:
        clock.mark(steps)
        rows: dict[str, list[torch.Tensor]] = {n: [] for n in ("seen", "ended", "actions", "logp", "rewards", "values")}
        for _ in range(_STEPS):
            with torch.no_grad():
                distribution = agent.distribution(seen)
                actions = distribution.sample()
                logp = agent.log_probability(distribution, actions)
                value = agent.critic(seen).flatten()
            moves = actions.numpy()
            if not agent.is_discrete:
                moves = np.clip(moves, envs.single_action_space.low, envs.single_action_space.high)
            following, rewards, terminated, truncated, _ = envs.step(moves)
            new = (seen, ended, actions, logp, torch.tensor(rewards, dtype=torch.float32), value)
            for name, item in zip(rows, new, strict=True):
                rows[name].append(item)
            seen = torch.tensor(following, dtype=torch.float32)
            ended = torch.tensor(terminated | truncated, dtype=torch.float32)
        steps += _ENVS * _STEPS
        table = {name: torch.stack(items) for name, items in rows.items()}
        with torch.no_grad():
            following_value = agent.critic(seen).flatten()
            running = torch.zeros(_ENVS)
            advantages = torch.zeros_like(table["rewards"])
            for t in reversed(range(_STEPS)):
                bootstraps = 1 - (ended if t == _STEPS - 1 else table["ended"][t + 1])
                after = following_value if t == _STEPS - 1 else table["values"][t + 1]
                delta = table["rewards"][t] + _GAMMA * after * bootstraps - table["values"][t]
                running = delta + _GAMMA * _LAMBDA * bootstraps * running
                advantages[t] = running
        batch = {name: item.flatten(0, 1) for name, item in {**table, "advantages": advantages}.items()}
        targets = batch["advantages"] + batch["values"]
        for _ in range(_EPOCHS):
            for picked in torch.split(torch.randperm(len(targets)), _MINIBATCH):
                distribution = agent.distribution(batch["seen"][picked])
                ratio = (agent.log_probability(distribution, batch["actions"][picked]) - batch["logp"][picked]).exp()
                advantage = batch["advantages"][picked]
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                policy = -torch.min(advantage * ratio, advantage * ratio.clamp(1 - _CLIP, 1 + _CLIP)).mean()
                value = 0.5 * (agent.critic(batch["seen"][picked]).flatten() - targets[picked]).square().mean()
                adam.zero_grad()
                (policy + 0.5 * value - 0.0 * agent.entropy(distribution).mean()).backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                adam.step()
    clock.mark(steps)
    clock.report()


if __name__ == "__main__":
    main()
