"""The command `convoy-serve`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from service.scheduling import let_threads_finish

if TYPE_CHECKING:
    from service.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the settings, serve until told to stop; returns the exit code."""
    # Nothing here does linear algebra in NumPy, whose threads would wait for it in a busy loop.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from service.errors import StartupError
        from service.settings import read_settings
    except ModuleNotFoundError as error:
        print(f"convoy-serve: {error.name} is missing: pip install '.[serve]'", file=sys.stderr)
        return 2

    try:
        settings = read_settings(sys.argv[1:] if arguments is None else arguments)
        _log_start(settings)
        let_threads_finish()
        return _serve(settings)
    except StartupError as error:
        print(f"convoy-serve: {error}", file=sys.stderr)
        return error.exit_code


def _log_start(settings: Settings) -> None:
    from importlib.metadata import version

    import structlog

    from service import logs
    from service.compiled import is_compiled

    logs.configure(settings.log_level, settings.log_format)
    log = structlog.get_logger()
    log.info(
        "starting",
        version=version("convoy"),
        compiled=is_compiled(),
        **settings.model_dump(mode="json"),
    )


def _serve(settings: Settings) -> int:
    """Serve until told to stop; returns the exit code. Raises: StartupError."""
    import asyncio

    if _front(settings) == "envoy":
        from service.supervisor import supervise as serve
    else:
        from service.server import serve_until_signal as serve
    if sys.platform != "win32":
        from uvloop import new_event_loop
    else:
        from asyncio import new_event_loop
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(serve(settings))


def _front(settings: Settings) -> str:
    if settings.front != "auto":
        return settings.front
    from service.fronts.envoy import why_not

    if (reason := why_not(settings)) is None:
        return "envoy"
    import structlog

    structlog.get_logger().info("front", front="grpcio", reason=reason)
    return "grpcio"


if __name__ == "__main__":
    sys.exit(main())
