"""Jobs from end to end: training, evaluation, and DeepRacer's workers."""
