"""DeepRacer jobs: RLlib PPO with Clipped PPO's numbers, evaluation, races, and the files that users' tools read."""
