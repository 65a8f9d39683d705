"""The models of this process, by name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from time import monotonic

from convoy.bundle import Bundle, list_versions
from service.devices import Device, NoCudaError
from service.errors import InvalidRequest, ModelNotFound, UnfitError, UsageError
from service.loading import find_plan, open_bundle, open_session
from service.metrics import Metrics
from service.served import ServedModel, Slot
from service.session import Session
from service.settings import Settings
from service.worker import Worker

MOST_NAMED = 20


class Repository:
    """What is being served; every name stands for its newest version."""

    def __init__(self, models: dict[str, ServedModel], *, default: str | None) -> None:
        self._models = models
        self.default = default

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def get(self, name: str, version: int = 0) -> ServedModel:
        """The model of that name; an empty name is the default, version 0 the newest.

        Raises: ModelNotFound, or InvalidRequest where a name is needed.
        """
        wanted = name or self.default
        if wanted is None:
            raise InvalidRequest(
                f"model: name one of {_some(self._models)}; this server has no default model"
            )
        model = self._models.get(wanted)
        if model is None or version not in (0, model.manifest.version):
            asked = f"{wanted[:128]!r}" + (f" version {version}" if version else "")
            have = _some(f"{one.manifest.name} (version {one.manifest.version})" for one in self)
            raise ModelNotFound(f"model {asked}: not found; this server has {have}")
        return model

    async def close(self) -> None:
        """Close every model."""
        for model in self:
            await model.close()


def _some(names: Iterable[str]) -> str:
    """A list for a message, which gRPC bounds with the other trailers at 8 KiB."""
    every = list(names)
    more = f" and {len(every) - MOST_NAMED} more" if len(every) > MOST_NAMED else ""
    return ", ".join(every[:MOST_NAMED]) + more


async def open_repository(settings: Settings, device: Device, metrics: Metrics) -> Repository:
    """Load the newest version of every model in the folder, one after the other.

    Raises: UsageError where there is nothing to serve; UnfitError where one cannot be trusted.
    """
    if not settings.models.is_dir():
        raise UsageError(f"models: no such folder: {settings.models}")
    found = list_versions(settings.models)
    if not found:
        raise UsageError(f"models: no bundle <name>/<version>/ in {settings.models}")
    if settings.default_model is not None and settings.default_model not in found:
        raise UsageError(
            f"default-model: {settings.default_model!r} is not in {settings.models}, "
            f"which has {_some(found)}"
        )
    default = settings.default_model or (next(iter(found)) if len(found) == 1 else None)
    return Repository(await _load_all(settings, found, device, metrics), default=default)


async def _load_all(
    settings: Settings, found: dict[str, list[int]], device: Device, metrics: Metrics
) -> dict[str, ServedModel]:
    models, broken = {}, []
    for name, versions in found.items():
        start = monotonic()
        try:
            path = settings.models / name / str(versions[-1])
            bundle, slots = await _open(path, device, settings)
        except NoCudaError:
            raise  # the same for every model
        except UnfitError as error:
            broken.append(str(error))
            continue
        counted = metrics.model(
            name, versions[-1], precision=bundle.manifest.precision, provider=device.provider
        )
        counted.load_seconds = monotonic() - start
        models[name] = ServedModel(bundle, slots, settings, counted)
    if broken:
        raise UnfitError("; ".join(broken))
    return models


async def _open(path: Path, device: Device, settings: Settings) -> tuple[Bundle, list[Slot]]:
    bundle, golden = await asyncio.to_thread(open_bundle, path)
    plan = await asyncio.to_thread(find_plan, bundle, golden, device, settings)
    make = partial(open_session, bundle, golden, device, plan, settings)
    name = f"onnxruntime-{bundle.manifest.name}"
    # One after the other: nothing else may use a GPU while CUDA graphs are recorded.
    return bundle, [await _open_slot(make, f"{name}-{one}") for one in range(device.slots)]


async def _open_slot(make: Callable[[], Session], name: str) -> Slot:
    worker = Worker(name)
    try:
        return Slot(await worker.run(make), worker)
    except BaseException:
        worker.close()
        raise
