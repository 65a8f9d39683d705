"""The least that can be called a batching server: grpc.aio, uvloop, one thread for ONNX Runtime.

No checks, limits, deadlines, metrics, health or drain: the yardstick for what those cost.
Raw pixels only. Run: python -m benchmarks.prototype MODEL.onnx PORT
"""

from __future__ import annotations

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import onnxruntime as ort
import uvloop

from convoy.v1 import image_classifier_pb2 as pb

SIDE, MAX_BATCH = 32, 32


async def main(model: str, port: str) -> None:
    """Serve until killed."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    thread, loop = ThreadPoolExecutor(1), asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[bytes, asyncio.Future[np.ndarray]]] = asyncio.Queue()

    def run(images: list[bytes]) -> np.ndarray:
        pixels = np.frombuffer(b"".join(images), np.uint8).reshape(-1, SIDE, SIDE, 3)
        return session.run(None, {"images": pixels})[0]

    async def work() -> None:
        while True:
            batch = [await queue.get()]
            while len(batch) < MAX_BATCH and not queue.empty():
                batch.append(queue.get_nowait())
            rows = await loop.run_in_executor(thread, run, [image for image, _ in batch])
            for (_, future), row in zip(batch, rows, strict=True):
                future.set_result(row)

    async def classify(request: pb.ClassifyRequest, context: object) -> pb.ClassifyResponse:
        future = loop.create_future()
        queue.put_nowait((request.images[0].pixels.data, future))
        row = await future
        response = pb.ClassifyResponse(model="prototype", version=1)
        classes = response.predictions.add().classes
        for index in np.argsort(-row)[:5].tolist():
            classes.add(index=index, label=f"class-{index}", probability=float(row[index]))
        return response

    handler = grpc.unary_unary_rpc_method_handler(
        classify, pb.ClassifyRequest.FromString, pb.ClassifyResponse.SerializeToString
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("convoy.v1.ImageClassifier", {"Classify": handler})]
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    worker = asyncio.create_task(work())
    await server.wait_for_termination()
    worker.cancel()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
