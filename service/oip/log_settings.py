"""LogSettings and TraceSetting."""

from __future__ import annotations

import math
from collections.abc import Mapping

import structlog

from service import logs
from service.errors import InvalidRequest, Unsupported
from service.oip import grpc_service_pb2 as pb
from service.oip.shown import shortened
from service.settings import LogLevel, Settings

CHANGEABLE = ("log_info", "log_warning", "log_verbose_level")

Value = bool | int | str

log = structlog.get_logger()


class LogSettings:
    """Tells the level of the log, and changes it where the operator allows that."""

    def __init__(self, settings: Settings) -> None:
        self._level: LogLevel = settings.log_level
        self._form = settings.log_format
        self._allowed = settings.log_settings

    async def log_settings(
        self, request: pb.LogSettingsRequest, *, deadline: float = math.inf
    ) -> pb.LogSettingsResponse:
        """Change what is given, and tell all. Raises: Unsupported, InvalidRequest."""
        if request.settings:
            self._change(request.settings)
        return pb.LogSettingsResponse(
            settings={name: _message(value) for name, value in self._values().items()}
        )

    async def trace_setting(
        self, request: pb.TraceSettingRequest, *, deadline: float = math.inf
    ) -> pb.TraceSettingResponse:
        """Tracing is off. Raises: Unsupported where it is to be turned on."""
        for name, value in request.settings.items():
            if list(value.value) not in ([], ["OFF"]):
                raise Unsupported(f"settings[{shortened(name)}]: there is no tracing to set")
        off = pb.TraceSettingResponse.SettingValue(value=["OFF"])
        return pb.TraceSettingResponse(settings={"trace_level": off})

    def _values(self) -> dict[str, Value]:
        return {
            "log_error": True,
            "log_warning": self._level != "error",
            "log_info": self._level in ("info", "debug"),
            "log_verbose_level": int(self._level == "debug"),
            "log_format": self._form,
            "log_file": "",
        }

    def _change(self, settings: Mapping[str, pb.LogSettingsRequest.SettingValue]) -> None:
        if not self._allowed:
            raise Unsupported(
                "callers may not change the log; start the server with --log-settings for that"
            )
        values = self._values()
        for name, message in settings.items():
            kind = message.WhichOneof("parameter_choice")
            if kind is None or kind != _kind(values.get(name)):
                raise InvalidRequest(
                    f"settings[{shortened(name)}]: no such setting, or of another type"
                )
            value = getattr(message, kind)
            if name not in CHANGEABLE and value != values[name]:
                raise Unsupported(
                    f"settings[{name}]: cannot be changed; {', '.join(CHANGEABLE)} can"
                )
            values[name] = value
        level = _level(values)
        log.warning("log_level", before=self._level, after=level)
        self._level = level
        logs.configure(level, self._form)


def _level(values: Mapping[str, Value]) -> LogLevel:
    """The more that is asked for wins: events of one level come with all that are more severe."""
    if values["log_verbose_level"]:
        return "debug"
    if values["log_info"]:
        return "info"
    return "warning" if values["log_warning"] else "error"


def _kind(value: Value | None) -> str | None:
    return None if value is None else _message(value).WhichOneof("parameter_choice")


def _message(value: Value) -> pb.LogSettingsResponse.SettingValue:
    if isinstance(value, bool):
        return pb.LogSettingsResponse.SettingValue(bool_param=value)
    if isinstance(value, int):
        return pb.LogSettingsResponse.SettingValue(uint32_param=value)
    return pb.LogSettingsResponse.SettingValue(string_param=value)
