"""DeepRacer's training entry point: takes the notebook's hyperparameters and files by their names."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from runtime.container.program import run_program
from runtime.entry import train_deepracer

if __name__ == "__main__":
    run_program(lambda: train_deepracer(sys.argv[1:]))
