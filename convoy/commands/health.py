"""`convoy health`."""

from __future__ import annotations

import argparse
import sys

from convoy.client.errors import ClientError, NotFound
from convoy.client.retry import Retry
from convoy.client.sync import ImageClient


def run(args: argparse.Namespace) -> int:
    """Print the status. Returns: 0 when serving, 1 for anything else, as health checks want it."""
    try:
        # Whoever checks a server's health wants to hear that it is away, not to wait for it.
        with ImageClient(args.server, timeout=args.timeout, retry=Retry(attempts=1)) as client:
            status = client.health(args.name)
    except NotFound:
        print(f"convoy: no model {args.name!r} there; `convoy models` lists them", file=sys.stderr)
        return 1
    except ClientError as error:
        print(f"convoy: {error}", file=sys.stderr)
        return 1
    print(status)
    return 0 if status == "SERVING" else 1
