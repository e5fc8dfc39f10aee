"""The container a job runs in: paths, signals, exit codes, and the platform's hooks."""
