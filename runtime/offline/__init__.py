"""Batch RL: from logged transitions to a policy that is chosen and estimated without an environment."""
