"""Environments of several agents: PettingZoo's parallel ones, and classes of RLlib's MultiAgentEnv."""
