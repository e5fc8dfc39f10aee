"""One daemon and one image for all tests with containers; `make test-docker` runs them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.docker.engine import Docker, NoDockerError, build_cpu_image, own_daemon

_TAG = "smrl:test"


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """The daemon that runs; where none does, one of the tests' own. DOCKER_HOST leads other clients to it."""
    with ExitStack() as running, pytest.MonkeyPatch.context() as patch:
        docker = Docker.find()
        if docker is None:
            folder = os.environ.get("SMRL_TEST_DOCKER")
            try:
                docker = running.enter_context(
                    own_daemon(Path(folder) if folder else tmp_path_factory.mktemp("docker"))
                )
            except NoDockerError as error:
                pytest.skip(str(error))
        if docker.host:
            patch.setenv("DOCKER_HOST", docker.host)
        yield docker
        docker.remove_containers()


@pytest.fixture(scope="session")
def image(daemon: Docker) -> str:
    """The name of the CPU image."""
    if given := os.environ.get("SMRL_TEST_IMAGE"):
        return given
    try:
        build_cpu_image(daemon, _TAG)
    except NoDockerError as error:
        pytest.skip(str(error))
    return _TAG


@pytest.fixture
def docker(daemon: Docker) -> Iterator[Docker]:
    """The daemon; containers that a test starts end with it."""
    yield daemon
    daemon.remove_containers()
