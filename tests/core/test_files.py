"""Files that are replaced: whole or not at all, with the mode that they had."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from convoy.files import replace_file


def test_replaces_a_file_and_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    replace_file(file, b"one")
    file.chmod(0o640)
    replace_file(file, b"two")
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"two", 0o640)
    assert os.listdir(tmp_path) == ["models.toml"]


def test_what_cannot_be_written_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "models.toml"
    replace_file(file, b"one")

    def refuse(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        replace_file(file, b"two")
    assert file.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["models.toml"]
