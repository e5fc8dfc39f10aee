"""Runs every signature of SavedModels: reads FOLDER/in.npz, writes FOLDER/out.npz; zeros where nothing is given."""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

for folder in map(Path, sys.argv[1:]):
    model = tf.saved_model.load(str(folder))
    with np.load(folder / "in.npz") as arrays:
        given = dict(arrays)
    found = {}
    for name, signature in model.signatures.items():
        _, inputs = signature.structured_input_signature
        feeds = {key: tf.cast(given.get(key, 0), spec.dtype) for key, spec in inputs.items()}
        for output, value in signature(**feeds).items():
            found[output if name == "serving_default" else f"{name}/{output}"] = value.numpy()
    np.savez(folder / "out.npz", **found)
