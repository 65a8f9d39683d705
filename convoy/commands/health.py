"""`convoy health`."""

from __future__ import annotations

import argparse
import sys

from convoy.client.errors import ClientError, InvalidRequest, NotFound
from convoy.client.retry import Retry
from convoy.client.sync import ImageClient


def run(args: argparse.Namespace) -> int:
    """Print the status. Returns: 0 when serving, 1 for anything else, as health checks want it."""
    name = args.model or args.name
    try:
        # Whoever checks a server's health wants to hear that it is away, not to wait for it.
        with ImageClient(args.server, timeout=args.timeout, retry=Retry(attempts=1)) as client:
            status = client.health(name)
    except InvalidRequest:
        raise
    except NotFound:
        print(f"convoy: no model {name!r} there; `convoy models` lists them", file=sys.stderr)
        return 1
    except ClientError as error:
        print(f"convoy: {error}", file=sys.stderr)
        return 1
    print(status)
    return 0 if status == "SERVING" else 1
