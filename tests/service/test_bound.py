"""Sessions with buckets and bound buffers, on the CPU provider: the code that a GPU runs."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import numpy as np
import pytest

from convoy.bundle import Bundle
from service.bound import BoundSession, bucket_sizes
from service.devices import CPU, Device
from service.errors import ModelFailure, OutOfMemory
from service.keeper import Keeper
from service.metrics import Metrics
from service.session import Rows, request_error
from service.settings import Settings
from service.shares import Shares
from tests.bundles import COLOURS, Flaw, expected, make_bundle

BOUND = Device(CPU, slots=2, bound=True)
PIXELS = np.random.default_rng(0).integers(1, 256, (6, 32, 32, 3), np.uint8)


def bound(bundle: Bundle, most: int, classes: int = len(COLOURS)) -> BoundSession:
    shape = bundle.manifest.input.shape
    return BoundSession(
        bundle.model_path, BOUND, most=most, shape=shape, classes=classes, threads=1
    )


@pytest.mark.parametrize(
    ("most", "sizes"),
    [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (32, (1, 2, 4, 8, 16, 32))],
)
def test_buckets_are_powers_of_two_and_the_limit(most: int, sizes: tuple[int, ...]) -> None:
    assert bucket_sizes(most) == sizes


def test_batches_of_every_size_get_their_own_answers(tmp_path: Path) -> None:
    session = bound(make_bundle(tmp_path), 6)
    for count in (6, 1, 5, 3, 2, 4):
        answers = session.run(PIXELS[:count])
        np.testing.assert_allclose(answers, expected(PIXELS[:count]), atol=1e-6)


def test_a_batch_of_several_parts_is_one_batch(tmp_path: Path) -> None:
    session = bound(make_bundle(tmp_path), 6)
    answers = session.run(PIXELS[:1], PIXELS[1:4], PIXELS[4:5])
    np.testing.assert_allclose(answers, expected(PIXELS[:5]), atol=1e-6)


def test_answers_stay_when_the_next_batch_runs(tmp_path: Path) -> None:
    session = bound(make_bundle(tmp_path), 2)
    first = session.run(PIXELS[:2])
    session.run(PIXELS[2:4])
    np.testing.assert_allclose(first, expected(PIXELS[:2]), atol=1e-6)


def test_a_model_of_batches_of_one(tmp_path: Path) -> None:
    session = bound(make_bundle(tmp_path), 1)
    np.testing.assert_allclose(session.run(PIXELS[:1]), expected(PIXELS[:1]), atol=1e-6)


@pytest.mark.parametrize("flaw", ["drops-black", "nan-on-black"])
def test_what_made_one_batch_fail_is_not_in_the_next(tmp_path: Path, flaw: Flaw) -> None:
    session = bound(make_bundle(tmp_path, flaw=flaw), 4)
    black = np.zeros_like(PIXELS[:4])
    if flaw == "drops-black":
        with pytest.raises(ModelFailure):
            session.run(black)
    else:
        assert not np.isfinite(session.run(black)).any()
    np.testing.assert_allclose(session.run(PIXELS[:3]), expected(PIXELS[:3]), atol=1e-6)


def test_another_number_of_classes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelFailure):
        bound(make_bundle(tmp_path), 2, classes=4).run(PIXELS[:2])


@pytest.mark.parametrize(
    "text",
    [
        "Failed to allocate memory for requested buffer of size 9",
        "BFCArena: Available memory of 16 is smaller than requested bytes of 32",
        "CUDA failure 2: out of memory ; GPU=0",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "std::bad_alloc",
    ],
)
def test_every_library_s_lack_of_memory_is_known(text: str) -> None:
    assert isinstance(request_error(RuntimeError(text), 4), OutOfMemory)


def test_what_failed_is_told_without_where_in_the_source() -> None:
    place = "/src/onnxruntime/core/providers/cuda/cuda_call.cc:129 "
    function = "std::conditional_t<THRW, void, common::Status> onnxruntime::CudaCall(ERRTYPE, int) "
    types = "[with ERRTYPE = cudaError; std::conditional_t<THRW, void, Status> = void] "
    said = "CUDA failure 700: an illegal memory access was encountered"
    failure = request_error(RuntimeError(f"In Conv: {place}{function}{types}{said}"), 4)
    assert isinstance(failure, ModelFailure)
    assert failure.detail == f"ONNX Runtime: In Conv: {said}"


def test_a_served_model_answers_many_requests_from_two_slots(tmp_path: Path) -> None:
    make_bundle(tmp_path)

    async def classify() -> list[Rows]:
        settings = Settings(models=tmp_path, max_batch_size=6)
        keeper = Keeper(settings, BOUND, Metrics(), Shares(1))
        await keeper.start()
        model = keeper.repository.get("tiny")
        requests = [PIXELS[at : at + 1 + at % 2] for at in range(5)] * 8
        answers = await asyncio.gather(
            *(model.classify(rows, deadline=math.inf) for rows in requests)
        )
        await keeper.close()
        for rows, (item,) in zip(requests, answers, strict=True):
            np.testing.assert_allclose(item.result.result(), expected(rows), atol=1e-6)
        return requests

    assert len(asyncio.run(classify())) == 40
