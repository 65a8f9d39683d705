"""What is said of a GPU that cannot be had."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
import pytest

from service import cuda
from service.devices import (
    CPU,
    CUDA,
    TENSORRT,
    Device,
    Engines,
    NoCudaError,
    Plan,
    provider_options,
)
from service.errors import UnfitError
from service.session import Session
from tests.bundles import make_bundle


def without(library: str, provider: str) -> None:
    if provider not in ort.get_available_providers():
        pytest.skip(f"this build of ONNX Runtime has no {provider}")
    cuda.load_libraries(tensorrt=provider == TENSORRT)
    if cuda.why_none(0) is None:
        pytest.skip(f"this machine has a GPU, and may have {library}")


def test_missing_libraries_of_cuda_are_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    without("CUDA", CUDA)
    device = Device(CUDA)
    with pytest.raises(NoCudaError, match="CUDA 13 or cuDNN 9 libraries did not load"):
        Session(
            make_bundle(tmp_path).model_path,
            device,
            threads=1,
            providers=provider_options(device, Plan()),
        )
    assert "[W:" not in capfd.readouterr().err


def test_missing_libraries_of_tensorrt_are_named(tmp_path: Path) -> None:
    without("TensorRT", TENSORRT)
    device, bundle = Device(TENSORRT), make_bundle(tmp_path)
    engines = Engines(None, bundle.manifest.input.shape, 4, half=False)
    with pytest.raises(NoCudaError, match=r"the TensorRT 10 libraries did not load; .* `tensorrt`"):
        Session(
            bundle.model_path,
            device,
            threads=1,
            providers=provider_options(device, Plan(), engines=engines),
        )


def test_the_reason_of_a_provider_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    wrong = ((CUDA, "no options"), (CPU, {}))
    with pytest.raises(NoCudaError, match="CUDAExecutionProvider: 'providers' values must be"):
        Session(
            make_bundle(tmp_path).model_path,
            Device(CUDA),
            threads=1,
            providers=wrong,  # type: ignore[arg-type]
        )


def test_a_damaged_model_is_unfit_whatever_the_device(tmp_path: Path) -> None:
    model = make_bundle(tmp_path).model_path
    model.write_bytes(model.read_bytes().replace(b"Softmax", b"\xffoftmax"))  # no text any more
    with pytest.raises(UnfitError, match="cannot load it"):
        Session(model, Device(CUDA), threads=1)
