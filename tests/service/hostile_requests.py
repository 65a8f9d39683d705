"""What a malicious caller may send to the protocol over HTTP, as strategies of hypothesis."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

from tests.service.hostile_messages import BYTES, KEY, PIXELS, SIGNED, TEXTS, Draw, Http
from tests.service.rest import INFER, pixels_input

PATHS = [INFER, "/v2/models/tiny/versions/2/infer", "/v2", "/v2/health/ready", "/v2/models/stats"]
PATHS += ["/v2/repository/index", "/v2/repository/models/tiny/load", "/v2/logging", "/metrics"]
PATHS += ["/v2/systemsharedmemory/region/r/register", "/v2/systemsharedmemory/unregister"]
PATHS += ["/v2/cudasharedmemory/region/r/register", "/v2/trace/setting", "/v2/models/tiny/config"]
KEYS = ["id", "inputs", "outputs", "name", "datatype", "shape", "data", "parameters", "key"]
KEYS += ["binary_data_size", "binary_data", "byte_size", "offset", "classification", "timeout"]
HEADERS = ["inference-header-content-length", "content-encoding", "content-type", "expect"]

VALUES = st.recursive(
    st.none() | st.booleans() | SIGNED | st.floats() | TEXTS,
    lambda below: (
        st.lists(below, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | TEXTS, below, max_size=4)
    ),
    max_leaves=8,
)
GOOD: tuple[tuple[dict[str, Any], bytes], ...] = (
    (
        {
            "inputs": [pixels_input(PIXELS, parameters={"binary_data_size": PIXELS.nbytes})],
            "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}],
        },
        PIXELS.tobytes(),
    ),
    (
        {
            "inputs": [pixels_input(PIXELS[:1], data=PIXELS[0].tolist())],
            "outputs": [{"name": "probabilities", "parameters": {"classification": 2}}],
        },
        b"",
    ),
    ({"key": KEY, "offset": 0, "byte_size": 64}, b""),
)


@st.composite
def http_requests(draw: Draw) -> Http:
    """A request with up to three changes to its JSON, and headers that may lie."""
    request, tail = draw(st.sampled_from(GOOD))
    request = deepcopy(request)
    for _ in range(draw(st.integers(0, 3))):
        _change(draw, request)
    head = json.dumps(request).encode()
    if _seldom(draw):
        head = draw(BYTES)
    if _seldom(draw):
        tail = draw(st.sampled_from([b"", PIXELS.tobytes()]) | BYTES)
    headers = {"inference-header-content-length": str(len(head))}
    if _seldom(draw):
        headers[draw(st.sampled_from(HEADERS))] = str(
            draw(SIGNED | st.sampled_from(["gzip", "application/json", "", "x"]))
        )
    path, method = INFER, "POST"
    if _seldom(draw):
        path = draw(st.sampled_from(PATHS) | TEXTS.map(lambda one: f"/v2/{one}"))
        method = draw(st.sampled_from(["POST", "GET", "PUT"]))
    return Http(method, quote(path), headers, head + tail)


def _seldom(draw: Draw) -> bool:
    return bool(draw(st.sampled_from([False, False, True])))


def _change(draw: Draw, value: Any) -> None:
    """Replace, add or take out something in an object or an array, at any depth."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    if isinstance(value, dict) and draw(st.booleans()):
        keys += KEYS[:3]
    if not keys:
        return
    key = draw(st.sampled_from(keys))
    below = value[key] if not isinstance(value, dict) else value.get(key)
    if isinstance(below, dict | list) and draw(st.booleans()):
        _change(draw, below)
    elif draw(st.booleans()) or not isinstance(value, dict):
        value[key] = draw(VALUES)
    else:
        value.pop(key, None)
