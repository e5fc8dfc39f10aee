"""Requirements that the container provides are removed from requirements.txt; pip gets all others unchanged."""

from __future__ import annotations

import tarfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from runtime.container.requirements import SERVED, leave_out_served
from tests.conftest import OptMl


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        ("gym-unity", "gym-unity"),
        ("Gym_Unity==0.20.0", "Gym_Unity==0.20.0"),
        ("gym.unity ~= 0.20 ; python_version < '3.9'  # as in 2020", "gym.unity ~= 0.20 ; python_version < '3.9'"),
        ("ray[rllib,tune]==1.6.0", "ray[rllib,tune]==1.6.0"),
        ("  roboschool >= 1.0", "roboschool >= 1.0"),
        ("gym==0.21.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb", "gym==0.21.0"),
        ("mlagents-envs @ https://files.example/mlagents_envs-0.20.0.tar.gz", None),
        ("git+https://code.example/gym.git@v0.21#egg=gym", "git+https://code.example/gym.git@v0.21#egg=gym"),
        ("-e git+https://code.example/gym.git#egg=gym[atari]", "-e git+https://code.example/gym.git#egg=gym[atari]"),
        ("sagemaker-containers", "sagemaker-containers"),
    ],
)
def test_what_is_served_becomes_a_comment(line: str, taken: str | None, tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text(f"pip\n{line}\nattrs>=20\n")
    assert leave_out_served(file) == [taken or line]
    commented = "\n".join(f"# {part}" for part in line.split("\n"))
    assert file.read_text() == f"pip\n{commented}\nattrs>=20\n"
    assert leave_out_served(file) == []  # as a job that is started again finds it


@pytest.mark.parametrize(
    "line",
    [
        "gymnasium==1.2",
        "raytracing",
        "gym-unity-extras",
        "# gym==0.21",
        "# a comment does not continue \\",
        "--index-url https://gym.example/simple",
        "--require-hashes",
        "-c constraints-gym.txt",
        "./gym",
        "-e .",
        "https://files.example/gym-0.21.0.tar.gz",
        "what pip itself will refuse: gym ==",
        "attrs==20.1 \\\n    --hash=sha256:aa",
        "",
    ],
)
def test_all_else_reaches_pip_as_it_was_written(line: str, tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    content = f"{line}\r\nnumpy".encode()
    file.write_bytes(content)
    assert leave_out_served(file) == []
    assert file.read_bytes() == content


@pytest.mark.parametrize("include", ["-r more/other.txt", "-rmore/other.txt", "--requirement=more/other.txt"])
def test_included_files_are_read_too_within_the_folder(include: str, tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / "more").mkdir(parents=True)
    (tmp_path / "outside.txt").write_text("gym\n")
    (code / "requirements.txt").write_text(f"{include}\n-r ../outside.txt\n-r https://lists.example/x.txt\nray\n")
    (code / "more" / "other.txt").write_text("-r ../requirements.txt\nroboschool\nattrs\n")
    assert leave_out_served(code / "requirements.txt") == ["ray", "roboschool"]
    assert (code / "more" / "other.txt").read_text() == "-r ../requirements.txt\n# roboschool\nattrs\n"
    assert (tmp_path / "outside.txt").read_text() == "gym\n"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_with_a_byte_order_mark_keeps_it(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_bytes("gym\r\nattrs  # für später\r\n".encode(encoding))
    assert leave_out_served(file) == ["gym"]
    assert file.read_bytes() == "# gym\r\nattrs  # für später\r\n".encode(encoding)


def test_a_folder_without_the_file_needs_nothing(tmp_path: Path) -> None:
    assert leave_out_served(tmp_path / "requirements.txt") == []


def test_what_is_served_and_has_a_distribution_today_is_installed() -> None:
    assert all(name == canonicalize_name(name) for name in SERVED)
    for name in SERVED - {"roboschool", "gym-unity", "sagemaker-containers"}:  # whose modules are ours alone
        assert metadata.version(name)


def test_the_requirements_of_rl_unity_ray_do_not_fail_a_job(opt_ml: OptMl) -> None:
    """The real toolkit, with pip cut off from any index, installs nothing that the container provides."""
    opt_ml.environment |= {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    opt_ml.write({"sagemaker_program": "train.py"})
    code = opt_ml.base / "code"
    code.mkdir(parents=True)
    (code / "requirements.txt").write_text("pip\ngym-unity\nmlagents-envs\nsagemaker-containers")
    (code / "train.py").write_text("print('the script ran')\n")
    done = opt_ml.run()
    assert done.code == 0, done.log[-3000:]
    assert "the script ran" in done.log
    for name in ("gym-unity", "mlagents-envs", "sagemaker-containers"):
        line = f"smrl: requirements.txt: {name} is left out, because the container brings it"
        assert done.log.splitlines().count(line) == 1
    assert (code / "requirements.txt").read_text() == "pip\n# gym-unity\n# mlagents-envs\n# sagemaker-containers"


def test_a_file_of_nothing_but_what_is_served_leaves_pip_nothing_to_do(opt_ml: OptMl, tmp_path: Path) -> None:
    """The source folder is an archive, as SageMaker's SDK uploads it."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "requirements.txt").write_text("gym==0.20.0\nray[rllib]==1.6.0\n")
    (source / "train.py").write_text("print('the script ran')\n")
    archive = tmp_path / "sourcedir.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, arcname=".")
    opt_ml.environment |= {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    opt_ml.write({"sagemaker_program": "train.py", "sagemaker_submit_directory": str(archive)})
    done = opt_ml.run()
    assert done.code == 0, done.log[-3000:]
    assert "the script ran" in done.log
