"""Tuning on this machine: a tuning job in SageMaker's own words, run by Ray Tune with Optuna's search."""
