"""SageMaker's training entry point: trains what the hyperparameters say."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from runtime.container.program import run_program
from runtime.entry import train

if __name__ == "__main__":
    run_program(lambda: train(sys.argv[1:]))
