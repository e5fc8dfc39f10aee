"""PPO's fast path: sampling on arrays, gradients in compiled code."""
