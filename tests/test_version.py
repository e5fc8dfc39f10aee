"""`smrl --version`."""

import subprocess
import sys
from importlib import metadata

import pytest

from runtime.cli import main


def test_version_is_the_installed_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"smrl {metadata.version('smrl')}\n"


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "smrl", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"smrl {metadata.version('smrl')}\n")
