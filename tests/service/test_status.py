"""The table from errors to status codes is complete, and says no more than it should."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc

from convoy.errors import ConvoyError
from service import errors
from service.settings import Settings
from service.status import CODES, Code, pushback_ms, status_of

DOCS = Path(__file__).resolve().parents[2] / "docs"


def leaves(kind: type[Exception]) -> Iterator[type[Exception]]:
    below = kind.__subclasses__()
    if not below:
        yield kind
    for one in below:
        yield from leaves(one)


def test_every_error_of_a_request_has_a_code() -> None:
    assert set(leaves(errors.RequestError)) == set(CODES)


def test_startup_errors_never_reach_a_caller() -> None:
    assert not set(leaves(errors.StartupError)) & set(CODES)
    assert all(issubclass(one, ConvoyError) for one in CODES)


def test_an_unknown_error_says_nothing() -> None:
    code, text = status_of(RuntimeError("secret path /srv/x"))
    assert (code, text) == (Code.INTERNAL, "internal error; the server's log has the detail")


def test_a_model_failure_keeps_its_detail_to_the_log() -> None:
    assert "shape" not in status_of(errors.ModelFailure("output of shape (0, 3)"))[1]


def test_only_overload_asks_to_come_back() -> None:
    assert pushback_ms(errors.QueueFull("full", retry_after=0.25)) == 250
    assert pushback_ms(errors.NotServing("bye")) is None


def test_the_codes_are_those_of_grpc() -> None:
    assert {one.name: one.value for one in Code}.items() <= {
        one.name: one.value[0] for one in grpc.StatusCode
    }.items()


def test_every_setting_is_documented_with_its_flag_and_variable() -> None:
    text = (DOCS / "configuration.md").read_text()
    for name, field in Settings.model_fields.items():
        row = f"| `--{name.replace('_', '-')}` | `CONVOY_{name.upper()}` |"
        assert row in text
        assert field.description
