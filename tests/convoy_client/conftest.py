from __future__ import annotations

from collections.abc import Iterator

import pytest

import convoy
from tests.convoy_client.fake import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture
def client(server: FakeServer) -> Iterator[convoy.ImageClient]:
    with convoy.ImageClient(server.target, timeout=20) as client:
        yield client
