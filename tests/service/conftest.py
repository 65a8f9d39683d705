"""A bundle and a running service for tests that need no settings of their own."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from convoy.v1 import image_classifier_pb2_grpc as rpc
from tests.bundles import make_bundle
from tests.servers import Running, running_server


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model `tiny`, versions 1 and 2."""
    folder = tmp_path_factory.mktemp("models")
    make_bundle(folder, version=1)
    make_bundle(folder, version=2)
    return folder


@pytest.fixture(scope="session")
def server(models: Path, front: str) -> Iterator[Running]:
    """The service with default limits."""
    with running_server(models, front=front) as running:
        yield running


@pytest.fixture
def stub(server: Running) -> Iterator[rpc.ImageClassifierStub]:
    """A bare client of it."""
    with server.stub() as stub:
        yield stub


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Nobody looks for objects that only hold each other."""
    gc.disable()
    yield
    gc.enable()
