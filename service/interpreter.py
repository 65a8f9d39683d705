"""This Python, for processes that start another one."""

from __future__ import annotations

import os
import sys

# The variable that names the Python to start, where the process itself is another program.
PYTHON = "_CONVOY_PYTHON"


def python() -> str:
    """The program to start."""
    return os.environ.get(PYTHON, sys.executable)


def absolute_paths() -> str:
    """Where this Python finds modules, for the environment of another.

    What is relative is the hook of an editable installation, with which no Python starts where its
    working directory was removed.
    """
    return os.pathsep.join(filter(os.path.isabs, sys.path))
