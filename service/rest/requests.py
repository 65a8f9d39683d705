"""Requests of the protocol, but for those to infer, as messages of the kind that a method takes.

All raise InvalidRequest where the body is not what it should be.
"""

from __future__ import annotations

from service.rest.call import Call, Kind, Told
from service.rest.json import members, read_message, read_object, text


def empty(kind: Kind, call: Call) -> Told:
    """It says nothing."""
    return kind()


def of_model(kind: Kind, call: Call) -> Told:
    """It names a model and perhaps its version."""
    return kind(name=call.name("model"), version=call.name("version"))


def of_region(kind: Kind, call: Call) -> Told:
    """It names a region of shared memory, or none."""
    return kind(name=call.name("region"))


def registration(kind: Kind, call: Call) -> Told:
    """A region of shared memory; the handle of one on a GPU is {"b64": base64}."""
    given = {**read_object(call.body), "name": call.name("region")}
    if "raw_handle" in given:
        given["raw_handle"] = members(given["raw_handle"], "raw_handle").get("b64")
    return read_message(given, kind())


def index(kind: Kind, call: Call) -> Told:
    """Which models to list."""
    given = {**read_object(call.body), "repository_name": call.name("repository")}
    return read_message(given, kind())


def control(kind: Kind, call: Call) -> Told:
    """What to load or to unload; of parameters the names, as their values are of no use."""
    request = kind(repository_name=call.name("repository"), model_name=call.name("model"))
    for name in members(read_object(call.body).get("parameters"), "parameters"):
        request.parameters.get_or_create(name)
    return request


def traced(kind: Kind, call: Call) -> Told:
    """It asks how tracing is set, for a model or all."""
    return kind(model_name=call.name("model"))


def trace(kind: Kind, call: Call) -> Told:
    """Settings of tracing to change; null clears one."""
    request = kind(model_name=call.name("model"))
    for name, value in read_object(call.body).items():
        many = value if isinstance(value, list) else [value]
        request.settings[name].value.extend(text(one, name) for one in many if one is not None)
    return request


def log_settings(kind: Kind, call: Call) -> Told:
    """Settings of the log to change."""
    request = kind()
    for name, value in read_object(call.body).items():
        setting = request.settings[name]
        if isinstance(value, bool):
            setting.bool_param = value
        elif isinstance(value, int) and 0 <= value < 2**32:
            setting.uint32_param = value
        else:
            setting.string_param = text(value, name)
    return request
