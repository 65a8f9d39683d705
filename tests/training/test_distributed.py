"""Two processes train as one does, and a run survives the loss of one of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from convoy.bundle import Bundle
from tests.training.sources import cut_mnist
from training.batchnorm import SharedBatchNorm, share_batch_norm
from training.cli import main
from training.datasets import open_source, split_training
from training.distributed import Team
from training.recipe import load_recipe
from training.runs import Run
from training.train import train

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
name = "colours"
source = "folder"
image_size = 16
batch_size = 8
epochs = {epochs}
learning_rate = 0.05
ema = 0.9
precision = "fp32"
[network]
name = "fast"
widths = [8, 8]
[augmentation]
flip = true
crop_padding = 2
jpeg = 0.5
"""
EPOCHS = 10
SECOND_EPOCH = f"   2/{EPOCHS} "
TORCHRUN = [
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
]  # fmt: skip


def arguments(folder: Path, photos: Path, run: str, epochs: int) -> list[str]:
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(epochs=epochs))
    options = ["--data", str(photos), "--models", str(folder / run)]
    return ["fit", str(recipe), *options, "--run-dir", str(folder / "runs" / run)]


def checkpoint(folder: Path, run: str) -> dict[str, dict[str, torch.Tensor]]:
    loaded = Run.open(folder / "runs" / run).load()
    return {part: loaded[part] for part in ("model", "average", "best")}


def children(process: subprocess.Popen[str]) -> dict[str, int]:
    """Processes that torchrun has started, by their rank."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = {}
    for pid in listed:
        environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
        found |= {line.partition("=")[2]: int(pid) for line in environment if line[:5] == "RANK="}
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A folder with the run `two` of two processes, and its bundle."""
    folder = tmp_path_factory.mktemp("whole")
    command = [*TORCHRUN, "-m", "training", *arguments(folder, photos, "two", EPOCHS)]
    subprocess.run(command, check=True, cwd=ROOT)
    return folder


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(
    tmp_path: Path, photos: Path, whole: Path
) -> None:
    assert main(arguments(tmp_path, photos, "one", EPOCHS)) == 0
    one, two = checkpoint(tmp_path, "one"), checkpoint(whole, "two")
    for part in one:
        for name, tensor in one[part].items():
            torch.testing.assert_close(two[part][name], tensor, atol=1e-4, rtol=1e-4)
    assert (whole / "two" / "colours" / "1" / "model.onnx").exists()


@pytest.mark.slow
def test_two_processes_learn_real_digits_as_one(tmp_path: Path, data: Path) -> None:
    digits = cut_mnist(data, tmp_path / "digits", 600, 200)
    # Every process draws masks of its own for dropout.
    changes = ["epochs=3", "batch_size=50", "network.dropout=0", "precision=fp32"]
    recipe = load_recipe("mnist-cnn", changes)
    source = open_source(recipe, digits)
    splits = split_training(source, recipe)
    one = train(Run.create(tmp_path / "one", recipe, digits, splits), source, splits)

    options = ["--data", str(digits), "--models", str(tmp_path / "models")]
    options += [word for change in changes for word in ("--set", change)]
    fit = ["fit", "mnist-cnn", *options, "--run-dir", str(tmp_path / "two")]
    subprocess.run([*TORCHRUN, "-m", "training", *fit], check=True, cwd=ROOT)
    two = Run.open(tmp_path / "two").load()
    for name, tensor in one.model.state_dict().items():
        # AdamW makes much of rounding where a gradient is nearly zero.
        torch.testing.assert_close(two["model"][name], tensor, atol=1e-3, rtol=1e-3)
    bundle = Bundle.open(tmp_path / "models" / recipe.name / "1")
    assert bundle.manifest.quality[0].accuracy > 0.6


@pytest.mark.slow
def test_two_processes_share_an_odd_batch_in_parts(tmp_path: Path, photos: Path) -> None:
    changes = ["--set", "batch_size=9", "--set", "accumulation=4"]  # shares of 4 and of 5
    command = [*TORCHRUN, "-m", "training", *arguments(tmp_path, photos, "odd", 1), *changes]
    subprocess.run(command, check=True, cwd=ROOT)
    assert len(Run.open(tmp_path / "runs" / "odd").load()["log"]) == 1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")
def test_a_lost_process_is_restarted_and_goes_on(tmp_path: Path, photos: Path, whole: Path) -> None:
    command = [*TORCHRUN, "--max-restarts", "1", "-m", "training"]
    command += arguments(tmp_path, photos, "parts", EPOCHS)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        said = ""
        while not (line := process.stderr.readline()).startswith(SECOND_EPOCH):
            said += line
            assert line, said
        os.kill(children(process)["1"], signal.SIGKILL)
        rest = process.stderr.read()
    assert process.returncode == 0, rest
    assert "convoy-train: interrupted; go on with" in rest
    assert SECOND_EPOCH not in rest  # it has not begun anew

    uninterrupted, resumed = checkpoint(whole, "two"), checkpoint(tmp_path, "parts")
    for part in uninterrupted:
        for name, tensor in uninterrupted[part].items():
            assert torch.equal(resumed[part][name], tensor), name


def test_shares_are_even_and_complete() -> None:
    shares = [Team(rank, 3, device=torch.device("cpu")).share(10) for rank in range(3)]
    assert [row for share in shares for row in range(10)[share]] == list(range(10))
    assert [share.stop - share.start for share in shares] == [3, 3, 4]


def test_shared_batch_norm_is_batch_norm(tmp_path: Path) -> None:
    plain, shared = nn.Sequential(nn.BatchNorm2d(3)), nn.Sequential(nn.BatchNorm2d(3))
    share_batch_norm(shared)
    assert isinstance(shared[0], SharedBatchNorm)
    x = torch.randn(4, 3, 5, 5, requires_grad=True)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        answers = [network(x) for network in (plain, shared)]
        gradients = [torch.autograd.grad(y.pow(3).sum(), x)[0] for y in answers]
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(answers[1], answers[0])
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(shared.state_dict(), plain.state_dict())


def test_torchrun_needs_the_run_s_name(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["fit", "image-folder", "--data", str(photos)]) == 2
    assert "name the run's folder with --run-dir" in capsys.readouterr().err
