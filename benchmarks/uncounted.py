"""`convoy-serve` whose histograms and call counters are idle: the difference is their cost."""

from __future__ import annotations

import sys

from service import cli, metrics


def ignore(*arguments: object) -> None:
    """Count nothing."""


if __name__ == "__main__":
    metrics.Histogram.observe = ignore  # type: ignore[method-assign]
    metrics.MethodMetrics.finish = ignore  # type: ignore[method-assign]
    sys.exit(cli.main())
