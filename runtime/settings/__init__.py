"""Hyperparameters: what there are, and how a job's are resolved."""
