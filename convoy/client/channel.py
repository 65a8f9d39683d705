"""The channel to a server and its methods: what the synchronous and asyncio clients share of gRPC.

`grpc.health.v1` is spoken here without its package: its two messages have one field each, and a
second copy of its .proto would clash with `grpc_health` wherever both are imported.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

import grpc

from convoy.client.retry import PUSHBACK_KEY, Failure, parse_pushback
from convoy.v1 import image_classifier_pb2 as pb

MAX_MESSAGE_BYTES = 64 * 2**20
KEEPALIVE_MS = 30_000
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
_SERVICE = "/convoy.v1.ImageClassifier/"
_RESPONSES: dict[str, Any] = {
    "Classify": pb.ClassifyResponse,
    "ListModels": pb.ListModelsResponse,
    "GetModel": pb.Model,
}

_LOCAL = re.compile(
    r"unix:|(dns:(///)?|ipv[46]:)?(localhost|127\.\d+\.\d+\.\d+|0\.0\.0\.0|\[::1?\])(:\d+)?$"
)
_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A dead peer is noticed while a call waits for it; idle channels stay silent, since servers
    # close connections that ping without calls.
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # A server that comes back is found again as fast as calls are retried.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Retrying is ours (client/retry.py): a name server must not add a policy of its own.
    ("grpc.service_config_disable_resolution", 1),
]


def channel_options(target: str) -> list[tuple[str, int]]:
    """How a channel to this server behaves."""
    # The proxy of `http_proxy`, which containers inherit, cannot reach the machine that asks.
    return [*_OPTIONS, ("grpc.enable_http_proxy", int(not _LOCAL.match(target)))]


def open_channel(target: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    """A synchronous channel, with TLS where there are credentials."""
    if credentials is None:
        return grpc.insecure_channel(target, channel_options(target))
    return grpc.secure_channel(target, credentials, channel_options(target))


Methods: TypeAlias = dict[str, Any]
"""By name, gRPC's callables; synchronous or asyncio ones, as the channel is."""


def methods(channel: Any) -> Methods:
    """Bind the methods that the clients use to a channel of either kind."""
    bound = {
        name: channel.unary_unary(
            _SERVICE + name,
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=response.FromString,
        )
        for name, response in _RESPONSES.items()
    }
    bound["Check"] = channel.unary_unary(
        HEALTH_CHECK,
        request_serializer=health_request,
        response_deserializer=health_status,
    )
    return bound


def failure_of(error: grpc.RpcError) -> Failure:
    """Read what a call raised; the exceptions of both kinds of channel have these methods."""
    call: Any = error
    trailers = dict(call.trailing_metadata() or ())
    pushback = trailers.get(PUSHBACK_KEY)
    return Failure(
        code=call.code().name,
        message=call.details() or "",
        pushback_ms=None if pushback is None else parse_pushback(pushback),
    )


def health_request(service: str) -> bytes:
    """Serialise grpc.health.v1.HealthCheckRequest: field 1, a string."""
    name = service.encode()
    return b"\x0a" + _varint(len(name)) + name if name else b""


def health_status(response: bytes) -> int:
    """Read the status, field 1, an enum of one byte, of grpc.health.v1.HealthCheckResponse."""
    return response[1] if len(response) >= 2 and response[0] == 0x08 else 0


def _varint(number: int) -> bytes:
    """Base 128, least significant group first, the top bit set on all bytes but the last."""
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
