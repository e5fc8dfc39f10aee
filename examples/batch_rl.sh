#!/bin/sh
# Batch RL from one script: log a random policy, learn from the log alone, play what was chosen, and close the loop.
set -eu
folder=${1:-results/batch-rl}
mkdir -p "$folder"

# 500 episodes of a policy that chooses at random, as the notebook collects them.
smrl collect --env CartPole-v0 --envs 100 --episodes 5 --policy uniform --out "$folder/cartpole.csv"

# No environment is touched from here on, until the policy is chosen.
smrl train --preset cartpole-bcq --data "$folder/cartpole.csv" --out "$folder/trained"

# What the choice is worth in the environment.
smrl evaluate "$folder/trained" evaluate_episodes=20

# States to probabilities to rollouts, a step a turn: what batch transform is for.
smrl collect --env CartPole-v0 --envs 100 --states "$folder/states.jsonl"
for turn in 1 2 3; do
    smrl transform "$folder/trained" --input "$folder/states.jsonl" --output "$folder/answers" --join input
    smrl collect --action-probs "$folder/answers/states.jsonl.out" --states "$folder/states.jsonl" --out "$folder/next.csv"
done
