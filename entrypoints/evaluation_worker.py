"""DeepRacer's evaluation entry point: takes the notebook's evaluation_params.yaml and the models that it names."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from runtime.container.program import run_program
from runtime.entry import evaluate_deepracer

if __name__ == "__main__":
    run_program(lambda: evaluate_deepracer(sys.argv[1:]))
