"""The `convoy` command.

Exit codes: 0 done; 1 done, but an image failed (`classify`), a request failed (`bench`) or the
server is not serving (`health`); 2 wrong arguments, or no such model; 3 the server cannot be
reached, is overloaded or failed; 4 the output cannot be written; 130 interrupted; 141 whoever read
the output has left.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version

from convoy.arguments import count, number_or_label, positive, whole
from convoy.console import complain, run_command
from convoy.errors import ConvoyError

DEFAULT_SERVER = "127.0.0.1:8500"
ACTIONS = ("load", "unload", "promote", "rollback")

_EXIT_CODES = """\
exit codes:
  0  done
  1  done, but an image failed (classify), a request failed (bench),
     or the server is not serving (health)
  2  wrong arguments, or no such model
  3  the server cannot be reached, is overloaded or failed
  4  the output cannot be written
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns: the exit code."""
    return run_command("convoy", lambda: _run(argv), unwritable=4)


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = _parser().parse_args(argv)
        code: int = import_module(f"convoy.commands.{args.command}").run(args)
        return code
    except KeyboardInterrupt:
        complain("convoy", "interrupted")
        return 130
    except ConvoyError as error:
        complain("convoy", str(error))
        return _exit_code(error)


def _exit_code(error: ConvoyError) -> int:
    from convoy.client.errors import InvalidRequest, NotFound

    return 2 if isinstance(error, InvalidRequest | NotFound) else 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="convoy",
        description="Classify images with a Convoy server.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"convoy {version('convoy')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_classify(commands)
    _add_models(commands)
    _add_health(commands)
    _add_bench(commands)
    return parser


Commands = argparse._SubParsersAction  # its only name; argparse publishes none


def _add_classify(commands: Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "classify",
        help="label images: files, folders and globs",
        epilog="exit codes: see convoy -h",
    )
    command.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="an image, a folder (all images below it) or a quoted glob (** goes down folders)",
    )
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line")
    form.add_argument("--csv", action="store_true", help="comma-separated, with a header")
    command.add_argument(
        "--top-k", type=count, metavar="K", help="classes per image (default: 2, where there are)"
    )
    command.add_argument(
        "--priority",
        type=count,
        metavar="N",
        help="1 goes first, where the server has several levels (default: the server's)",
    )
    _add_model(command)
    _add_server(command, timeout=30.0)


def _add_models(commands: Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "models",
        help="list what the server serves, or change it",
        description="Without ACTION: list what the server serves. The actions need the server's "
        "control token, in the variable CONVOY_CONTROL_TOKEN.",
    )
    command.add_argument(
        "action",
        nargs="?",
        choices=ACTIONS,
        metavar="ACTION",
        help="load: serve NAME as the server's folder has it now; unload: stop to serve it; "
        "promote: have its challenger, or --model-version, answer; rollback: end the challenger's "
        "trial, or return to the version before",
    )
    command.add_argument("name", nargs="?", metavar="NAME", help="the model that ACTION is for")
    _add_version(command, "for promote (default: the challenger)", count)
    command.add_argument("--json", action="store_true", help="one JSON object a line")
    _add_server(command, timeout=None)


def _add_health(commands: Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "health",
        help="ask whether the server is serving (exit code 0: yes, 1: no)",
        description="Usable as a container's health check: exit code 0 when serving, 1 otherwise.",
    )
    command.add_argument(
        "--model", default="", metavar="NAME", help="default: the server as a whole"
    )
    command.add_argument("name", nargs="?", default="", help=argparse.SUPPRESS)
    _add_server(command, timeout=5.0)


def _add_bench(commands: Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "bench",
        help="measure a running server under load",
        description="Closed loop: --concurrency callers, each sending when it was answered. "
        "Open loop: requests arrive at random, --rate a second, whether or not earlier ones were "
        "answered; latency counts from the moment a request was due.",
    )
    command.add_argument(
        "paths", nargs="*", metavar="PATH", help="images to send (default: raw noise that fits)"
    )
    load = command.add_mutually_exclusive_group()
    load.add_argument("--rate", type=positive, metavar="R", help="open loop: requests a second")
    load.add_argument(
        "--concurrency", type=count, default=8, metavar="N", help="closed loop (default: 8)"
    )
    command.add_argument(
        "--duration", type=positive, default=10.0, metavar="S", help="seconds (default: 10)"
    )
    command.add_argument(
        "--requests", type=count, default=1_000_000, metavar="N", help="stop after so many"
    )
    command.add_argument("--images-per-request", type=count, default=1, metavar="N")
    command.add_argument(
        "--streaming", action="store_true", help="ClassifyStream instead of Classify"
    )
    command.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="of arrivals and noise (default: 0)"
    )
    command.add_argument("--json", action="store_true", help="the report as one JSON object")
    _add_model(command)
    _add_server(command, timeout=10.0)


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", metavar="NAME", help="default: the server's default model")
    text = "or a label, as `stable` (default: the server chooses)"
    _add_version(command, text, number_or_label)


def _add_version(
    command: argparse.ArgumentParser, text: str, kind: Callable[[str], int | str]
) -> None:
    command.add_argument("--model-version", type=kind, metavar="N", help=text)
    # What is typed by those who think of the client's `version`.
    command.add_argument(
        "--version",
        type=kind,
        dest="model_version",
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )


def _add_server(command: argparse.ArgumentParser, *, timeout: float | None) -> None:
    command.add_argument(
        "--server",
        default=os.environ.get("CONVOY_SERVER") or DEFAULT_SERVER,
        metavar="HOST:PORT",
        help=f"default: $CONVOY_SERVER, or {DEFAULT_SERVER}",
    )
    command.add_argument(
        "--timeout",
        type=positive,
        default=timeout,
        metavar="S",
        help="seconds for one call with its retries (default: "
        + ("10, for actions 300)" if timeout is None else f"{timeout:g})"),
    )


if __name__ == "__main__":
    sys.exit(main())
