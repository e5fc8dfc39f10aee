"""Where a job runs: paths, signals, exit codes, and the platform's hooks."""
