"""What operators do wrong, and what a version does that nobody foresaw: the service goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

import convoy
from convoy.v1 import image_classifier_pb2 as pb
from service.oip import grpc_service_pb2 as oip
from service.ready import wait_until_ready
from tests.bundles import make_bundle
from tests.servers import PATIENCE, TOKEN, Running, running_server, server_process, start_process
from tests.service.inference import inference_stub

BLACK = pb.Image(pixels=pb.Pixels(height=8, width=8, channels=3, data=bytes(192)))
RED = pb.Image(pixels=pb.Pixels(height=8, width=8, channels=3, data=bytes([255, 0, 0] * 64)))


def states(server: Running, model: str = "tiny") -> dict[str, str]:
    """State and reason of every version of a model."""
    with inference_stub(server) as stub:
        index = stub.RepositoryIndex(oip.RepositoryIndexRequest(), timeout=PATIENCE)
    return {one.version: f"{one.state} {one.reason}" for one in index.models if one.name == model}


def ask(server: Running, image: pb.Image = RED, **fields: object) -> int:
    """The version that answers. Raises: grpc.RpcError."""
    request = pb.ClassifyRequest(images=[image], **fields)  # type: ignore[arg-type]
    with server.stub() as stub:
        return int(stub.Classify(request, timeout=PATIENCE).version)


def write(models: Path, text: str, *versions: int) -> None:
    """Bundles of the model `tiny`, and the file beside them."""
    for version in versions:
        make_bundle(models, version=version, size=8)
    (models / "models.toml").write_text(text)


@contextmanager
def controlled(models: Path, **settings: object) -> Iterator[tuple[Running, convoy.ModelControl]]:
    """A server whose models may be changed, and who changes them."""
    with (
        running_server(models, control_token=TOKEN, **settings) as server,
        convoy.ModelControl(server.grpc_address, TOKEN) as control,
    ):
        yield server, control


@contextmanager
def impatient(models: Path) -> Iterator[tuple[Running, convoy.ModelControl]]:
    """The same as a process that takes a batch of two seconds for one that hangs."""
    flags = ("--front=grpcio", "--compute-timeout=2", f"--control-token={TOKEN}")
    with (
        server_process(models, *flags) as server,
        convoy.ModelControl(server.grpc_address, TOKEN) as control,
    ):
        yield server, control


def test_what_is_loaded_and_cannot_serve_is_closed(tmp_path: Path) -> None:
    write(tmp_path, "[other]\nlabels = {stable = 5}\n", 1)
    with controlled(tmp_path, default_model="tiny") as (server, control):
        make_bundle(tmp_path, "other", 1)
        (make_bundle(tmp_path, "other", 5).path / "model.onnx").unlink()
        with pytest.raises(convoy.InvalidRequest, match=r"model\.onnx: missing"):
            control.load("other")
        server.wait_for_metric(0, "convoy_model_info", model="other")


def test_the_only_version_cannot_be_the_challenger(tmp_path: Path) -> None:
    write(tmp_path, "[other.challenger]\nversion = 1\n", 1)
    with controlled(tmp_path, default_model="tiny") as (_, control):
        make_bundle(tmp_path, "other", 1)
        with pytest.raises(convoy.InvalidRequest, match="version 1 is the challenger of no other"):
            control.load("other")


def test_the_reasons_of_many_versions_fit_into_a_status(tmp_path: Path, front: str) -> None:
    write(tmp_path, "[tiny]\nversions = 'all'\n", 1)
    for version in range(2, 302):
        (tmp_path / "tiny" / str(version)).mkdir()
    with (
        controlled(tmp_path, front=front) as (_, control),
        pytest.raises(convoy.InvalidRequest, match=r"version 2: .*; and 295 more"),
    ):
        control.load("tiny")


def test_a_challenger_that_is_not_there_is_told(tmp_path: Path) -> None:
    write(tmp_path, "[tiny.challenger]\nversion = 9\n", 1)
    with running_server(tmp_path) as server:
        assert ask(server) == 1
        assert states(server)["9"] == "UNAVAILABLE no such folder"
        assert server.metric("convoy_model_unfit", version="9") == 1


def test_a_table_for_no_model_is_told(tmp_path: Path) -> None:
    write(tmp_path, "[tinny]\nlabels = {stable = 1}\n", 1)
    with start_process(tmp_path, "--front=grpcio") as process:
        assert process.stderr is not None
        said = wait_until_ready(process.stderr)
        process.kill()
    assert any("[tinny]: no such model" in one.get("reason", "") for one in said)


@pytest.mark.parametrize("spoilt", ["manifest.json", "model.onnx"])
@pytest.mark.parametrize("action", ["promote", "rollback"])
def test_what_a_restart_could_not_load_is_not_made_stable(
    tmp_path: Path, action: str, spoilt: str
) -> None:
    terms = "[tiny]\nversions = 'all'\nlabels = {stable = 1, previous = 2}\n"
    write(tmp_path, terms, 1, 2)
    with controlled(tmp_path) as (server, control):
        (tmp_path / "tiny" / "2" / spoilt).unlink()
        with pytest.raises(convoy.InvalidRequest, match=rf"{spoilt}: missing; .*copy"):
            control.promote("tiny", 2) if action == "promote" else control.rollback("tiny")
        assert (tmp_path / "models.toml").read_text() == terms
        assert ask(server) == 1


def test_a_load_whose_caller_leaves_comes_to_its_end(tmp_path: Path, front: str) -> None:
    write(tmp_path, "", 1)
    flags = (f"--front={front}", f"--control-token={TOKEN}", "--load-timeout=6")
    with server_process(tmp_path, *flags) as server:
        make_bundle(tmp_path, version=2, size=8, flaw="hangs")
        with (
            convoy.ModelControl(server.grpc_address, TOKEN, timeout=0.2) as hasty,
            pytest.raises(convoy.Timeout),
        ):
            hasty.load("tiny")
        with convoy.ModelControl(server.grpc_address, TOKEN) as control:
            control.unload("tiny")  # its turn comes when the load has ended
            assert not any("LOADING" in state for state in states(server).values())
            shutil.rmtree(tmp_path / "tiny" / "2")
            assert control.load("tiny").versions == (1,)


def test_a_load_that_hangs_is_given_up(tmp_path: Path) -> None:
    write(tmp_path, "", 1)
    flags = ("--front=grpcio", f"--control-token={TOKEN}", "--load-timeout=2")
    with (
        server_process(tmp_path, *flags) as server,
        convoy.ModelControl(server.grpc_address, TOKEN) as control,
    ):
        make_bundle(tmp_path, version=2, size=8, flaw="hangs")
        with pytest.raises(convoy.InvalidRequest, match="not loaded within 2 s"):
            control.load("tiny")
        assert ask(server) == 1
        assert control.unload("tiny").live_version is None


def test_a_canary_that_is_taken_out_takes_its_labels_along(tmp_path: Path) -> None:
    trial = "[tiny]\nlabels = {canary = 2}\n[tiny.challenger]\nversion = 2\nshare = 1.0\n"
    make_bundle(tmp_path, version=1, size=8)
    make_bundle(tmp_path, version=2, size=8, flaw="nan-on-black")
    (tmp_path / "models.toml").write_text(trial)
    with (
        controlled(tmp_path, watch=True) as (server, control),
        server.stub() as stub,
    ):
        requests = (pb.ClassifyRequest(images=[BLACK]) for _ in range(100))
        assert len(list(stub.ClassifyStream(requests, timeout=PATIENCE))) == 100
        server.wait_for_metric(1, "convoy_challengers_ended_total")
        make_bundle(tmp_path, "other", 1, size=8)
        server.wait_for_metric(1, "convoy_model_live", model="other")
        assert ask(server, BLACK, model="tiny") == 1
        assert "requests failed, max_error_rate" in states(server)["2"]
        assert server.metric("convoy_model_unfit", version="2") == 0
        assert control.rollback("tiny").live_version == 1
        assert "challenger" not in (tmp_path / "models.toml").read_text()


@pytest.mark.parametrize("mode", ["canary", "shadow"])
def test_a_challenger_that_hangs_does_not_end_the_service(tmp_path: Path, mode: str) -> None:
    make_bundle(tmp_path, version=1, size=8)
    make_bundle(tmp_path, version=2, size=8, flaw="hangs-on-black")
    trial = f'[tiny.challenger]\nversion = 2\nmode = "{mode}"\nshare = 1.0\n'
    (tmp_path / "models.toml").write_text(trial)
    with server_process(tmp_path, "--front=grpcio", "--compute-timeout=1") as server:
        if mode == "shadow":
            assert ask(server, BLACK) == 1
        else:
            with pytest.raises(grpc.RpcError, match="taken out of service"):
                ask(server, BLACK)
        server.wait_for_metric(1, "convoy_challengers_ended_total")
        assert ask(server, BLACK) == 1
        assert "computed for more than 1 s" in states(server)["2"]


@pytest.mark.parametrize("versions", ["[1]", "'all'"])
def test_a_challenger_that_hangs_after_its_trial_does_not_end_the_service(
    tmp_path: Path, versions: str
) -> None:
    make_bundle(tmp_path, version=1, size=8)
    make_bundle(tmp_path, version=2, size=8, flaw="hangs-on-black")
    trial = "[tiny.challenger]\nversion = 2\nshare = 1.0\n"
    (tmp_path / "models.toml").write_text(f"[tiny]\nversions = {versions}\n{trial}")
    with impatient(tmp_path) as (server, control), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, server, BLACK)
        server.wait_for_metric(1, "convoy_batch_size_count", version="2")
        assert control.rollback("tiny").live_version == 1
        assert "taken out of service" in str(asked.exception())
        server.wait_for_metric(0, "convoy_model_info", version="2")
        assert ask(server, BLACK) == 1


def test_limits_that_cannot_be_had_leave_the_version_that_answers(tmp_path: Path) -> None:
    write(tmp_path, "", 1, 2)
    with controlled(tmp_path) as (server, control):
        (tmp_path / "tiny" / "2" / "model.onnx").unlink()
        (tmp_path / "models.toml").write_text("[tiny]\nmax_batch_size = 7\n")
        with pytest.raises(convoy.InvalidRequest, match=r"model\.onnx: missing"):
            control.load("tiny")
        assert ask(server) == 2


def test_a_version_that_hangs_is_noticed_when_it_serves_no_more(tmp_path: Path) -> None:
    make_bundle(tmp_path, version=1, size=8, flaw="hangs-on-black")
    with impatient(tmp_path) as (server, control), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, server, BLACK)
        server.wait_for_metric(1, "convoy_requests_in_flight")
        control.unload("tiny")
        assert server.process is not None
        assert server.process.wait(PATIENCE) == 1
        assert "taken out of service" in str(asked.exception())


@pytest.mark.parametrize("text", [b"tiny = 3", b"[tiny", b"# f\xfcr jetzt"])
def test_a_file_that_somebody_has_spoilt_is_told_and_left_alone(
    tmp_path: Path, text: bytes
) -> None:
    write(tmp_path, "[tiny]\nversions = 'all'\n", 1, 2)
    with controlled(tmp_path) as (server, control):
        (tmp_path / "models.toml").write_bytes(text)
        for change in (control.load, lambda name: control.promote(name, 1)):
            with pytest.raises(convoy.InvalidRequest, match=r"models\.toml: "):
                change("tiny")
        assert ask(server) == 2
        assert (tmp_path / "models.toml").read_bytes() == text
