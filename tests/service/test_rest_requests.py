"""Plain requests of the protocol over HTTP, good ones and bad ones."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bundles import expected, make_bundle, solid
from tests.servers import Running, running_server
from tests.service.rest import (
    INFER,
    ask,
    pixels_input,
    rest_addresses,
    scores,
    texts,
    with_binary,
)

NOISE = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
SIZED = pixels_input(NOISE, parameters={"binary_data_size": NOISE.nbytes})
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture
def address(server: Running, front: str) -> str:
    """The HTTP port with grpcio, the port of gRPC with Envoy."""
    return rest_addresses(server, front)[-1]


def test_what_the_server_says_of_itself(address: str) -> None:
    assert ask(address, "/v2").json["name"] == "convoy"
    assert ask(address, "/v2/health/live").status == 200
    assert ask(address, "/v2/health/ready").status == 200
    assert ask(address, "/v2/models/tiny/versions/2").json["versions"] == ["2"]
    assert ask(address, "/v2/models/tiny/versions/2/ready").status == 200
    assert ask(address, "/v2/models/none/ready").status == 400
    config = ask(address, "/v2/models/tiny/config").json
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 0
    index = ask(address, "/v2/repository/index", b"")
    assert index.headers["content-type"] == "application/json"
    assert index.json[0]["name"] == "tiny"


@pytest.mark.parametrize("data", [NOISE.tolist(), NOISE.ravel().tolist()], ids=["nested", "flat"])
def test_pixels_as_numbers(address: str, data: list[Any]) -> None:
    reply = ask(address, INFER, {"id": "a", "inputs": [pixels_input(NOISE, data=data)]})
    assert np.allclose(scores(reply), expected(NOISE), atol=1e-5)
    assert reply.json["id"] == "a"
    assert reply.json["model_version"] == "2"


def test_pixels_as_binary_data_and_binary_answers(address: str) -> None:
    for request in (
        {"inputs": [SIZED], "parameters": {"binary_data_output": True}},
        {
            "inputs": [SIZED],
            "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}],
        },
    ):
        body, headers = with_binary(request, NOISE.tobytes())
        reply = ask(address, INFER, body, headers)
        assert reply.headers["content-type"] == "application/octet-stream"
        length = int(reply.headers[LENGTH.lower()])
        (output,) = json.loads(reply.body[:length])["outputs"]
        assert output["parameters"] == {"binary_data_size": len(reply.body) - length}
        answer = np.frombuffer(reply.body[length:], np.float32).reshape(output["shape"])
        assert np.allclose(answer, expected(NOISE), atol=1e-5)


def test_photos_in_base64_and_their_classes(address: str) -> None:
    photos = [{"b64": base64.b64encode(solid(one)).decode()} for one in ("red", "blue")]
    reply = ask(
        address,
        INFER,
        {
            "inputs": [
                {"name": "encoded_images", "datatype": "BYTES", "shape": [2], "data": photos}
            ],
            "outputs": [{"name": "probabilities", "parameters": {"classification": 1}}],
        },
    )
    (output,) = reply.json["outputs"]
    assert output["shape"] == [2, 1]
    assert [one.split(":")[1:] for one in texts(output)] == [["0", "red"], ["2", "blue"]]


def test_a_photo_and_nothing_else(address: str) -> None:
    reply = ask(address, INFER, solid("green"), {LENGTH: "0"})
    assert scores(reply).argmax(axis=1).tolist() == [1]


@pytest.mark.usefixtures("front")
def test_more_numbers_than_json_should_hold_go_in_binary_form(tmp_path: Path) -> None:
    make_bundle(tmp_path, labels=[f"class {k}" for k in range(8193)], size=8)
    with running_server(tmp_path) as server:
        for images, binary, status in ((31, False, 200), (32, False, 400), (32, True, 200)):
            pixels = np.zeros((images, 8, 8, 3), np.uint8)
            tensor = pixels_input(pixels, parameters={"binary_data_size": pixels.nbytes})
            request = {"inputs": [tensor], "parameters": {"binary_data_output": binary}}
            reply = ask(server.http_address, INFER, *with_binary(request, pixels.tobytes()))
            assert reply.status == status
            if status == 400:
                assert reply.error.startswith("probabilities: 262,176 elements")
                assert "binary_data_output" in reply.error


@pytest.mark.parametrize("there", ["gzip", "deflate"])
@pytest.mark.parametrize("back", ["gzip", "deflate"])
def test_compression(address: str, there: str, back: str) -> None:
    body, headers = with_binary({"inputs": [SIZED]}, NOISE.tobytes())
    packed = gzip.compress(body) if there == "gzip" else zlib.compress(body)
    headers |= {"Content-Encoding": there, "Accept-Encoding": f"{back}, identity;q=0.5"}
    reply = ask(address, INFER, packed, headers)
    assert reply.headers["content-encoding"] == back
    reply.body = zlib.decompress(reply.body, zlib.MAX_WBITS + 32)
    assert np.allclose(scores(reply), expected(NOISE), atol=1e-5)


def infer(**fields: Any) -> dict[str, Any]:
    return {"inputs": [{**pixels_input(NOISE), **fields}]}


ZEROS = [0] * NOISE.size
WRONG: dict[str, tuple[bytes | dict[str, Any], str]] = {
    "no JSON": (b"{", "not JSON"),
    "not UTF-8": (b'{"id": "\xff"}', "not JSON"),
    "deep": (b"[" * 100_000, "not JSON"),
    "no object": (b"[]", "must be an object"),
    "empty": (b"", "inputs: 0"),
    "inputs that are none": ({"inputs": {}}, "inputs: must be an array"),
    "an input that is none": ({"inputs": [1]}, "inputs[0]: must be an object"),
    "many inputs": (b'{"inputs":[' + b"{}," * 10**5 + b"{}]}", "inputs: 100001"),
    "many arrays": (b"[" + b"[]," * 2**18 + b"[]]", "more than 262,144 arrays"),
    "an id that is none": ({"id": 7}, "id: must be a string"),
    "no elements": (infer(), "given by nothing"),
    "elements twice": (
        infer(data=ZEROS, parameters={"binary_data_size": 0}),
        "given by binary_data_size and data",
    ),
    "too few": (infer(data=[0]), "1 bytes"),
    "ragged": (infer(data=[[0], 0]), "not all elements"),
    "too high": (infer(data=[*ZEROS[1:], 256]), "range of UINT8"),
    "too low": (infer(data=[*ZEROS[1:], -1]), "range of UINT8"),
    "fractions": (infer(data=[*ZEROS[1:], 0.5]), "numbers of type UINT8"),
    "truths": (infer(data=[*ZEROS[1:], True]), "numbers of type UINT8"),
    "NaN": (b'{"inputs": [{"data": [NaN]}]}', "not JSON"),
    "infinity": (infer(datatype="FP32", data=[1e39]), "range of FP32"),
    "no number at all": (b'{"inputs": [{"datatype": "FP64", "data": [1e999]}]}', ""),
    "a type JSON has not": (infer(datatype="FP16", data=[0]), "cannot be sent as JSON"),
    "another type": (infer(datatype="INT8", data=ZEROS), "must be UINT8"),
    "a shape that is none": (infer(data=ZEROS, shape=["2"]), "shape: must be whole numbers"),
    "a huge shape": (infer(data=ZEROS, shape=[2**70]), "shape: must be whole numbers"),
    "negative shape": (infer(data=ZEROS, shape=[-2, 32, 32, 3]), "-2, must be 1"),
    "a lie about the shape": (infer(data=ZEROS, shape=[9, 32, 32, 3]), "needs 27,648"),
    "parameters that are none": (
        infer(data=ZEROS, parameters=[]),
        "inputs[0]: parameters: must be an object",
    ),
    "a parameter that is none": (infer(data=ZEROS, parameters={"a": {}}), "parameters[a]"),
    "a huge parameter": (infer(data=ZEROS, parameters={"a": 2**64}), "parameters[a]"),
    "bytes that are none": (
        infer(name="encoded_images", datatype="BYTES", shape=[1], data=[7]),
        "data[0]: must be a string",
    ),
    "bad base64": (
        infer(name="encoded_images", datatype="BYTES", shape=[1], data=[{"b64": "?"}]),
        "not base64",
    ),
    "no such output": ({**infer(data=ZEROS), "outputs": [{"name": "x"}]}, "no output 'x'"),
    "shared memory that is off": (
        infer(parameters={"shared_memory_region": "r", "shared_memory_byte_size": 1}),
        "'r'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_told_what_is_wrong(address: str, name: str) -> None:
    body, text = WRONG[name]
    reply = ask(address, INFER, body)
    assert reply.status in (400, 404)
    assert text in reply.error


@pytest.mark.parametrize(
    ("length", "size", "text"),
    [
        ("-1", NOISE.nbytes, "must be the length of the JSON"),
        ("x", NOISE.nbytes, "must be the length of the JSON"),
        ("99999999", NOISE.nbytes, "must be the length of the JSON"),
        ("9" * 5000, NOISE.nbytes, "must be the length of the JSON"),
        ("5", NOISE.nbytes, "not JSON"),
        (None, NOISE.nbytes + 1, "must be the bytes of this tensor"),
        (None, 2**62, "must be the bytes of this tensor"),
        (None, -1, "must be the bytes of this tensor"),
        (None, "1", "must be the bytes of this tensor"),
        (None, NOISE.nbytes - 1, "1 bytes more"),
        (None, 0, "bytes more"),
    ],
)
def test_lies_about_lengths(address: str, length: str | None, size: Any, text: str) -> None:
    request = {"inputs": [pixels_input(NOISE, parameters={"binary_data_size": size})]}
    body, headers = with_binary(request, NOISE.tobytes())
    reply = ask(address, INFER, body, {LENGTH: length} if length else headers)
    assert reply.status == 400
    assert text in reply.error


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/none", 404),
        ("/v2/models", 404),
        ("/v2/models//ready", 404),
        ("/v2/models/none", 404),
        ("/v2/models/tiny/versions/9", 404),
        ("/v2/models/tiny/versions/x", 404),
        ("/v2/systemsharedmemory/region/none/status", 404),
        ("/v2/cudasharedmemory/status", 501),
        (INFER, 405),
        ("/v2/repository/index", 405),
    ],
)
def test_errors_of_paths(address: str, path: str, status: int) -> None:
    reply = ask(address, path)
    assert reply.status == status
    assert reply.error


def test_a_method_that_is_not_allowed(address: str) -> None:
    reply = ask(address, "/v2/logging", method="PUT")
    assert reply.status == 405
    assert reply.headers["allow"] == "GET, POST"


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (b"abc", "gzip", 400),
        (gzip.compress(b'{"inputs": []}')[:-1], "gzip", 400),
        (b"abc", "br", 415),
        (gzip.compress(bytes(65 * 2**20)), "gzip", 413),
        (bytes(65 * 2**20), "identity", 413),
        (b'{"id": "' + b"a" * 9 * 2**20 + b'"}', "identity", 400),
    ],
    ids=["no gzip", "half of it", "brotli", "bomb", "too large", "too large for JSON"],
)
def test_bodies_that_are_refused(address: str, body: bytes, encoding: str, status: int) -> None:
    reply = ask(address, INFER, body, {"Content-Encoding": encoding})
    assert reply.status == status
    assert reply.error
    assert ask(address, "/v2/health/ready").status == 200
