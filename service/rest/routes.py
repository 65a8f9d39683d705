"""Which method of the protocol answers which path."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from service.rest import answers, requests
from service.rest.call import Read, Write
from service.rest.http import HttpError
from service.rest.infer import read_infer, write_infer

ROOT = "/v2"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What answers a method of HTTP at a path below ROOT, and how the two are translated."""

    rpc: str
    method: str
    path: str
    read: Read
    write: Write


_MODEL = r"/models/(?P<model>[^/]+)"
_VERSION = rf"{_MODEL}(/versions/(?P<version>[^/]+))?"
_REPOSITORY = r"/repository(/(?P<repository>[^/]+))?"
_REGION = r"/region/(?P<region>[^/]+)"


def _get(rpc: str, path: str, read: Read, write: Write) -> Endpoint:
    return Endpoint(rpc, "GET", path, read, write)


def _post(rpc: str, path: str, read: Read, write: Write) -> Endpoint:
    return Endpoint(rpc, "POST", path, read, write)


def _memory(kind: str) -> Iterable[Endpoint]:
    path, rpc = f"/{kind.lower()}sharedmemory", f"{kind}SharedMemory"
    yield _get(f"{rpc}Status", f"{path}({_REGION})?/status", requests.of_region, answers.regions)
    yield _post(
        f"{rpc}Register", f"{path}{_REGION}/register", requests.registration, answers.nothing
    )
    yield _post(
        f"{rpc}Unregister", f"{path}({_REGION})?/unregister", requests.of_region, answers.nothing
    )


def _control(action: str) -> Endpoint:
    path = f"{_REPOSITORY}{_MODEL}/{action.lower()}"
    return _post(f"RepositoryModel{action}", path, requests.control, answers.nothing)


# The first that fits is taken.
ENDPOINTS: tuple[Endpoint, ...] = (
    _post("ModelInfer", f"{_VERSION}/infer", read_infer, write_infer),
    _get("ServerMetadata", "", requests.empty, answers.message),
    _get("ServerLive", "/health/live", requests.empty, answers.live),
    _get("ServerReady", "/health/ready", requests.empty, answers.ready),
    # Before those of models, one of which may bear this name.
    _get("ModelStatistics", "/models/stats", requests.empty, answers.message),
    _get("ModelMetadata", _VERSION, requests.of_model, answers.message),
    _get("ModelReady", f"{_VERSION}/ready", requests.of_model, answers.ready),
    _get("ModelConfig", f"{_VERSION}/config", requests.of_model, answers.config),
    _get("ModelStatistics", f"{_VERSION}/stats", requests.of_model, answers.message),
    _post("RepositoryIndex", f"{_REPOSITORY}/index", requests.index, answers.index),
    _control("Load"),
    _control("Unload"),
    *_memory("System"),
    *_memory("Cuda"),
    _get("LogSettings", "/logging", requests.empty, answers.log_settings),
    _post("LogSettings", "/logging", requests.log_settings, answers.log_settings),
    _get("TraceSetting", f"({_MODEL})?/trace/setting", requests.traced, answers.trace),
    _post("TraceSetting", f"({_MODEL})?/trace/setting", requests.trace, answers.trace),
)
_PATTERNS = tuple((re.compile(ROOT + endpoint.path), endpoint) for endpoint in ENDPOINTS)


def serves(path: str) -> bool:
    """Whether a path is one of this protocol."""
    return path == ROOT or path.startswith(f"{ROOT}/")


def find(method: str, path: str) -> tuple[Endpoint, Mapping[str, str | None]]:
    """What answers a request, and the names in its path. Raises: HttpError, 404 or 405."""
    path = path.removesuffix("/")
    allowed = []
    for pattern, endpoint in _PATTERNS:
        if found := pattern.fullmatch(path):
            if endpoint.method == method:
                return endpoint, found.groupdict()
            allowed.append(endpoint.method)
    if allowed:
        methods = ", ".join(allowed)
        raise HttpError(405, f"{method[:16]}: must be {methods}", [(b"allow", methods.encode())])
    raise HttpError(404, f"there is nothing at {path[:128]!r}; {ROOT} is where to begin")
