"""What a malicious caller can send: nothing crashes, hangs, fails inside or costs memory for ever.

    FUZZ_SECONDS=300 pytest -s tests/service/test_inference_fuzz.py

goes on for five minutes on each front, from another seed each time; without it a few hundred
examples are sent, always the same.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from service.carrier import CallFailed
from service.fronts.framing import PREFIX, Frames
from service.oip import grpc_service_pb2 as pb
from service.oip.regions import FOLDER
from service.oip.table import NESTED
from service.wire import has_more_fields
from tests.bundles import expected
from tests.servers import PATIENCE, Running, server_process
from tests.service import http2
from tests.service.hostile_messages import (
    INFER,
    KEY,
    OBJECT_BYTES,
    PIXELS,
    STREAM,
    Claim,
    Http,
    Noise,
    Operation,
    Resize,
    Stream,
    Unary,
    operations,
)
from tests.service.hostile_requests import http_requests
from tests.service.inference import pixels_request, probabilities
from tests.service.rest import ask, rest_addresses

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
EXAMPLES = 100  # of a round
ROUNDS = 3
# After the first round the process may not grow by more, however long it goes on.
MOST_GROWTH = 48 * 2**20
REFUSALS = {
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "UNIMPLEMENTED",
}
HTTP_REFUSALS = {501, 504}  # UNIMPLEMENTED, and the timeout of a request
QUICK = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"this system has no {FOLDER}")


@dataclass
class Attack:
    """A caller who does whatever is drawn to one server."""

    server: Running
    front: str
    channel: grpc.Channel
    object: Path
    sent: int = 0
    codes: dict[str, int] = field(default_factory=dict)

    def do(self, some: list[Operation]) -> None:
        """Do all at once; then every call has ended well, and a good request is answered."""
        begun = [self._begin(one) for one in some]
        for call, finish in filter(None, begun):
            with suppress(grpc.RpcError):
                finish()
            self._check(call.code().name, call.details())
        self._check_good_request()

    def _begin(self, one: Operation) -> tuple[Any, Callable[[], Any]] | None:
        """Do it; where that is a call, returns it and what waits for its end."""
        self.sent += 1
        match one:
            case Unary(path, message, stays):
                call = self.channel.unary_unary(path).future(message, timeout=PATIENCE)
                if stays:
                    return call, call.result
                call.cancel()
            case Stream(messages):
                self.sent += len(messages)
                method = self.channel.stream_stream(INFER.replace("ModelInfer", STREAM))
                call = method(iter(messages), timeout=PATIENCE)
                return call, partial(deque, call, maxlen=0)
            case Resize(size):
                os.truncate(self.object, size)
            case Claim(packed, claimed, data):
                request = http2.post(INFER, PREFIX.pack(packed, claimed) + data)
                http2.wait_for_end(self.server.grpc_address, request, seconds=PATIENCE)
            case Noise(data, http):
                address = self.server.http_address if http else self.server.grpc_address
                with http2.connected(address, PATIENCE) as connection, suppress(ConnectionError):
                    connection.sendall(data)
            case Http(method, path, headers, body):
                for address in rest_addresses(self.server, self.front):
                    self._ask(address, method, path, headers, body)
        return None

    def _ask(
        self, address: str, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> None:
        status = ask(address, path, body, headers, method).status
        self._count(f"HTTP {status}")
        assert status < 500 or status in HTTP_REFUSALS, f"{method} {path}: {status}"

    def _count(self, code: str) -> None:
        self.codes[code] = self.codes.get(code, 0) + 1

    def _check(self, code: str, text: str) -> None:
        """Hold how a call has ended against what a caller may be told."""
        self._count(code)
        by_server = code == "DEADLINE_EXCEEDED" and text.startswith("the ")
        assert code in REFUSALS or by_server, f"{code}: {text}"

    def _check_good_request(self) -> None:
        self.sent += 1
        message = pixels_request(PIXELS).SerializeToString()
        reply = self.channel.unary_unary(INFER)(message, timeout=PATIENCE)
        answer = probabilities(pb.ModelInferResponse.FromString(reply))
        assert answer == pytest.approx(expected(PIXELS), abs=1e-5)


@contextmanager
def attack(models: Path, front: str) -> Iterator[Attack]:
    file = FOLDER / KEY
    file.write_bytes(PIXELS.tobytes() + bytes(OBJECT_BYTES - PIXELS.nbytes))
    flags = (f"--front={front}", "--shared-memory", "--log-settings")
    try:
        with (
            server_process(models, *flags) as server,
            grpc.insecure_channel(server.grpc_address) as channel,
        ):
            yield Attack(server, front, channel, file)
    finally:
        file.unlink()


def send_round(attack: Attack, number: int) -> None:
    @seed(number)
    @QUICK
    @given(st.lists(operations() | http_requests(), min_size=1, max_size=8))
    def all_of(some: list[Operation]) -> None:
        attack.do(some)

    all_of()


@pytest.mark.timeout(SECONDS + 300)
def test_a_malicious_caller_harms_nobody(models: Path, front: str) -> None:
    first, memory = secrets.randbits(32) if SECONDS else 0, []
    with attack(models, front) as caller:
        process, end = caller.server.serving_process(), monotonic() + SECONDS
        while len(memory) < ROUNDS or monotonic() < end:
            send_round(caller, first + len(memory))
            memory.append(caller.server.memory("VmRSS"))
        assert caller.server.serving_process() == process, "it crashed and was started again"
    shown = [f"{size / 2**20:.1f}" for size in (memory[0], memory[len(memory) // 2], memory[-1])]
    print(  # noqa: T201 - what the long form is run for
        f"{front}: {caller.sent:,} messages in {len(memory)} rounds from seed {first}, "
        f"{caller.codes}; MiB after the first, half of them, all: {', '.join(shown)}"
    )
    assert memory[-1] - memory[0] < MOST_GROWTH


@QUICK
@seed(0)
@given(st.lists(st.binary(max_size=40), max_size=9), st.sampled_from([b"identity", b"gzip"]))
def test_no_body_gets_more_out_of_the_framing_than_it_has(chunks: list[bytes], kind: bytes) -> None:
    frames, found = Frames(kind, 1000), []
    try:
        for chunk in chunks:
            frames.feed(chunk)
            while (message := frames.take()) is not None:
                found.append(message)
        frames.end()
    except CallFailed:
        return
    if kind == b"identity":
        assert sum(map(len, found)) + PREFIX.size * len(found) == sum(map(len, chunks))


@QUICK
@seed(0)
@given(st.binary(max_size=200))
def test_a_look_at_any_bytes_ends(data: bytes) -> None:
    assert has_more_fields(data, 5, NESTED["ModelInfer"]) in (True, False)
