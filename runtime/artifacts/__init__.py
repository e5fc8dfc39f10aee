"""What a job writes to be resumed or served: checkpoints and model directories."""
