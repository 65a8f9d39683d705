"""Ray Serve: google.protobuf.BytesValue in and out, over its gRPC proxy."""

import sys
import time

import grpc
import ray
from google.protobuf.wrappers_pb2 import BytesValue
from ray import serve

from benchmarks.peers.apps.network import BATCH, INSTANCES, Network

SERVICE = "benchmarks.Classifier"


def add_to_server(servicer: object, server: object) -> None:
    """What generated code does for a service with one method, Classify."""
    handler = grpc.unary_unary_rpc_method_handler(
        servicer.Classify,
        request_deserializer=BytesValue.FromString,
        response_serializer=BytesValue.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"Classify": handler}),)
    )


@serve.deployment(
    num_replicas=INSTANCES, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0}
)
class Classify:
    """Decodes and runs one batch."""

    def __init__(self) -> None:
        self.network = Network()

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.001)
    async def _batch(self, images: list[bytes]) -> list[bytes]:
        return [row.tobytes() for row in self.network(images)]

    async def Classify(self, request: BytesValue) -> BytesValue:
        """Probabilities of one image."""
        return BytesValue(value=await self._batch(request.value))


if __name__ == "__main__":
    grpc_port, http_port = map(int, sys.argv[1:3])
    ray.init(include_dashboard=False, log_to_driver=False, _temp_dir=sys.argv[3])
    serve.start(
        http_options={"host": "127.0.0.1", "port": http_port},
        grpc_options={
            "port": grpc_port,
            "grpc_servicer_functions": ["benchmarks.peers.apps.ray_app.add_to_server"],
        },
    )
    serve.run(Classify.bind(), name="classify")
    while True:
        time.sleep(3600)
