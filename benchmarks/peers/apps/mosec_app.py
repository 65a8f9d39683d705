"""Mosec: raw bytes in, raw float32 out, over HTTP."""

from mosec import Server, Worker

from benchmarks.peers.apps.network import BATCH, INSTANCES, Network


class Classify(Worker):
    """Decodes and runs one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def deserialize(self, data: bytes) -> bytes:
        """As it came."""
        return data

    def serialize(self, data: bytes) -> bytes:
        """As it is."""
        return data

    def forward(self, data: list[bytes]) -> list[bytes]:
        """Probabilities of each image."""
        return [row.tobytes() for row in self.network(data)]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Classify, num=INSTANCES, max_batch_size=BATCH, max_wait_time=1)
    server.run()
