from __future__ import annotations

import grpc
import pytest

import convoy
from convoy.client.retry import ERRORS, Failure, error_of, parse_pushback
from tests.convoy_client.fake import FakeServer

RETRY = convoy.Retry(attempts=4, first_delay=0.1, max_delay=0.5)


def delay(code: str, attempt: int = 1, pushback_ms: int | None = None) -> float | None:
    return RETRY.delay(Failure(code, "", pushback_ms), attempt, uniform=lambda: 0.0)


def test_delay_doubles_up_to_its_limit_then_ends():
    assert [delay("UNAVAILABLE", attempt) for attempt in (1, 2, 3, 4)] == [0.1, 0.2, 0.4, None]
    assert convoy.Retry(attempts=99).delay(Failure("UNAVAILABLE", ""), 90) <= 2.0


def test_jitter_takes_up_to_half_off():
    half = RETRY.delay(Failure("UNAVAILABLE", ""), 1, uniform=lambda: 1.0)
    assert half == pytest.approx(0.05)


def test_pushback_is_obeyed_past_the_attempts():
    assert delay("RESOURCE_EXHAUSTED", 1, 200) == pytest.approx(0.2)
    assert delay("RESOURCE_EXHAUSTED", 50, 200) == pytest.approx(0.2)
    assert delay("UNAVAILABLE", 50, 200) == pytest.approx(0.2)


@pytest.mark.parametrize("pushback_ms", [None, -1])
def test_overload_without_pushback_is_not_retried(pushback_ms):
    assert delay("RESOURCE_EXHAUSTED", 1, pushback_ms) is None


def test_pushback_that_forbids_wins_over_unavailable():
    assert delay("UNAVAILABLE", 1, -1) is None
    assert parse_pushback("soon") == -1


@pytest.mark.parametrize("code", sorted(ERRORS.keys() - {"UNAVAILABLE", "RESOURCE_EXHAUSTED"}))
def test_nothing_else_is_retried(code):
    assert delay(code, 1, 10) is None


def test_every_status_code_has_its_error():
    assert ERRORS.keys() == {code.name for code in grpc.StatusCode} - {"OK"}
    assert isinstance(error_of(Failure("A_NEW_CODE", ""), "here", 1.0), convoy.ServerError)


def test_unavailable_is_sent_again(client, server):
    server.refuse("UNAVAILABLE", times=2)
    assert client.classify(b"7").label == "class7"
    assert len(server.requests) == 3


def test_overload_with_pushback_is_sent_again(client, server):
    server.refuse("RESOURCE_EXHAUSTED", pushback="5", times=8)
    assert client.classify(b"7").label == "class7"
    assert len(server.requests) == 9


@pytest.mark.parametrize(
    ("code", "pushback", "error"),
    [
        ("RESOURCE_EXHAUSTED", "", convoy.Overloaded),
        ("RESOURCE_EXHAUSTED", "-1", convoy.Overloaded),
        ("INTERNAL", "", convoy.ServerError),
        ("UNKNOWN", "", convoy.ServerError),
        ("INVALID_ARGUMENT", "", convoy.InvalidRequest),
        ("NOT_FOUND", "", convoy.NotFound),
        ("PERMISSION_DENIED", "", convoy.Denied),
        ("DEADLINE_EXCEEDED", "", convoy.Timeout),
    ],
)
def test_what_may_not_be_repeated_is_sent_once(client, server, code, pushback, error):
    server.refuse(code, pushback=pushback)
    with pytest.raises(error) as caught:
        client.classify(b"7")
    assert len(server.requests) == 1
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_attempts_are_bounded(server: FakeServer):
    retry = convoy.Retry(attempts=3, first_delay=0.001)
    with convoy.ImageClient(server.target, retry=retry) as client:
        server.refuse("UNAVAILABLE", "draining", times=5)
        with pytest.raises(convoy.Unavailable, match="draining"):
            client.classify(b"7")
    assert len(server.requests) == 3


def test_pushback_beyond_the_timeout_ends_at_once(server: FakeServer):
    with convoy.ImageClient(server.target, timeout=20) as client:
        server.refuse("RESOURCE_EXHAUSTED", "queue full", pushback="3600000")
        with pytest.raises(convoy.Overloaded, match="queue full"):
            client.classify(b"7")
    assert len(server.requests) == 1


def test_each_attempt_gets_the_time_that_is_left(server: FakeServer):
    server.refuse("RESOURCE_EXHAUSTED", pushback="300")
    with convoy.ImageClient(server.target, timeout=5) as client:
        client.classify(b"7")
    first, second = server.timeouts
    assert second < first - 0.25  # on the wire a timeout is rounded to a few digits
    assert first <= 5.1


def test_server_that_does_not_answer_is_a_timeout(server: FakeServer):
    server.open.clear()
    no_answer = pytest.raises(convoy.Timeout, match=r"no answer within 0\.2 s")
    with convoy.ImageClient(server.target, timeout=0.2) as client, no_answer as caught:
        client.classify(b"7")
    assert isinstance(caught.value, TimeoutError)


def test_server_of_another_kind_is_named(client, server):
    server.refuse("UNIMPLEMENTED", "Method not found!")
    with pytest.raises(convoy.Unavailable, match="no Convoy server, or an older one"):
        client.classify([b"7"] * 8)
    assert server.sizes == [8]


def test_timeout_holds_for_all_calls_of_a_sequence(server: FakeServer):
    server.refuse("RESOURCE_EXHAUSTED", pushback="100", times=1000)
    overloaded = pytest.raises((convoy.Overloaded, convoy.Timeout))
    with convoy.ImageClient(server.target, timeout=0.5) as client, overloaded:
        client.classify([b"7"] * 200)


def test_server_that_is_not_there():
    nobody = pytest.raises(convoy.Unavailable, match=r"127\.0\.0\.1:1: no server answers")
    with convoy.ImageClient("127.0.0.1:1", retry=convoy.Retry(attempts=2)) as client, nobody:
        client.classify(b"7")


def test_server_that_comes_back_is_found_again(server: FakeServer):
    retry = convoy.Retry(attempts=100, first_delay=0.05, max_delay=0.1)
    with convoy.ImageClient(server.target, retry=retry) as client:
        client.classify(b"7")
        server.stop()
        with pytest.raises(convoy.Unavailable):
            convoy.ImageClient(server.target, retry=convoy.Retry(attempts=1)).health()
        server.start()
        assert client.classify(b"7").label == "class7"
