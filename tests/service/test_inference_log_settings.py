"""LogSettings and TraceSetting of the Open Inference Protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.oip import grpc_service_pb2 as pb
from service.oip import grpc_service_pb2_grpc as rpc
from tests.servers import PATIENCE, Running, server_process
from tests.service.inference import inference_stub, refused

pytestmark = pytest.mark.usefixtures("front")


def message(**values: bool | int | str) -> pb.LogSettingsRequest:
    fields = {bool: "bool_param", int: "uint32_param", str: "string_param"}
    return pb.LogSettingsRequest(
        settings={
            name: pb.LogSettingsRequest.SettingValue(**{fields[type(value)]: value})
            for name, value in values.items()
        }
    )


def told(inference: rpc.GRPCInferenceServiceStub, **values: Any) -> dict[str, Any]:
    settings = inference.LogSettings(message(**values), timeout=PATIENCE).settings
    return {
        name: getattr(one, one.WhichOneof("parameter_choice")) for name, one in settings.items()
    }


INFO = {
    "log_error": True,
    "log_warning": True,
    "log_info": True,
    "log_verbose_level": 0,
    "log_format": "json",
    "log_file": "",
}


def test_the_log_level_can_be_changed_where_that_is_allowed(
    models: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with server_process(models, "--log-settings") as server, inference_stub(server) as inference:
        assert told(inference) == INFO
        assert told(inference, log_verbose_level=1) == {**INFO, "log_verbose_level": 1}
        assert told(inference, log_verbose_level=0) == INFO
        warning = {**INFO, "log_info": False}
        assert told(inference, log_info=False, log_file="", log_error=True) == warning
        assert told(inference, log_warning=False)["log_warning"] is False
        assert server.process is not None
        server.process.terminate()
        server.process.wait(PATIENCE)
    logged = capfd.readouterr().err
    assert '"before": "warning", "after": "error"' in logged
    assert "draining" not in logged  # an event of the level info


@pytest.mark.parametrize(
    ("values", "told_code", "says"),
    [
        ({"log_errors": True}, "INVALID_ARGUMENT", "settings[log_errors]: no such setting"),
        ({"log_info": 1}, "INVALID_ARGUMENT", "settings[log_info]: no such setting, or of another"),
        ({"log_file": "/etc/passwd"}, "UNIMPLEMENTED", "settings[log_file]: cannot be changed"),
        ({"log_error": False}, "UNIMPLEMENTED", "settings[log_error]: cannot be changed"),
    ],
)
def test_what_cannot_be_set(
    models: Path, values: dict[str, Any], told_code: str, says: str
) -> None:
    with server_process(models, "--log-settings") as server, inference_stub(server) as inference:
        code, text = refused(inference.LogSettings, message(**values, log_warning=False))
        assert code == told_code
        assert says in text
        assert told(inference) == INFO


def test_the_log_level_can_be_read_but_not_changed_by_default(server: Running) -> None:
    with inference_stub(server) as inference:
        assert told(inference) == INFO
        code, text = refused(inference.LogSettings, message(log_info=False))
        assert code == "UNIMPLEMENTED"
        assert "--log-settings" in text


def test_tracing_is_off(server: Running) -> None:
    def traced(*value: str) -> pb.TraceSettingRequest:
        setting = pb.TraceSettingRequest.SettingValue(value=value)
        return pb.TraceSettingRequest(settings={"trace_level": setting})

    with inference_stub(server) as inference:
        for request in (pb.TraceSettingRequest(), traced("OFF"), traced()):
            settings = inference.TraceSetting(request, timeout=PATIENCE).settings
            assert list(settings["trace_level"].value) == ["OFF"]
        assert refused(inference.TraceSetting, traced("TIMESTAMPS"))[0] == "UNIMPLEMENTED"
