"""Every RPC of the Open Inference Protocol through the stock tritonclient: a program.

A program of its own because tritonclient's generated code and the service's describe the same
messages, and no process can hold both. Arguments: HOST:PORT of a server with the model `tiny`,
`--shared-memory` and `--log-settings`.
"""

from __future__ import annotations

import queue
import sys
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, shared_memory

from tests.bundles import expected, solid

NOISE = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
TIMEOUT = 30.0


def pixels() -> triton.InferInput:
    tensor = triton.InferInput("images", NOISE.shape, "UINT8")
    tensor.set_data_from_numpy(NOISE)
    return tensor


def files(*content: bytes) -> triton.InferInput:
    tensor = triton.InferInput("encoded_images", [len(content)], "BYTES")
    tensor.set_data_from_numpy(np.array(content, np.object_))
    return tensor


def fails(call: Callable[..., Any], *arguments: Any, code: str, **named: Any) -> None:
    status = None
    try:
        call(*arguments, **named)
    except InferenceServerException as error:
        status = error.status()
    assert status == f"StatusCode.{code}", f"{call.__name__} ended with {status}"


def check_information(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "2")
    assert not client.is_model_ready("none")
    assert client.get_server_metadata(as_json=True)["name"] == "convoy"
    metadata = client.get_model_metadata("tiny", as_json=True)
    assert metadata["inputs"] == [
        {"name": "images", "datatype": "UINT8", "shape": ["-1", "32", "32", "3"]}
    ]
    config = client.get_model_config("tiny").config
    assert config.input[0].format == 1  # NHWC
    assert config.max_batch_size == 32
    (index,) = client.get_model_repository_index().models
    assert (index.name, index.version, index.state) == ("tiny", "2", "READY")
    fails(client.get_model_metadata, "none", code="NOT_FOUND")


def check_answers(client: triton.InferenceServerClient) -> None:
    reply = client.infer("tiny", [pixels()], request_id="7", client_timeout=TIMEOUT)
    assert np.allclose(reply.as_numpy("probabilities"), expected(NOISE), atol=1e-5)
    assert reply.get_response().id == "7"
    wanted = triton.InferRequestedOutput("probabilities", class_count=2)
    reply = client.infer(
        "tiny",
        [files(solid("red"), solid("blue"))],
        outputs=[wanted],
        timeout=30_000_000,
        priority=2**63,
    )
    named = [
        [text.decode().split(":")[2] for text in row] for row in reply.as_numpy("probabilities")
    ]
    assert [row[0] for row in named] == ["red", "blue"]
    fails(client.infer, "tiny", [files(b"junk")], code="INVALID_ARGUMENT")
    answered: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.async_infer("tiny", [pixels()], lambda result, error: answered.put((result, error)))
    result, error = answered.get(timeout=TIMEOUT)
    assert error is None
    assert result.as_numpy("probabilities").shape == (3, 3)


def check_stream(client: triton.InferenceServerClient) -> None:
    answered: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answered.put((result, error)))
    for k in range(20):
        tensor = files(b"junk") if k % 4 == 3 else pixels()
        client.async_stream_infer("tiny", [tensor], request_id=str(k))
    for k in range(20):
        result, error = answered.get(timeout=TIMEOUT)
        if k % 4 == 3:
            assert "encoded_images[0]" in error.message()
        else:
            assert error is None
            assert result.get_response().id == str(k)
    client.stop_stream()


@contextmanager
def region(name: str, size: int) -> Any:
    handle = shared_memory.create_shared_memory_region(
        name, f"convoy-{name}", size, create_only=True
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
        client.register_system_shared_memory("input", "convoy-input", NOISE.nbytes)
        client.register_system_shared_memory("output", "convoy-output", size)
        assert set(client.get_system_shared_memory_status().regions) == {"input", "output"}
        tensor = triton.InferInput("images", NOISE.shape, "UINT8")
        tensor.set_shared_memory("input", NOISE.nbytes)
        wanted = triton.InferRequestedOutput("probabilities")
        wanted.set_shared_memory("output", size)
        output = client.infer("tiny", [tensor], outputs=[wanted]).get_output("probabilities")
        answer = shared_memory.get_contents_as_numpy(told, np.float32, output.shape)
        assert np.allclose(answer, expected(NOISE), atol=1e-5)
        del answer  # a view that would keep the region mapped
        client.unregister_system_shared_memory("input")
        client.unregister_system_shared_memory()
        assert not client.get_system_shared_memory_status().regions


def check_the_rest(client: triton.InferenceServerClient) -> None:
    (statistics,) = client.get_inference_statistics("tiny").model_stats
    assert statistics.inference_stats.success.count >= 4
    assert client.get_trace_settings(as_json=True)["settings"]["trace_level"] == {"value": ["OFF"]}
    client.update_trace_settings(settings={"trace_level": "OFF"})
    fails(
        client.update_trace_settings, settings={"trace_level": ["TIMESTAMPS"]}, code="UNIMPLEMENTED"
    )
    assert client.get_log_settings().settings["log_info"].bool_param
    changed = client.update_log_settings({"log_info": False, "log_verbose_level": 0})
    assert not changed.settings["log_info"].bool_param
    fails(client.load_model, "tiny", code="UNIMPLEMENTED")
    fails(client.unload_model, "tiny", code="UNIMPLEMENTED")
    fails(client.get_cuda_shared_memory_status, code="UNIMPLEMENTED")
    fails(client.register_cuda_shared_memory, "a", b"AAAA", 0, 1, code="UNIMPLEMENTED")
    client.unregister_cuda_shared_memory()


def main(address: str) -> None:
    with triton.InferenceServerClient(address) as client:
        for check in (
            check_information,
            check_answers,
            check_stream,
            check_shared_memory,
            check_the_rest,
        ):
            check(client)


if __name__ == "__main__":
    main(sys.argv[1])
