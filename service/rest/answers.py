"""Answers of the protocol, but for those to infer, in Triton's form."""

from __future__ import annotations

from service.rest.call import Call, Told
from service.rest.http import Response, error_response, json_response
from service.rest.json import plain

# What Triton says of what is not ready; clients look for 200 alone.
NOT_READY = 400


def message(call: Call, response: Told) -> Response:
    """All of it."""
    return json_response(plain(response))


def nothing(call: Call, response: Told) -> Response:
    """It was done."""
    return Response()


def live(call: Call, response: Told) -> Response:
    """Who can answer lives."""
    return Response(200 if response.live else NOT_READY)


def ready(call: Call, response: Told) -> Response:
    """Whether requests are answered."""
    return Response() if response.ready else error_response(NOT_READY, "not ready")


def config(call: Call, response: Told) -> Response:
    """The configuration of a model."""
    return json_response(plain(response.config))


def index(call: Call, response: Told) -> Response:
    """A list of models; what is empty is left out."""
    rows = map(plain, response.models)
    return json_response([{name: one for name, one in row.items() if one} for row in rows])


def regions(call: Call, response: Told) -> Response:
    """A list of regions of shared memory."""
    return json_response([plain(one) for one in response.regions.values()])


def trace(call: Call, response: Told) -> Response:
    """Settings of tracing, each with its value; the level has several."""
    values = {name: list(one.value) for name, one in response.settings.items()}
    return json_response(
        {name: many if name == "trace_level" else ",".join(many) for name, many in values.items()}
    )


def log_settings(call: Call, response: Told) -> Response:
    """Settings of the log, each with its value."""
    return json_response(
        {
            name: getattr(one, one.WhichOneof("parameter_choice"))
            for name, one in response.settings.items()
        }
    )
