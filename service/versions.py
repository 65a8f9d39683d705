"""Loads versions of models, and remembers which could not be."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import structlog

from service.cache import Store
from service.devices import Device, NoCudaError
from service.errors import UnfitError
from service.metrics import Metrics
from service.opening import open_model
from service.repository import Absent, Repository, State
from service.served import ServedModel
from service.settings import Settings
from service.shares import Shares

log = structlog.get_logger()

Fingerprint = tuple[tuple[str, int, int], ...]


class Terms(NamedTuple):
    """How a version is to serve."""

    settings: Settings
    background: bool
    """Whether it is only shown copies."""


class Failure(NamedTuple):
    """Why a version does not serve, and of what: it may with others."""

    files: Fingerprint
    terms: Terms
    reason: str


class Versions:
    """Those in the folder of models; a repository is told what is loaded now, and what is unfit.

    One that has failed is tried again when its files or its terms have changed, or once it was
    forgotten.
    """

    def __init__(
        self,
        repository: Repository,
        device: Device,
        metrics: Metrics,
        shares: Shares,
        store: Store | None,
    ) -> None:
        self._repository = repository
        self._device = device
        self._metrics = metrics
        self._shares = shares
        self._store = store
        self._failed: dict[tuple[str, int], Failure] = {}
        # Two at once would take twice the memory, and the processors from those that serve.
        self._loading = asyncio.Lock()

    async def have(
        self, name: str, version: int, terms: Terms, old: ServedModel | None, *, beside: bool
    ) -> ServedModel | None:
        """A version that is fit: the `old` one where that serves on these terms, or loaded now.

        `beside` says whether others serve meanwhile.
        """
        if old is not None and old.retired:
            old = None
        if old is not None and (old.settings, old.background) == terms:
            self._repository.absent.pop((name, version), None)
            return old
        path = terms.settings.models / name / str(version)
        files = _fingerprint(path)
        failure = self._failed.get((name, version))
        if failure is None or failure[:-1] != (files, terms):
            self._repository.absent[name, version] = Absent(State.LOADING)
            async with self._loading:
                loaded = await self._load(path, terms, beside=beside)
            if not isinstance(loaded, str):
                del self._repository.absent[name, version]
                self._failed.pop((name, version), None)
                return loaded
            failure = self._failed[name, version] = Failure(files, terms, loaded)
            self._metrics.loads_failed[name] += 1
            log.error("unfit", model=name, version=version, reason=loaded)
        self._repository.absent[name, version] = Absent(State.UNFIT, failure.reason)
        # With other limits than it should have, rather than not at all.
        return old if old is not None and old.background == terms.background else None

    def forget(self, name: str) -> None:
        """Try those of a model again that have failed."""
        for key in [key for key in self._failed if key[0] == name]:
            del self._failed[key]

    async def _load(self, path: Path, terms: Terms, *, beside: bool) -> ServedModel | str:
        """A version that has passed every check, or why it has not."""
        begin = monotonic()
        settings, background = terms
        limit = settings.load_timeout
        try:
            async with asyncio.timeout(limit):
                bundle, slots = await open_model(
                    path, self._device, settings, beside=beside, background=background
                )
        except NoCudaError:
            raise  # the same for every model
        except TimeoutError:
            return (
                f"{path}: not loaded within {limit:g} s; raise --load-timeout if it is slow, and "
                "restart the service if its processors are still busy with it"
            )
        except UnfitError as error:
            return str(error)
        except Exception:
            log.exception("load_crashed", folder=str(path))
            return "loading it failed; the server's log has the detail"
        manifest = bundle.manifest
        counted = self._metrics.model(
            manifest.name,
            manifest.version,
            precision=manifest.precision,
            provider=self._device.provider,
        )
        counted.load_seconds = monotonic() - begin
        return ServedModel(
            bundle,
            slots,
            settings,
            counted,
            self._shares,
            background=background,
            store=self._store,
        )


def _fingerprint(path: Path) -> Fingerprint:
    """What changes when a file of a folder does: names, sizes, times."""
    try:
        return tuple(
            sorted((one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in path.iterdir())
        )
    except OSError:
        return ()
