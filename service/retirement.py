"""Lets models go that serve no more, when the last request that they accepted is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping

import structlog

from service.memory import trim
from service.metrics import Metrics
from service.repository import Repository
from service.served import ServedModel

log = structlog.get_logger()


class Retirement:
    """The models that are in no entry of a repository any more, and in memory still."""

    def __init__(
        self, repository: Repository, metrics: Metrics, changing: Mapping[str, asyncio.Lock]
    ) -> None:
        self._repository = repository
        self._metrics = metrics
        self._changing = changing
        self._retiring: dict[asyncio.Task[None], ServedModel] = {}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(tuple(self._retiring.values()))

    def let_go(self, models: Iterable[ServedModel]) -> None:
        """Close each of these when it is used no more; there must be no new requests to it."""
        for model in models:
            if model.retired:
                continue
            model.retired = True
            task = asyncio.create_task(self._retire(model))
            self._retiring[task] = model
            task.add_done_callback(self._retiring.pop)

    def cancel(self) -> None:
        """Wait for nothing any more."""
        for task in self._retiring:
            task.cancel()

    async def _retire(self, model: ServedModel) -> None:
        await model.retire()
        await asyncio.to_thread(trim)
        # A load under way may be going on with its figures.
        async with self._changing[model.manifest.name]:
            if all(one.metrics is not model.metrics for one in self._repository):
                self._metrics.forget(model.metrics)
        log.info("closed", model=model.manifest.name, version=model.manifest.version)
