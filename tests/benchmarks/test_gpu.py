"""The benchmark of a GPU, tried out on the CPU provider; no test of speed."""

from __future__ import annotations

import shutil
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.gpu import choose_device, compare, main, name_of, verdicts
from tests.bundles import make_bundle


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is missing")
def test_everything_is_measured(tmp_path: Path) -> None:
    options = Namespace(
        device="cpu",
        batches=[2, 4],
        in_flight=8,
        rounds=1,
        seconds=0.05,
        interpreted=True,
        service=[],
    )
    device = choose_device("cpu")
    text, found = compare(make_bundle(tmp_path), device, options)
    assert [[row["contender"] for row in rows] for rows in found.values()] == [
        ["bare", "unary", "multi-image"],
        ["decode alone", "unary", "multi-image"],
    ]
    assert "Raw pixels: " in text
    assert name_of(device) == "cpu-bound"


@pytest.mark.parametrize(
    ("decoding", "binds", "verdict"), [(800.0, "the decoder", "met"), (2000.0, "the GPU", "missed")]
)
def test_the_verdict_names_what_binds(decoding: float, binds: str, verdict: str) -> None:
    rates = {"raw": (1000.0, 500.0, 950.0), "JPEG": (decoding, 700.0, 600.0)}
    text = verdicts(
        {name: [{"images_per_second": rate} for rate in row] for name, row in rates.items()}
    )
    raw, photos = text.splitlines()
    assert raw == "Raw pixels: 0.95 of bare (target 0.90, met)."
    assert f"of which {binds} binds (target 0.85, {verdict})" in photos


def test_without_a_gpu_there_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SystemExit) as end:
        main(["--check"])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bench-gpu: nothing measured: device cuda: ")
