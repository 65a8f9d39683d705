"""A server whose device is occupied for good, so that whatever else comes waits in the queue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from convoy.v1 import image_classifier_pb2 as pb
from tests.bundles import make_bundle, solid
from tests.servers import Running, server_process


@contextmanager
def busy_server(models: Path) -> Iterator[Running]:
    """Serve the model `tiny`, which computes a first batch that never ends."""
    make_bundle(models, flaw="hangs-on-black")
    with server_process(models) as server, server.stub() as stub:
        call = stub.Classify.future(pb.ClassifyRequest(images=[pb.Image(encoded=solid("black"))]))
        server.wait_for_metric(1, "convoy_batch_size_count")
        yield server
        call.cancel()
