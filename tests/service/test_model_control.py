"""What operators tell a running service, and who is not let in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from pydantic import SecretStr

import convoy
from convoy.v1 import image_classifier_pb2 as pb
from convoy.v1 import model_control_pb2, model_control_pb2_grpc
from service.errors import UsageError
from service.oip import grpc_service_pb2 as oip
from service.oip import grpc_service_pb2_grpc
from service.settings import Settings, read_settings
from tests.bundles import make_bundle
from tests.servers import PATIENCE, TOKEN, Running, running_server

Call = Callable[[grpc.Channel, tuple[tuple[str, str], ...]], object]


def live(server: Running, model: str = "tiny") -> int:
    """The version that answers requests that name none."""
    with server.stub() as stub:
        return int(stub.GetModel(pb.GetModelRequest(model=model), timeout=PATIENCE).version)


def calls() -> dict[str, Call]:
    """Every RPC that changes something, with metadata."""

    def control(method: str, request: object) -> Call:
        def call(channel: grpc.Channel, metadata: tuple[tuple[str, str], ...]) -> object:
            stub = model_control_pb2_grpc.ModelControlStub(channel)
            return getattr(stub, method)(request, metadata=metadata, timeout=PATIENCE)

        return call

    def repository(method: str, request: object) -> Call:
        def call(channel: grpc.Channel, metadata: tuple[tuple[str, str], ...]) -> object:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            return getattr(stub, method)(request, metadata=metadata, timeout=PATIENCE)

        return call

    return {
        "Load": control("Load", model_control_pb2.LoadRequest(model="tiny")),
        "Unload": control("Unload", model_control_pb2.UnloadRequest(model="tiny")),
        "Promote": control("Promote", model_control_pb2.PromoteRequest(model="tiny", version=1)),
        "Rollback": control("Rollback", model_control_pb2.RollbackRequest(model="tiny")),
        "RepositoryModelLoad": repository(
            "RepositoryModelLoad", oip.RepositoryModelLoadRequest(model_name="tiny")
        ),
        "RepositoryModelUnload": repository(
            "RepositoryModelUnload", oip.RepositoryModelUnloadRequest(model_name="tiny")
        ),
    }


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        bearer(""),
        bearer("wrong"),
        bearer(TOKEN[:-1]),
        bearer(TOKEN + "x"),
        (("authorization", TOKEN),),
        (("authorization", f"Basic {TOKEN}"),),
        (("token", TOKEN),),
    ],
)
def test_nobody_gets_in_without_the_token(
    guarded: Running, metadata: tuple[tuple[str, str], ...]
) -> None:
    with grpc.insecure_channel(guarded.grpc_address) as channel:
        for call in calls().values():
            with pytest.raises(grpc.RpcError) as caught:
                call(channel, metadata)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert live(guarded) == 2


@pytest.fixture(scope="module")
def guarded(models: Path, front: str) -> Iterator[Running]:
    """A service that takes orders from who has the token."""
    with running_server(models, front=front, control_token=TOKEN) as server:
        yield server


def test_control_is_off_by_default(server: Running) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel:
        for call in calls().values():
            with pytest.raises(grpc.RpcError, match="CONVOY_CONTROL_TOKEN") as caught:
                call(channel, bearer(TOKEN))
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_client_says_that_control_is_off(server: Running) -> None:
    off = pytest.raises(convoy.ClientError, match="CONVOY_CONTROL_TOKEN")
    with convoy.ModelControl(server.grpc_address, token=TOKEN) as control, off:
        control.load("tiny")


def test_a_model_is_unloaded_and_loaded(tmp_path: Path, front: str) -> None:
    make_bundle(tmp_path, version=1)
    with (
        running_server(tmp_path, front=front, control_token=TOKEN, default_model="tiny") as server,
        convoy.ModelControl(server.grpc_address, TOKEN) as control,
    ):
        assert control.unload("tiny") == convoy.ModelState("tiny", None, ())
        with pytest.raises(grpc.RpcError, match="not found"):
            live(server)
        with pytest.raises(convoy.NotFound, match="not loaded"):
            control.unload("tiny")
        make_bundle(tmp_path, version=2)
        assert control.load("tiny") == convoy.ModelState("tiny", 2, (2,))
        assert live(server) == 2
        with pytest.raises(convoy.NotFound, match="no such folder"):
            control.load("other")


def test_a_version_that_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    make_bundle(tmp_path, version=1)
    with (
        running_server(tmp_path, control_token=TOKEN) as server,
        convoy.ModelControl(server.grpc_address, TOKEN) as control,
    ):
        bundle = make_bundle(tmp_path, version=2)
        (bundle.path / "golden.npz").unlink()
        with pytest.raises(convoy.InvalidRequest, match=r"golden\.npz: missing"):
            control.load("tiny")
        assert live(server) == 1


def test_promotion_and_the_way_back(tmp_path: Path) -> None:
    make_bundle(tmp_path, version=1)
    make_bundle(tmp_path, version=2)
    file = tmp_path / "models.toml"
    file.write_text(
        "# kept by hand\n[tiny]\nlabels = {stable = 1} # for now\n[tiny.challenger]\nversion = 2\n"
    )
    with (
        running_server(tmp_path, control_token=TOKEN) as server,
        convoy.ModelControl(server.grpc_address, TOKEN) as control,
    ):
        assert live(server) == 1
        assert control.promote("tiny").live_version == 2
        text = file.read_text()
        assert "# kept by hand" in text
        assert "stable = 2" in text
        assert "previous = 1" in text
        assert "challenger" not in text
        with pytest.raises(convoy.InvalidRequest, match="no challenger"):
            control.promote("tiny")
        assert control.rollback("tiny") == convoy.ModelState("tiny", 1, (1, 2))
        assert live(server) == 1
        with pytest.raises(convoy.InvalidRequest, match="no version `previous`"):
            control.rollback("tiny")
        with pytest.raises(convoy.NotFound, match="version 9: not loaded"):
            control.promote("tiny", 9)
    with running_server(tmp_path) as server:
        assert live(server) == 1


def test_a_version_that_is_live_already_can_be_pinned(tmp_path: Path) -> None:
    make_bundle(tmp_path, version=1)
    file = tmp_path / "models.toml"
    with (
        running_server(tmp_path, control_token=TOKEN) as server,
        convoy.ModelControl(server.grpc_address, TOKEN) as control,
    ):
        assert control.promote("tiny", 1).live_version == 1
        written = file.stat().st_ino
        make_bundle(tmp_path, version=2)
        assert control.load("tiny") == convoy.ModelState("tiny", 1, (1, 2))
        assert control.promote("tiny", 1).live_version == 1
        assert file.stat().st_ino == written  # it says so already, and the folder may be read-only
        with pytest.raises(convoy.InvalidRequest, match="no version `previous`"):
            control.rollback("tiny")


def test_rollback_ends_a_trial(tmp_path: Path) -> None:
    make_bundle(tmp_path, version=1)
    make_bundle(tmp_path, version=2)
    (tmp_path / "models.toml").write_text("[tiny.challenger]\nversion = 2\nshare = 1.0\n")
    with (
        running_server(tmp_path, control_token=TOKEN) as server,
        convoy.ModelControl(server.grpc_address, TOKEN) as control,
    ):
        assert control.rollback("tiny").live_version == 1
        assert "challenger" not in (tmp_path / "models.toml").read_text()
    with running_server(tmp_path) as server:
        assert live(server) == 1


def run_models(server: Running, *arguments: str, token: str = TOKEN) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `convoy models`."""
    done = subprocess.run(
        [sys.executable, "-m", "convoy.cli", "models", *arguments, "--server", server.grpc_address],
        env={**os.environ, "CONVOY_CONTROL_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_command(tmp_path: Path) -> None:
    make_bundle(tmp_path, version=1)
    make_bundle(tmp_path, version=2)
    (tmp_path / "models.toml").write_text('[tiny]\nversions = "all"\nlabels = {stable = 1}\n')
    with running_server(tmp_path, control_token=TOKEN) as server:
        code, out, _ = run_models(server, "promote", "tiny", "--model-version", "2")
        assert (code, out) == (0, "tiny: version 2 answers; loaded: 1, 2\n")
        code, out, _ = run_models(server)
        assert "2 stable" in out
        assert "live" in out
        code, out, _ = run_models(server, "rollback", "tiny", "--json")
        assert json.loads(out) == {"model": "tiny", "live_version": 1, "versions": [1, 2]}
        assert run_models(server, "unload", "tiny")[1] == "tiny: not served any more\n"
        code, _, error = run_models(server, "unload", "tiny", token="guess")
        assert (code, error.count("\n")) == (3, 1)
        assert run_models(server, "load")[0] == 2
        assert run_models(server, "load", "tiny", token="")[0] == 2
        assert run_models(server, "load", "tiny")[0] == 0


def test_the_token_is_masked_wherever_settings_are_shown() -> None:
    settings = Settings(control_token=SecretStr(TOKEN))
    assert TOKEN not in f"{settings!r} {settings.model_dump_json()} {settings.model_dump()}"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('"short-secret"', "must be at least 16 characters"),
        (r'"correct-horse-battery\n"', "no spaces and ends of lines"),
        ('"richtiges-pferd-für-batterie"', "of printable ASCII"),
        ("4711471147114711", "should be a valid string"),
    ],
)
def test_a_token_that_is_refused_is_not_shown(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "convoy.toml"
    file.write_text(f"control_token = {text}\n")
    with pytest.raises(UsageError) as caught:
        read_settings(["--config", str(file)])
    assert str(caught.value).startswith("control-token: ")
    assert complaint in str(caught.value)
    assert text.strip('"') not in str(caught.value)
