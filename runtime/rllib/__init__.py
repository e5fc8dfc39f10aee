"""RLlib's algorithms in a job: the training loop, and DQN, SAC, IMPALA and APPO by RLlib's own code."""
