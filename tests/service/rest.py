"""A bare client of the protocol over HTTP, and where the tests find servers of it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.servers import PATIENCE, Running

INFER = "/v2/models/tiny/infer"


@dataclass
class Reply:
    """What a server answered."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        """The body, where it is JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The text of an error."""
        return str(self.json["error"])


def rest_addresses(server: Running, front: str) -> list[str]:
    """Where a server takes this protocol: with Envoy, at its port of gRPC too."""
    return [server.http_address] + ([server.grpc_address] if front == "envoy" else [])


def ask(
    address: str,
    path: str,
    body: bytes | dict[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    method: str | None = None,
) -> Reply:
    """One request: POST where there is a body, which a dictionary becomes as JSON."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    try:
        how = method or ("GET" if body is None else "POST")
        connection.request(how, path, data, dict(headers or {}))
        reply = connection.getresponse()
        lines = {name.lower(): value for name, value in reply.getheaders()}
        return Reply(reply.status, reply.read(), lines)
    finally:
        connection.close()


def pixels_input(pixels: NDArray[np.uint8], **fields: Any) -> dict[str, Any]:
    """An input of pixels [N, H, W, C], without its elements."""
    return {"name": "images", "datatype": "UINT8", "shape": list(pixels.shape), **fields}


def with_binary(request: dict[str, Any], *tensors: bytes) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request whose tensors follow its JSON."""
    head = json.dumps(request).encode()
    return b"".join([head, *tensors]), {"Inference-Header-Content-Length": str(len(head))}


def scores(reply: Reply, classes: int = 3) -> NDArray[np.float32]:
    """Probabilities [N, K] of an answer in JSON."""
    (output,) = reply.json["outputs"]
    assert (output["name"], output["datatype"]) == ("probabilities", "FP32")
    assert output["shape"][1] == classes
    return np.array(output["data"], np.float32).reshape(output["shape"])


def texts(output: Mapping[str, Any]) -> Sequence[str]:
    """The elements of a tensor of BYTES in JSON."""
    assert output["datatype"] == "BYTES"
    found: Sequence[str] = output["data"]
    return found
