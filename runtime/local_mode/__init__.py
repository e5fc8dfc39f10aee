"""The SageMaker SDK's local mode, with what it lacks: tuning jobs, and a Ctrl-C that keeps the results."""
