"""Coach's vocabulary: what a preset of rl_coach describes, trained by our own jobs."""
