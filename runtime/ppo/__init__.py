"""PPO on RLlib: `build` (config to algorithm), `module` (the network), `loop` (training), `rows` (its results)."""
