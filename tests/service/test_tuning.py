"""The choice of a plan, and what is kept of it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from service.devices import (
    CPU,
    CUDA,
    TENSORRT,
    Device,
    Engines,
    Plan,
    provider_options,
    select_device,
)
from service.errors import ModelFailure, UnfitError
from service.keeper import Keeper
from service.loading import find_plan
from service.metrics import Metrics
from service.settings import Settings
from service.shares import Shares
from service.tuning import RUNS, Memory, choose, cost
from tests.bundles import make_bundle
from tests.service.sessions import Recorder

BOUND = Device(CPU, slots=2, bound=True)


def test_each_change_stays_that_makes_it_faster() -> None:
    def measure(plan: Plan) -> float:
        return 1.0 - 0.2 * (plan.search == "EXHAUSTIVE") + 0.1 * plan.nhwc - 0.3 * plan.graphs

    assert choose(measure) == Plan(search="EXHAUSTIVE", nhwc=False, graphs=True)


def test_the_dear_choice_of_algorithms_is_tried_with_graphs_only() -> None:
    tried = []

    def measure(plan: Plan) -> float:
        tried.append(plan)
        return 1.0

    assert choose(measure) == Plan()
    assert tried == [Plan(), Plan(graphs=True), Plan(nhwc=True)]


def test_batches_of_two_sizes_take_turns_while_the_clock_runs(tmp_path: Path) -> None:
    session = Recorder(make_bundle(tmp_path).model_path, select_device("cpu"), threads=1)
    assert cost(session, np.zeros((4, 32, 32, 3), np.uint8)) > 0
    assert session.sizes == [4, 1] * (1 + RUNS)


def test_noise_changes_nothing() -> None:
    measures = iter([1.0, 0.99, 0.985, 0.999])
    assert choose(lambda plan: next(measures)) == Plan()


@pytest.mark.parametrize("error", [UnfitError("no graphs"), ModelFailure("no graphs")])
def test_a_plan_that_the_network_refuses_is_not_chosen(error: Exception) -> None:
    def measure(plan: Plan) -> float:
        if plan.graphs:
            raise error
        return 0.5 if plan.nhwc else 1.0

    assert choose(measure) == Plan(nhwc=True)


def test_a_network_that_does_not_run_at_all_is_an_error() -> None:
    def measure(plan: Plan) -> float:
        raise ModelFailure("broken")

    with pytest.raises(ModelFailure):
        choose(measure)


def test_a_plan_is_recalled_in_the_same_circumstances_only(tmp_path: Path) -> None:
    plan = Plan(search="EXHAUSTIVE", graphs=True)
    Memory(tmp_path / "plans", gpu="one", model="a").keep(plan)
    assert Memory(tmp_path / "plans", model="a", gpu="one").recall() == plan
    assert Memory(tmp_path / "plans", model="a", gpu="other").recall() is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"plan": {"speed": 11}}'])
def test_a_file_that_is_no_plan_counts_for_nothing(tmp_path: Path, text: str) -> None:
    memory = Memory(tmp_path, model="a")
    memory.keep(Plan(nhwc=True))
    (file,) = tmp_path.iterdir()
    file.write_text(text)
    assert memory.recall() is None


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with structlog.testing.capture_logs() as logs:
        Memory(tmp_path / "file", model="a").keep(Plan())
    assert [one["event"] for one in logs] == ["plan_not_kept"]


def test_a_plan_is_measured_at_the_first_load_and_read_at_the_second(tmp_path: Path) -> None:
    make_bundle(tmp_path / "models")
    settings = Settings(models=tmp_path / "models", cache=tmp_path / "cache", max_batch_size=2)

    async def load() -> list[str]:
        with structlog.testing.capture_logs() as logs:
            keeper = Keeper(settings, BOUND, Metrics(), Shares(1))
            await keeper.start()
            await keeper.close()
        return [one["event"] for one in logs if one["event"] == "plan"]

    assert asyncio.run(load()) == ["plan"]
    (file,) = (tmp_path / "cache" / "plans").iterdir()
    assert set(json.loads(file.read_text())["plan"]) == {"search", "nhwc", "graphs"}
    assert asyncio.run(load()) == []


def options(device: Device, **more: Any) -> dict[str, dict[str, str]]:
    plan = Plan(search="EXHAUSTIVE", graphs=True)
    return {name: found for name, found in provider_options(device, plan, **more) if found}


def test_the_plan_and_the_limit_reach_cuda() -> None:
    found = options(Device(CUDA, 2), memory_limit=10**9)
    assert list(found) == [CUDA]
    assert found[CUDA] == {
        "device_id": "2",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "prefer_nhwc": "0",
        "enable_cuda_graph": "1",
        "gpu_mem_limit": "1000000000",
    }


def test_tensorrt_is_told_the_batches_and_where_engines_stay(tmp_path: Path) -> None:
    engines = Engines(tmp_path, (224, 200, 3), 64, half=True)
    found = options(Device(TENSORRT), engines=engines)
    assert list(found) == [TENSORRT, CUDA]
    told = found[TENSORRT]
    assert told["trt_profile_min_shapes"] == "images:1x224x200x3"
    assert told["trt_profile_opt_shapes"] == "images:64x224x200x3"
    assert told["trt_profile_max_shapes"] == "images:64x224x200x3"
    assert (told["trt_fp16_enable"], told["trt_engine_cache_path"]) == ("1", str(tmp_path))
    homeless = options(Device(TENSORRT), engines=Engines(None, (224, 200, 3), 64, half=False))
    assert "trt_engine_cache_path" not in homeless[TENSORRT]


def test_beside_others_a_plan_is_recalled_without_what_needs_graphs(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    settings = Settings(cache=tmp_path / "cache", max_batch_size=2)
    find = partial(find_plan, bundle, bundle.golden(), BOUND, settings)
    find(beside=False)
    (file,) = (tmp_path / "cache" / "plans").iterdir()
    best = Plan(search="EXHAUSTIVE", nhwc=True, graphs=True)
    file.write_text(json.dumps({"plan": asdict(best)}))
    assert find(beside=False) == best
    assert find(beside=True) == Plan(nhwc=True)


def test_beside_others_that_serve_nothing_is_measured(tmp_path: Path) -> None:
    make_bundle(tmp_path / "models")
    settings = Settings(models=tmp_path / "models", cache=tmp_path / "cache", max_batch_size=2)

    async def swap() -> list[int]:
        keeper = Keeper(settings, BOUND, Metrics(), Shares(1))
        await keeper.start()
        make_bundle(tmp_path / "models", version=2)
        with structlog.testing.capture_logs() as logs:
            await keeper.load("tiny")
        assert "plan" not in [one["event"] for one in logs]
        versions = [model.manifest.version for model in keeper.repository]
        await keeper.close()
        return versions

    assert asyncio.run(swap()) == [2]
