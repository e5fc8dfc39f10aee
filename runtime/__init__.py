"""What runs inside the container: hyperparameters in, a trained, filmed and saved policy out.

Outsiders start at `runtime.launcher` (what scripts subclass) and `runtime.cli` (the command `smrl`).
"""
