"""Every call of the Open Inference Protocol over HTTP through the stock tritonclient: a program.

A program of its own because gevent, which that client is built on, changes the whole process.
Arguments: HOST:PORT of a server with the model `tiny`, `--shared-memory` and `--log-settings`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, shared_memory

from tests.bundles import expected, solid

NOISE = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)


def pixels(*, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("images", NOISE.shape, "UINT8")
    return tensor.set_data_from_numpy(NOISE, binary_data=binary)


def files(*content: bytes) -> triton.InferInput:
    tensor = triton.InferInput("encoded_images", [len(content)], "BYTES")
    return tensor.set_data_from_numpy(np.array(content, np.object_))


def fails(call: Callable[..., Any], *arguments: Any, status: int, **named: Any) -> str:
    failure = None
    try:
        call(*arguments, **named)
    except InferenceServerException as error:
        failure = error
    assert failure is not None, f"{call.__name__} did not fail"
    assert failure.status() == str(status), f"{call.__name__} ended with {failure}"
    return str(failure.message())


def check_information(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "2")
    assert not client.is_model_ready("none")
    metadata = client.get_server_metadata()
    assert metadata["name"] == "convoy"
    assert "binary_tensor_data" in metadata["extensions"]
    images = {"name": "images", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}
    for version in ("", "2"):
        metadata = client.get_model_metadata("tiny", version)
        assert metadata["inputs"] == [images]
        assert metadata["outputs"][0]["shape"] == [-1, 3]
        config = client.get_model_config("tiny", version)
        assert config["input"][0]["format"] == "FORMAT_NHWC"
        assert config["input"][0]["dims"] == [32, 32, 3]
        assert config["max_batch_size"] == 32
    index = client.get_model_repository_index()
    assert {"name": "tiny", "version": "2", "state": "READY"} in index
    assert "'none'" in fails(client.get_model_metadata, "none", status=404)
    assert "'none'" in fails(client.get_model_config, "none", status=404)


def check_answers(client: triton.InferenceServerClient) -> None:
    wanted = [triton.InferRequestedOutput("probabilities", binary_data=False)]
    for tensor in (pixels(), pixels(binary=False)):
        for outputs in (None, wanted):
            reply = client.infer("tiny", [tensor], request_id="7", outputs=outputs)
            assert np.allclose(reply.as_numpy("probabilities"), expected(NOISE), atol=1e-5)
            told = reply.get_response()
            assert (told["id"], told["model_name"], told["model_version"]) == ("7", "tiny", "2")
    with_version = client.infer("tiny", [pixels()], model_version="2", timeout=30_000_000)
    assert with_version.as_numpy("probabilities").shape == (3, 3)
    text = fails(client.infer, "tiny", [files(b"junk")], status=400)
    assert "encoded_images[0]" in text
    fails(client.infer, "none", [pixels()], status=404)
    waiting = client.async_infer("tiny", [pixels()])
    assert waiting.get_result().as_numpy("probabilities").shape == (3, 3)


def check_classes(client: triton.InferenceServerClient) -> None:
    for binary in (True, False):
        wanted = triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=2)
        reply = client.infer(
            "tiny", [files(solid("red"), solid("blue"))], outputs=[wanted], priority=1
        )
        rows = reply.as_numpy("probabilities")
        assert rows.shape == (2, 2)
        texts = [one.decode() if isinstance(one, bytes) else one for one in rows[:, 0]]
        assert [one.split(":")[2] for one in texts] == ["red", "blue"]


def check_compression(client: triton.InferenceServerClient) -> None:
    for there in ("gzip", "deflate", None):
        for back in ("gzip", "deflate", None):
            reply = client.infer(
                "tiny",
                [pixels()],
                request_compression_algorithm=there,
                response_compression_algorithm=back,
            )
            assert np.allclose(reply.as_numpy("probabilities"), expected(NOISE), atol=1e-5)
    fails(client.infer, "none", [pixels()], status=404, response_compression_algorithm="gzip")


@contextmanager
def region(name: str, size: int) -> Iterator[Any]:
    handle = shared_memory.create_shared_memory_region(
        name, f"convoy-http-{name}", size, create_only=True
    )
    try:
        yield handle
    finally:
        shared_memory.destroy_shared_memory_region(handle)


def check_shared_memory(client: triton.InferenceServerClient) -> None:
    size = 3 * 3 * 4
    client.unregister_system_shared_memory()
    with region("input", NOISE.nbytes) as given, region("output", size) as told:
        shared_memory.set_shared_memory_region(given, [NOISE])
        client.register_system_shared_memory("input", "convoy-http-input", NOISE.nbytes)
        client.register_system_shared_memory("output", "convoy-http-output", size)
        status = client.get_system_shared_memory_status("output")
        row = {"name": "output", "key": "convoy-http-output", "offset": 0, "byte_size": size}
        assert status == [row]
        assert len(client.get_system_shared_memory_status()) == 2
        tensor = triton.InferInput("images", NOISE.shape, "UINT8")
        tensor.set_shared_memory("input", NOISE.nbytes)
        wanted = triton.InferRequestedOutput("probabilities")
        wanted.set_shared_memory("output", size)
        output = client.infer("tiny", [tensor], outputs=[wanted]).get_output("probabilities")
        assert set(output) == {"name", "datatype", "shape"}
        answer = shared_memory.get_contents_as_numpy(told, np.float32, output["shape"])
        assert np.allclose(answer, expected(NOISE), atol=1e-5)
        del answer  # a view that would keep the region mapped
        fails(client.register_system_shared_memory, "input", "convoy-http-input", 1, status=400)
        client.unregister_system_shared_memory("input")
        fails(client.get_system_shared_memory_status, "input", status=404)
        client.unregister_system_shared_memory()
        assert client.get_system_shared_memory_status() == []


def check_the_rest(client: triton.InferenceServerClient) -> None:
    for model, version in (("tiny", "2"), ("tiny", ""), ("", "")):
        (statistics,) = client.get_inference_statistics(model, version)["model_stats"]
        assert statistics["inference_stats"]["success"]["count"] >= 4
    for model in (None, "tiny"):
        assert client.get_trace_settings(model)["trace_level"] == ["OFF"]
        client.update_trace_settings(model, {"trace_level": ["OFF"], "trace_rate": None})
    fails(client.update_trace_settings, settings={"trace_level": ["TIMESTAMPS"]}, status=501)
    assert client.get_log_settings()["log_info"] is True
    changed = client.update_log_settings({"log_info": False, "log_verbose_level": 0})
    assert changed["log_info"] is False
    client.update_log_settings({"log_info": True})
    fails(client.get_cuda_shared_memory_status, status=501)
    fails(client.register_cuda_shared_memory, "a", b"AAAA", 0, 1, status=501)
    client.unregister_cuda_shared_memory()


def check_control(client: triton.InferenceServerClient) -> None:
    fails(client.load_model, "tiny", status=501)
    fails(client.load_model, "tiny", config="{}", files={"file:1/model.onnx": b"?"}, status=501)
    fails(client.unload_model, "tiny", status=501)


def main(address: str) -> None:
    with triton.InferenceServerClient(address) as client:
        for check in (
            check_information,
            check_answers,
            check_classes,
            check_compression,
            check_shared_memory,
            check_the_rest,
            check_control,
        ):
            check(client)


if __name__ == "__main__":
    main(sys.argv[1])
