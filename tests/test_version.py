"""`smrl --version`."""

from importlib import metadata

import pytest

from runtime.cli import main


def test_version_is_the_installed_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"smrl {metadata.version('smrl')}\n"
