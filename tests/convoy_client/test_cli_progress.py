from __future__ import annotations

import io

from convoy.commands.output import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_and_cleared_for_rows():
    out = Terminal()
    progress = Progress(200, out, clock=iter([0.0, 0.1, 2.0]).__next__)
    progress.update(1)
    assert out.getvalue() == ""
    progress.update(100)
    assert out.getvalue() == "\r\x1b[K100/200 images, 50/s, 2 s left"
    progress.clear()
    progress.clear()
    assert out.getvalue().endswith("2 s left\r\x1b[K")


def test_progress_is_silent_elsewhere():
    out = io.StringIO()
    progress = Progress(200, out, clock=iter([0.0, 5.0]).__next__)
    progress.update(100)
    progress.clear()
    assert out.getvalue() == ""
