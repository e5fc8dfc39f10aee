"""SageMaker's evaluation entry point: plays episodes with the policy of the `model` channel."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from runtime.container.program import run_program
from runtime.entry import evaluate

if __name__ == "__main__":
    run_program(lambda: evaluate(sys.argv[1:]))
