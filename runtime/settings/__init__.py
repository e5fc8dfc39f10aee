"""Hyperparameters: their schema, and how a job's are resolved from its sources."""
