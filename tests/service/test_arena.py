from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from service.arena import ALIGNMENT, KEPT_BYTES, Arena

SIZE = 4 * KEPT_BYTES


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena(SIZE)
    yield arena
    os.close(arena.fd)


def test_blocks_lie_apart_and_are_used_again(arena: Arena) -> None:
    first, second, third = arena.take(100), arena.take(1), arena.take(100)
    assert first + 100 <= second < second + 1 <= third
    assert second % ALIGNMENT == third % ALIGNMENT == 0
    arena.give_back(second)
    assert arena.take(ALIGNMENT) == second
    arena.give_back(first)
    assert arena.take(2 * ALIGNMENT) == first
    assert arena.take(2 * ALIGNMENT + 1) > third


def test_no_room(arena: Arena) -> None:
    begin = arena.take(SIZE)
    with pytest.raises(MemoryError):
        arena.take(1)
    arena.give_back(begin)
    assert arena.take(SIZE) == 0


def test_what_a_large_block_took_is_given_back(arena: Arena) -> None:
    def used() -> int:
        return 512 * os.fstat(arena.fd).st_blocks

    small = arena.take(10)
    large = arena.take(2 * KEPT_BYTES)
    arena.view[: large + 2 * KEPT_BYTES] = b"x" * (large + 2 * KEPT_BYTES)
    assert used() > 2 * KEPT_BYTES
    arena.give_back(large)
    assert used() == KEPT_BYTES
    assert arena.view[small : small + 10] == b"x" * 10
