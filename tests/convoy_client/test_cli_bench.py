from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from convoy.cli import main
from convoy.commands.report import percentiles
from tests.convoy_client.fake import CHANNELS, HEIGHT, WIDTH, FakeServer

Bench = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def bench(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> Bench:
    def run(*arguments: object) -> tuple[int, dict[str, Any]]:
        code = main(["bench", "--json", "--server", server.target, *map(str, arguments)])
        return code, json.loads(capsys.readouterr().out)

    return run


def check(report: dict[str, Any], *, requests: int, images: int) -> None:
    """What must hold for the figures of any run without errors."""
    assert (report["requests"], report["images"], report["errors"]) == (requests, images, {})
    latency = report["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    assert report["requests_per_s"] == pytest.approx(requests / report["elapsed_s"], rel=0.02)
    assert [report["stages_ms"][stage] for stage in ("decode", "queue", "compute", "answer")] == [
        {"p50": value, "p99": value} for value in (1.0, 2.0, 3.0, 4.0)
    ]


@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
def test_closed_loop(bench, server, streaming):
    code, report = bench("--requests", 60, "--concurrency", 3, *streaming)
    assert code == 0
    assert report["offered_per_s"] is None
    check(report, requests=60, images=60)
    assert len(server.requests) == 63  # each caller warms up with one


@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
def test_open_loop(bench, streaming):
    options = ["--rate", 400, "--requests", 60, "--images-per-request", 5]
    code, report = bench(*options, *streaming)
    assert (code, report["offered_per_s"]) == (0, 400.0)
    check(report, requests=60, images=300)
    assert report["late_ms"]["p50"] <= report["latency_ms"]["p50"]


def test_duration_bounds_the_run(bench):
    _, report = bench("--rate", 200, "--duration", 0.3)
    assert 0 < report["requests"] < 200


def test_noise_fits_the_model(bench, server):
    bench("--requests", 64, "--concurrency", 1)
    pixels = [request.images[0].pixels for request in server.requests]
    assert {(p.height, p.width, p.channels) for p in pixels} == {(HEIGHT, WIDTH, CHANNELS)}
    assert len({p.data for p in pixels}) == 64


def test_images_are_sent_in_turn(bench, server, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(b"%d" % number)
    bench("--requests", 3, "--concurrency", 1, "--images-per-request", 2, tmp_path)
    sent = [[image.encoded for image in request.images] for request in server.requests[1:]]
    assert sent == [[b"0", b"1"], [b"2", b"0"], [b"0", b"1"]]


@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
def test_errors_are_counted_by_code(bench, server, streaming):
    bench("--requests", 1)
    server.refuse("RESOURCE_EXHAUSTED", times=3)
    server.refuse("INTERNAL", times=1)
    code, report = bench("--requests", 20, "--concurrency", 1, *streaming)
    assert code == 1
    assert report["errors"] == {"RESOURCE_EXHAUSTED": 2, "INTERNAL": 1}  # one was the warm-up's
    assert report["requests"] == 17


@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
def test_server_that_does_not_answer(bench, server, tmp_path, streaming):
    (tmp_path / "1.jpg").write_bytes(b"1")
    server.open.clear()
    options = ["--timeout", 0.2, "--requests", 2, "--concurrency", 2, *streaming]
    code, report = bench(*options, tmp_path)
    assert (code, report["errors"]) == (1, {"DEADLINE_EXCEEDED": 2})
    assert report["latency_ms"] == {}


def test_server_that_goes_away_under_a_stream(bench, server):
    def stop() -> None:
        for _ in range(20):
            assert server.arrived.acquire(timeout=20)
        server.stop()

    threading.Thread(target=stop).start()
    code, report = bench("--streaming", "--concurrency", 2, "--duration", 1)
    assert code == 1
    # INTERNAL is how gRPC tells of a stream that the other side has reset.
    assert report["errors"].keys() <= {"UNAVAILABLE", "CANCELLED", "INTERNAL"}
    assert report["requests"] >= 10


def test_text_report(server, capsys):
    arguments = ["--server", server.target, "--requests", "5", "--rate", "100"]
    assert main(["bench", *arguments]) == 0
    out = capsys.readouterr().out
    assert "5 requests answered" in out
    assert "requests/s of 100 offered" in out
    assert "compute    p50     3.000 ms  p99     3.000 ms" in out


def test_server_that_is_not_there(capsys):
    assert main(["bench", "--server", "127.0.0.1:1"]) == 3
    assert "no server answers" in capsys.readouterr().err


@pytest.mark.parametrize("images", [[], ["1.jpg"]], ids=["noise", "image"])
def test_model_that_is_not_there(server, capsys, tmp_path, images):
    (tmp_path / "1.jpg").write_bytes(b"1")
    paths = [str(tmp_path / one) for one in images]
    assert main(["bench", "--server", server.target, "--model", "nope", *paths]) == 2
    assert capsys.readouterr().err == "convoy: no model nope; there is: fake\n"
    assert server.requests == []


def test_request_too_large_to_send(server, capsys, tmp_path):
    (tmp_path / "1.jpg").write_bytes(bytes(3 * 2**20))
    arguments = ["--images-per-request", "30", str(tmp_path)]
    assert main(["bench", "--server", server.target, *arguments]) == 2
    assert "--images-per-request 30: 94," in capsys.readouterr().err


def test_request_far_too_large_is_never_built(server, capsys):
    arguments = ["--images-per-request", "2000000000", "--server", server.target]
    assert main(["bench", *arguments]) == 2
    assert "--images-per-request 2000000000: " in capsys.readouterr().err


def test_seed_below_zero_is_refused(server, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["bench", "--server", server.target, "--seed", "-5"])
    assert caught.value.code == 2
    assert "'-5' is not a whole number from 0" in capsys.readouterr().err


def test_timeout_of_centuries(bench):
    assert bench("--timeout", 1e300, "--requests", 1)[0] == 0
    assert bench("--timeout", 1e300, "--requests", 1, "--streaming")[0] == 0


def test_percentiles_are_measured_values():
    seconds = [number / 1000 for number in range(1, 101)]
    assert percentiles(seconds) == {"p50": 50.0, "p90": 90.0, "p99": 99.0, "max": 100.0}
    assert percentiles([0.002]) == {"p50": 2.0, "p90": 2.0, "p99": 2.0, "max": 2.0}
    assert percentiles([]) == {}
