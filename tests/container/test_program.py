"""The end of a program's process."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT, clean_environment

PROGRAM = """
import atexit, threading, time
from runtime.container.program import run_program

class Freed:
    def __del__(self):
        print("freed")

kept = Freed()

def main():
    atexit.register(print, "registered by a library")
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
    print("main", end=" ")
    %s

run_program(main)
"""


def run(last: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM % last], cwd=ROOT, env=clean_environment(), capture_output=True, text=True
    )
    return done.returncode, done.stdout


def test_threads_and_exit_functions_end_before_the_process_and_nothing_is_freed() -> None:
    assert run("return 3") == (3, "main thread\nregistered by a library\n")


def test_an_exception_ends_the_process_as_python_does() -> None:
    code, said = run("raise ValueError")
    assert code == 1
    assert said.startswith("main thread\nregistered by a library\n")
