"""Runs reinforcement learning jobs in a container: from hyperparameters to a trained policy, its videos and exports.

Outsiders start at `runtime.launcher` (what scripts subclass) and `runtime.cli` (the command `smrl`).
"""
