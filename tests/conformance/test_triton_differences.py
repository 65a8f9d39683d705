"""This service beside a real Triton: what is told for the same requests, and why it differs."""

from __future__ import annotations

import pytest

from service.oip.regions import FOLDER
from tests.conformance import triton_server
from tests.conformance.comparison import PAGE, Row, ask_convoy, ask_triton, page, recorded, rows

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"this system has no {FOLDER}")


@pytest.fixture(scope="module")
def found(front: str) -> list[Row]:
    return rows(recorded(), ask_convoy(front))


def test_every_difference_is_explained_and_nothing_else(found: list[Row]) -> None:
    for row in found:
        assert row.differs == bool(row.case.why), row


def test_the_page_shows_what_is_told(found: list[Row]) -> None:
    assert PAGE.read_text() == page(found), "write it anew: python -m tests.conformance"


@pytest.mark.skipif(
    triton_server.python() is None,
    reason="Triton is not installed: python -m tests.conformance --triton",
)
def test_triton_tells_what_is_recorded() -> None:
    assert ask_triton() == recorded()
