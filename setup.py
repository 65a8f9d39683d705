"""Compiles the modules that every request passes through, where CONVOY_COMPILE is 1.

mypyc makes C extensions of them as they are; needed are the extra `compile`, a C compiler and the
headers of Python. Compiled or not, they do the same. All else about the package stands in
pyproject.toml.
"""

from __future__ import annotations

import os

from setuptools import setup

# mypyc takes no module with an asynchronous generator, and no interpreted class may inherit from a
# compiled one.
HOT_PATH = [
    "service/admission.py",
    "service/arena.py",
    "service/batching.py",
    "service/cache.py",
    "service/carrier.py",
    "service/deadlines.py",
    "service/decode_channel.py",
    "service/decoding.py",
    "service/fronts/asgi.py",
    "service/fronts/exchange.py",
    "service/fronts/framing.py",
    "service/fronts/outbox.py",
    "service/images.py",
    "service/intake.py",
    "service/lines.py",
    "service/methods.py",
    "service/metrics.py",
    "service/oip/inference.py",
    "service/oip/inputs.py",
    "service/oip/outputs.py",
    "service/oip/parameters.py",
    "service/pipeline.py",
    "service/replies.py",
    "service/repository.py",
    "service/served.py",
    "service/shares.py",
    "service/wire.py",
    "service/worker.py",
]


def extensions() -> list[object]:
    """What setuptools is to build."""
    if os.environ.get("CONVOY_COMPILE") != "1":
        return []
    from mypyc.build import mypycify

    return mypycify([*HOT_PATH, "--config-file=pyproject.toml"], opt_level="3")


setup(ext_modules=extensions())
