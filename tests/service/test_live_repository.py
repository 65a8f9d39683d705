"""Versions that come and go while the service answers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from convoy.v1 import image_classifier_pb2 as pb
from service.errors import UnfitError, UsageError
from service.oip import grpc_service_pb2 as oip
from tests.bundles import expected, make_bundle
from tests.servers import PATIENCE, Running, running_server
from tests.service.inference import inference_stub

PIXELS = np.full((1, 32, 32, 3), (60, 20, 0), np.uint8)
RAW = pb.Image(pixels=pb.Pixels(height=32, width=32, channels=3, data=PIXELS.tobytes()))


def gain(version: int) -> float:
    """A gain by which the answers of a version can be told."""
    return 5.0 + version % 40 / 4


def add_version(models: Path, version: int, name: str = "tiny") -> None:
    """Write a whole version into the folder of models."""
    make_bundle(models, name, version, gain=gain(version))


def classify(server: Running, version: int = 0) -> int:
    """The version that answers; its numbers must be its own."""
    with server.stub() as stub:
        request = pb.ClassifyRequest(version=version, images=[RAW], top_k=1)
        response = stub.Classify(request, timeout=PATIENCE)
    (wanted,) = expected(PIXELS, gain=gain(response.version))
    assert response.predictions[0].classes[0].probability == pytest.approx(wanted.max(), abs=1e-5)
    return int(response.version)


def index(server: Running) -> dict[str, tuple[str, str]]:
    """State and reason of every version of the model `tiny`."""
    with inference_stub(server) as stub:
        response = stub.RepositoryIndex(oip.RepositoryIndexRequest(), timeout=PATIENCE)
    return {one.version: (one.state, one.reason) for one in response.models}


def wait_until(server: Running, version: int) -> None:
    """Block until this version answers requests that name none."""
    server.wait_for_metric(1, "convoy_model_live", version=str(version))


def wait_until_served(server: Running, version: int) -> None:
    """Block until this version can be asked by its number."""
    server.wait_for_metric(1, "convoy_model_info", version=str(version))


def test_a_new_version_takes_over(tmp_path: Path, front: str) -> None:
    add_version(tmp_path, 1)
    with running_server(tmp_path, front=front, watch=True) as server:
        assert classify(server) == 1
        add_version(tmp_path, 2)
        wait_until(server, 2)
        assert classify(server) == 2
        server.wait_for_metric(0, "convoy_model_info", version="1")
        with pytest.raises(grpc.RpcError, match="version 1: not found"):
            classify(server, 1)


def test_without_watch_nothing_changes(tmp_path: Path) -> None:
    add_version(tmp_path, 1)
    with running_server(tmp_path) as server:
        add_version(tmp_path, 2)
        assert classify(server) == 1


def test_a_model_that_comes_later_is_served(tmp_path: Path) -> None:
    add_version(tmp_path, 1)
    with running_server(tmp_path, watch=True, default_model="tiny") as server:
        add_version(tmp_path, 4, name="other")
        server.wait_for_metric(1, "convoy_model_live", model="other")
        assert classify(server) == 1
        with server.stub() as stub:
            assert stub.GetModel(pb.GetModelRequest(model="other"), timeout=PATIENCE).version == 4


def damage(models: Path) -> None:
    add_version(models, 2)
    file = models / "tiny" / "2" / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"?")


def copy_half(models: Path) -> None:
    add_version(models, 2)
    (models / "tiny" / "2" / "manifest.json").unlink()


def answer_nan(models: Path) -> None:
    make_bundle(models, "tiny", 2, gain=float("nan"))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (damage, "the file is damaged"),
        (copy_half, "manifest.json: missing"),
        (answer_nan, "nan off"),
    ],
)
def test_a_spoilt_version_never_serves(
    tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    add_version(tmp_path, 1)
    with running_server(tmp_path, watch=True) as server:
        spoil(tmp_path)
        server.wait_for_metric(1, "convoy_model_unfit", version="2")
        assert classify(server) == 1
        state, said = index(server)["2"]
        assert state == "UNAVAILABLE"
        assert reason in said
        assert server.metric("convoy_loads_failed_total", model="tiny") >= 1


def test_a_version_is_tried_again_when_its_files_have_changed(tmp_path: Path) -> None:
    add_version(tmp_path, 1)
    with running_server(tmp_path, watch=True) as server:
        copy_half(tmp_path)
        server.wait_for_metric(1, "convoy_model_unfit", version="2")
        whole = make_bundle(tmp_path / ".work", "tiny", 2, gain=gain(2))
        shutil.copy(whole.path / "manifest.json", tmp_path / "tiny" / "2")
        wait_until(server, 2)
        assert classify(server) == 2
        assert server.metric("convoy_model_unfit", version="2") == 0


def test_a_spoilt_version_does_not_keep_the_service_from_starting(tmp_path: Path) -> None:
    add_version(tmp_path, 1)
    damage(tmp_path)
    with running_server(tmp_path) as server:
        assert classify(server) == 1
        assert index(server)["2"][0] == "UNAVAILABLE"


def test_a_version_that_is_taken_away_gives_way_to_the_one_before(tmp_path: Path) -> None:
    add_version(tmp_path, 1)
    add_version(tmp_path, 2)
    with running_server(tmp_path, watch=True) as server:
        assert classify(server) == 2
        shutil.rmtree(tmp_path / "tiny" / "2")
        wait_until(server, 1)
        assert classify(server) == 1


def test_the_last_version_goes_on_without_its_files(tmp_path: Path) -> None:
    add_version(tmp_path, 1)
    with running_server(tmp_path, watch=True, default_model="tiny") as server:
        shutil.rmtree(tmp_path / "tiny")
        add_version(tmp_path, 1, name="other")
        server.wait_for_metric(1, "convoy_model_live", model="other")
        assert classify(server) == 1


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", {3}),
        ('[tiny]\nversions = "all"', {1, 2, 3}),
        ("[tiny]\nversions = {latest = 2}", {2, 3}),
        ("[tiny]\nversions = [1, 2]", {1, 2}),
        ("[tiny]\nlabels = {stable = 1}", {1, 3}),
    ],
)
def test_the_file_says_which_versions_serve(tmp_path: Path, policy: str, served: set[int]) -> None:
    for version in (1, 2, 3):
        add_version(tmp_path, version)
    (tmp_path / "models.toml").write_text(policy)
    with running_server(tmp_path) as server:
        assert {int(version) for version in index(server)} == served
        assert all(classify(server, version) == version for version in served)
        assert classify(server) == (1 if "stable" in policy else max(served))


def test_limits_of_one_model(tmp_path: Path) -> None:
    add_version(tmp_path, 1)
    add_version(tmp_path, 1, name="other")
    (tmp_path / "models.toml").write_text("[tiny]\nmax_batch_size = 7\n")
    with running_server(tmp_path, max_batch_size=3) as server, server.stub() as stub:
        models = stub.ListModels(pb.ListModelsRequest(), timeout=PATIENCE).models
        assert {one.name: one.max_batch_size for one in models} == {"other": 3, "tiny": 7}


def test_the_file_is_followed(tmp_path: Path) -> None:
    add_version(tmp_path, 1)
    add_version(tmp_path, 2)
    with running_server(tmp_path, watch=True) as server:
        assert classify(server) == 2
        (tmp_path / "models.toml").write_text("[tiny]\nlabels = {stable = 1}")
        wait_until(server, 1)
        (tmp_path / "models.toml").write_text("[tiny]\nlabels = {stable = ")
        add_version(tmp_path, 3)
        wait_until_served(server, 3)
        assert classify(server) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[tiny]\nversion = 1", "tiny.version: Extra inputs are not permitted"),
        ("[tiny]\nlabels = {1a = 1}", "labels"),
        ("[tiny]\nversions = []", "serves nothing"),
        ("[tiny", "models.toml"),
    ],
)
def test_a_wrong_file_is_told_at_the_start(tmp_path: Path, text: str, reason: str) -> None:
    add_version(tmp_path, 1)
    (tmp_path / "models.toml").write_text(text)
    with pytest.raises(UsageError, match=reason), running_server(tmp_path, front="grpcio"):
        pass


def test_a_label_that_cannot_be_had_is_told_at_the_start(tmp_path: Path) -> None:
    add_version(tmp_path, 1)
    (tmp_path / "models.toml").write_text("[tiny]\nlabels = {stable = 5}")
    with (
        pytest.raises(UnfitError, match="version 5: no such folder"),
        running_server(tmp_path, front="grpcio"),
    ):
        pass
