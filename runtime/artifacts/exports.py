"""Exported policies: the names of their files in a model directory, and of their inputs and signatures.

The exporter writes them, and a server reads them, which starts without what the exporter needs.
"""

from __future__ import annotations

# TF Serving takes every numeric folder for a version, so 1 is the only one.
SAVED_MODEL = "1/saved_model.pb"
ONNX = "policy.onnx"
TORCH = "policy.pt2"
# For DeepRacer's cars, where DeepRacer's own jobs have it.
CAR_MODEL = "agent/model.pb"

# The input, and the one output of a policy that learned from a log.
OBSERVATIONS = "observations"
# The second input of a policy that trained with action masks: 1 for an allowed action.
ACTION_MASK = "action_mask"
PROBABILITIES = "action_probabilities"
# The later name of RLlib for the same output.
ALIASES = {"actions_0": "actions"}
DEFAULT_SIGNATURE = "serving_default"
OBSERVATIONS_ONLY = "observations_only"
