"""JSON that callers send, and messages as the JSON that they expect."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from pydantic_core import from_json

from service.errors import InvalidRequest

Kind = TypeVar("Kind", bound=Message)
# The descriptor of a field; the stubs know two classes for it.
Field = Any

# A parser holds everybody else up, for about a tenth of a second with this much of each.
MAX_JSON_BYTES = 8 * 2**20
MAX_CONTAINERS = 2**18


def read_object(data: bytes) -> dict[str, Any]:
    """A body that is one object; no body is an empty one. Raises: InvalidRequest."""
    if not data:
        return {}
    if len(data) > MAX_JSON_BYTES:
        raise InvalidRequest(
            f"the JSON has {len(data):,} bytes, must have {MAX_JSON_BYTES:,} at most; send "
            "tensors as binary data after it (binary_data_size)"
        )
    if data.count(b"[") + data.count(b"{") > MAX_CONTAINERS:
        raise InvalidRequest(
            f"the JSON has more than {MAX_CONTAINERS:,} arrays and objects; give `data` flat, or "
            "as binary data after it (binary_data_size)"
        )
    try:
        value = from_json(data, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    return members(value, "the body")


def members(value: object, where: str) -> dict[str, Any]:
    """An object, or an empty one for what was left out. Raises: InvalidRequest."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest(f"{where}: must be an object")
    return value


def elements(value: object, where: str) -> list[Any]:
    """An array, or an empty one for what was left out. Raises: InvalidRequest."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidRequest(f"{where}: must be an array")
    return value


def text(value: object, where: str) -> str:
    """A string, or an empty one for what was left out. Raises: InvalidRequest."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(f"{where}: must be a string")
    return value


def decoded(value: object, where: str) -> bytes:
    """The bytes of a string in base64. Raises: InvalidRequest."""
    try:
        return base64.b64decode(text(value, where), validate=True)
    except binascii.Error as error:
        raise InvalidRequest(f"{where}: not base64: {error}") from None


def read_message(fields: dict[str, Any], message: Kind) -> Kind:
    """Fill a message from fields that bear its names, not from others. Raises: InvalidRequest."""
    try:
        return ParseDict(fields, message, ignore_unknown_fields=True)
    except ParseError as error:
        raise InvalidRequest(f"the body: {error}") from None


def plain(message: Message) -> dict[str, Any]:
    """A message as JSON of Triton, in which 64-bit integers are numbers and defaults stand."""
    return {
        field.name: _plain_field(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _plain_field(field: Field, value: Any) -> Any:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        write = _writer(kind.fields_by_name["value"])
        return {str(key): write(one) for key, one in value.items()}
    write = _writer(field)
    return [write(one) for one in value] if field.is_repeated else write(value)


def _writer(field: Field) -> Callable[[Any], Any]:
    if field.message_type is not None:
        return plain
    if field.enum_type is not None:
        names = field.enum_type.values_by_number
        return lambda number: names[number].name if number in names else number
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda data: base64.b64encode(data).decode()
    return lambda value: value
