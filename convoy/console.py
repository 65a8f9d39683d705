"""What every command does with its output: it may be closed, full, or of a small alphabet."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import TextIO

_OF_OUTPUT = {errno.EBADF, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC}


def run_command(name: str, run: Callable[[], int], *, unwritable: int) -> int:
    """Run a command to the end of its output.

    Returns: its exit code, or, where that is 0, 141 where whoever read the output has left and
    `unwritable` where it cannot be written; 130 where it was interrupted.
    """
    _prepare_output()
    code = 0
    try:
        code = run()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read our output has left (`| head`).
        code = code or 141
    except OSError as error:
        if error.errno not in _OF_OUTPUT:
            raise
        complain(name, f"the output cannot be written: {error.strerror}")
        code = code or unwritable
    except KeyboardInterrupt:
        complain(name, "interrupted")
        code = 130
    _drop(sys.stdout)
    return code


def complain(name: str, text: str) -> None:
    """Say in a line what is wrong, to those who can still be reached."""
    try:
        sys.stderr.write(f"{name}: {text}\n")
    except OSError:
        _drop(sys.stderr)


def _prepare_output() -> None:
    # Python has None for a stream that was closed before (`>&-`).
    sys.stdout = sys.stdout or os.fdopen(_nowhere(), "w")
    sys.stderr = sys.stderr or os.fdopen(_nowhere(), "w")
    # A label or file name that the terminal's encoding lacks must not end a long job.
    for stream in (sys.stdout, sys.stderr):
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")


def _drop(stream: TextIO) -> None:
    """What is left in its buffer must not fail once more, at exit."""
    os.dup2(_nowhere(), stream.fileno())


def _nowhere() -> int:
    return os.open(os.devnull, os.O_WRONLY)
