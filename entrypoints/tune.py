"""Tunes hyperparameters within one container, as the tuning job of its `tuning` channel says."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from runtime.container.program import run_program
from runtime.entry import tune

if __name__ == "__main__":
    run_program(lambda: tune(sys.argv[1:]))
