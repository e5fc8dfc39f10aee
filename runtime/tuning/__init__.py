"""Tuning on this machine: a tuning job in SageMaker's own words, run in forked workers with Optuna's search."""
