"""Brings models up beside those that serve, swaps them in, and lets the old ones go."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine
from functools import partial, wraps
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import structlog

from convoy.bundle import list_versions, versions_in
from service import models_file
from service.cache import Store
from service.choice import choose
from service.devices import Device
from service.errors import LoadFailed, ModelNotFound, UnfitError, UsageError
from service.loading import open_bundle
from service.metrics import Metrics
from service.models_file import STABLE, Challenger, ModelConfig, read_models_file
from service.repository import Absent, Entry, Repository, State
from service.retirement import Retirement
from service.served import ServedModel
from service.settings import Settings
from service.shares import Shares
from service.versions import Terms, Versions

log = structlog.get_logger()

# Of the labels in `models.toml`: the folder, a name and a version.
Change = Callable[[Path, str, int], None]

P = ParamSpec("P")
T = TypeVar("T")


def whole(
    change: Callable[Concatenate[Keeper, str, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Keeper, str, P], Coroutine[Any, Any, T]]:
    """One change of a model at a time, and to its end: who asked for it may leave meanwhile."""

    @wraps(change)
    async def run(keeper: Keeper, name: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        lock = keeper.changing[name]
        await lock.acquire()
        task = asyncio.create_task(change(keeper, name, *args, **kwargs))
        task.add_done_callback(lambda _: lock.release())
        return await asyncio.shield(task)

    return run


def to_its_end(
    change: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """Who asked for a change may leave meanwhile."""

    @wraps(change)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.shield(asyncio.create_task(change(*args, **kwargs)))

    return run


class Ended(NamedTuple):
    """The trial of a challenger that did worse than it may."""

    challenger: Challenger
    reason: str


class Keeper:
    """Keeps a repository as the folder and its `models.toml` want it.

    A version that fails any check never serves; what served before goes on. It is tried again when
    its files or its settings have changed, or when it is told to `load`.

    Loading may take minutes, one version after the other. Nothing that only needs what is loaded
    waits for it: requests, the end of a trial, a promotion, the way back.
    """

    def __init__(
        self,
        settings: Settings,
        device: Device,
        metrics: Metrics,
        shares: Shares,
        store: Store | None = None,
    ) -> None:
        self.repository = Repository(settings.default_model)
        self.on_change: Callable[[], None] = lambda: None
        self._settings = settings
        self._metrics = metrics
        self.changing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """Held while versions of a model are brought up or unloaded."""
        self._deciding = asyncio.Lock()
        """Held from what an operator's decision rests on until the file says it."""
        self._versions = Versions(self.repository, device, metrics, shares, store)
        self._retirement = Retirement(self.repository, metrics, self.changing)
        self._started = False
        self._configs: dict[str, ModelConfig] = {}
        self._unloaded: set[str] = set()
        self._ended: dict[str, Ended] = {}
        self._unserved: dict[str, str] = {}
        """Why a model that was followed last could not serve; empty where it could."""

    async def start(self) -> None:
        """Load all that is to serve.

        Raises: UsageError where there is nothing to serve, or `models.toml` is wrong; UnfitError
        where a model has no version that can be trusted.
        """
        models, default = self._settings.models, self._settings.default_model
        if not models.is_dir():
            raise UsageError(f"models: no such folder: {models}")
        found = list_versions(models)
        if not found:
            raise UsageError(f"models: no bundle <name>/<version>/ in {models}")
        if default is not None and default not in found:
            raise UsageError(
                f"default-model: {default!r} is not in {models}, which has {', '.join(found)}"
            )
        self._read_file()
        broken = [str(error) for name in found if (error := await self._refresh(name, found[name]))]
        if broken:
            raise UnfitError("; ".join(broken))
        self._started = True

    async def refresh(self) -> None:
        """See what has changed on disk, and follow it; what cannot be followed is logged."""
        found = await asyncio.to_thread(list_versions, self._settings.models)
        try:
            self._read_file()
        except UsageError as error:
            log.error("models_file", reason=str(error))
        for name in found:
            await self._follow(name)

    @whole
    async def load(self, name: str) -> None:
        """Serve a model as the folder has it now, also after `unload`.

        Raises: ModelNotFound; LoadFailed where a version that should serve cannot.
        """
        every = list_versions(self._settings.models)
        if name not in every:
            raise ModelNotFound(f"model {name[:128]!r}: no such folder among the models")
        try:
            self._read_file()
        except UsageError as error:
            raise LoadFailed(str(error)) from None
        self._unloaded.discard(name)
        self._ended.pop(name, None)
        self._versions.forget(name)
        broken = await self._refresh(name, every[name])
        reasons = self.repository.reasons(name)
        if broken or reasons:
            raise LoadFailed(f"model {name!r}: {broken or reasons}")

    @whole
    async def unload(self, name: str) -> None:
        """Serve a model no more, until `load`; what it has accepted is still answered.

        Raises: ModelNotFound.
        """
        entry = self._entry(name)
        self._unloaded.add(name)
        self._versions.forget(name)
        self.repository.remove(name)
        for version in entry.versions:
            self.repository.absent[name, version] = Absent(State.UNLOADED)
        log.info("unloaded", model=name)
        self._retirement.let_go(entry.versions.values())
        self.on_change()

    @to_its_end
    async def promote(self, name: str, version: int = 0) -> None:
        """Have a version, by default the challenger, answer requests that name none.

        Raises: ModelNotFound; LoadFailed where it does not serve, a restart
        could not load it, or `models.toml` cannot be written.
        """
        async with self._deciding:
            _, chosen = self._candidate(name, version)
            await self._check(name, chosen)
            entry, _ = self._candidate(name, chosen)  # it may have been taken out meanwhile
            change: Change = partial(models_file.promote, previous=entry.live)
            # What is live already may be so as the newest only, and is to stay when another comes.
            await self._write(change if chosen != entry.live else models_file.pin, name, chosen)
            self._obey(name)
        await self._follow(name)

    @to_its_end
    async def roll_back(self, name: str) -> None:
        """Take the challenger out, or where there is none return to the version before.

        Raises: as `promote`.
        """
        async with self._deciding:
            entry = self._entry(name)
            # Also one that has been taken out already: who asks for this may not know yet.
            if self._configs.get(name, ModelConfig()).challenger is not None:
                await self._write(models_file.pin, name, entry.live)
            elif (previous := entry.labels.get(models_file.PREVIOUS)) is not None:
                await self._check(name, previous)
                await self._write(models_file.roll_back, name, previous)
            else:
                raise LoadFailed(f"model {name!r}: no challenger and no version `previous`")
            self._obey(name)
        await self._follow(name)

    def take_out(self, model: ServedModel, reason: str) -> None:
        """Have a version serve no more that is on trial, or was: it does worse than it may.

        A challenger stays out until it is changed or loaded anew.
        """
        name, version = model.manifest.name, model.manifest.version
        entry = self.repository.entries.get(name)
        if entry is None or entry.versions.get(version) is not model:
            return  # it serves no more
        challenger = entry.challenger
        if challenger is not None and challenger.version == version:
            log.error("challenger_ended", model=name, version=version, reason=reason)
            self._metrics.challengers_ended[name] += 1
            self._ended[name] = Ended(challenger, reason)
        self.repository.absent[name, version] = Absent(State.ENDED, reason)
        self._serve(entry.without(version), entry)

    @property
    def models(self) -> list[ServedModel]:
        """All that are in memory: those that serve, and those with requests to finish."""
        return [*self.repository, *self._retirement]

    async def close(self) -> None:
        """Close every model."""
        self._retirement.cancel()
        for model in self.models:
            await model.close()

    def _entry(self, name: str) -> Entry:
        entry = self.repository.entries.get(name)
        if entry is None:
            raise ModelNotFound(f"model {name[:128]!r}: not loaded")
        return entry

    def _candidate(self, name: str, version: int) -> tuple[Entry, int]:
        """What serves, and which version of it is to be promoted: 0 stands for the challenger.

        Raises: ModelNotFound, LoadFailed.
        """
        entry = self._entry(name)
        if not version and entry.challenger is None:
            raise LoadFailed(f"model {name!r}: no challenger; say which version to promote")
        chosen = version or entry.challenger.version  # type: ignore[union-attr]
        if chosen not in entry.versions:
            absent = self.repository.absent.get((name, chosen))
            why = f" ({absent.state}: {absent.reason})" if absent and absent.reason else ""
            raise ModelNotFound(f"model {name!r} version {chosen}: not loaded{why}")
        return entry, chosen

    async def _check(self, name: str, version: int) -> None:
        """See that a restart could load a version that is to be named in `models.toml`."""
        path = self._settings.models / name / str(version)
        try:
            await asyncio.to_thread(open_bundle, path)
        except UnfitError as error:
            raise LoadFailed(f"{error}; copy the version there again, it is needed") from None

    async def _write(self, change: Change, name: str, version: int) -> None:
        try:
            # It waits for the disk.
            await asyncio.to_thread(change, self._settings.models, name, version)
        except UsageError as error:
            raise LoadFailed(f"{error}; change it where it is kept") from None

    def _read_file(self) -> None:
        """Read `models.toml`. Raises: UsageError."""
        models = self._settings.models
        configs = read_models_file(models)
        if configs != self._configs:
            for name in sorted(configs.keys() - list_versions(models).keys()):
                reason = f"{models / models_file.FILE_NAME}: [{name}]: no such model beside it"
                log.warning("models_file", reason=reason)
        self._configs = configs

    def _obey(self, name: str) -> None:
        """Have what is loaded serve as the file says by now."""
        self._read_file()
        old = self.repository.entries.get(name)
        if old is None:
            return  # unloaded meanwhile
        config, _ = self._wanted(name)
        entry = choose(name, config, old.versions, old)
        if entry is not None:
            self._serve(entry, old)

    @whole
    async def _follow(self, name: str) -> None:
        """Have this name served as the folder and the file say; log why that cannot be."""
        if name in self._unloaded:
            return
        found = await asyncio.to_thread(versions_in, self._settings.models / name)
        error = await self._refresh(name, found)
        reason = "" if error is None else str(error)
        if reason and reason != self._unserved.get(name):
            log.error("not_served", model=name, reason=reason)
        self._unserved[name] = reason

    async def _refresh(self, name: str, found: list[int]) -> UnfitError | None:
        """Have this name served as it should be; returns why that is not so."""
        models = await self._bring_up(name, found)
        # Anew: a trial may have ended meanwhile, or an operator decided otherwise.
        config, ended = self._wanted(name)
        old = self.repository.entries.get(name)
        fit = models
        if ended is not None:
            out = ended.challenger.version
            self.repository.absent[name, out] = Absent(State.ENDED, ended.reason)
            fit = {version: model for version, model in models.items() if version != out}
        entry = choose(name, config, fit, old)
        if entry is not None:
            self._serve(entry, old)
        serving = () if entry is None else entry.versions.values()
        self._retirement.let_go(model for model in models.values() if model not in serving)
        if entry is None:
            return UnfitError(f"{self._settings.models / name}: {self._why(name, config)}")
        return None

    def _wanted(self, name: str) -> tuple[ModelConfig, Ended | None]:
        """What the file says of a model, without the challenger that was taken out; that one."""
        config = self._configs.get(name, ModelConfig())
        ended = self._ended.get(name)
        if ended is None or not config.tries(ended.challenger):
            return config, None
        return config.without_challenger(), ended

    def _why(self, name: str, config: ModelConfig) -> str:
        """Why nothing of this name serves."""
        if reasons := self.repository.reasons(name):
            return reasons
        if config.trial:
            return f"version {config.trial} is the challenger of no other; add one that answers"
        return "models.toml names none of its versions"

    def _serve(self, entry: Entry, old: Entry | None) -> None:
        """Have this take the place of what served under its name."""
        self.repository.put(entry)
        entry.champion.tried = False
        if entry.challenger is not None:
            entry.versions[entry.challenger.version].tried = True
        # There from the start: Prometheus sees no increase in a series that begins with 1.
        for counter in (self._metrics.loads_failed, self._metrics.challengers_ended):
            counter[entry.name] += 0
        before = {} if old is None else old.versions
        self._retirement.let_go(
            [one for one in before.values() if one not in entry.versions.values()]
        )
        if entry != old:
            versions = sorted(entry.versions)
            log.info("serving", model=entry.name, version=entry.live, versions=versions)
            self.on_change()

    async def _bring_up(self, name: str, found: list[int]) -> dict[int, ServedModel]:
        """Load what is wanted and not there yet; the models that are fit, by version."""
        config, ended = self._wanted(name)
        if ended is not None:
            # Or it would be the newest, and answer everybody.
            found = [version for version in found if version != ended.challenger.version]
        old = self.repository.entries.get(name)
        known = config.listed - set(found)
        for version in sorted(known):
            self._miss(name, version)
        if old is None and config.labels.get(STABLE) in known:
            found = []  # whatever was loaded would not serve
        models: dict[int, ServedModel] = {}
        named, newest, trial = config.named(found), config.newest, config.trial
        for version in sorted(found, key=lambda one: (one != trial, one), reverse=True):
            counts = version != trial and newest > 0
            if not counts and version not in named:
                continue
            if version == trial != config.labels.get(STABLE):
                now = self.repository.entries.get(name)
                if choose(name, config, models, now) is None:
                    continue  # the challenger of nobody would not serve
            known.add(version)
            if self._otherwise(name, version, config):
                continue
            try:
                model = await self._versions.have(
                    name,
                    version,
                    Terms(config.settings(self._settings), config.shadows(version)),
                    old.versions.get(version) if old else None,
                    beside=self._started and bool(self.models),
                )
            except BaseException:
                self._retirement.let_go(set(models.values()) - set(self.repository))
                raise
            if model is not None:
                models[version] = model
                newest -= counts
        self.repository.forgive(name, but=known)
        return models

    def _otherwise(self, name: str, version: int, config: ModelConfig) -> bool:
        """Whether it was decided since `config` that a version is not wanted, or not as it was."""
        now, ended = self._wanted(name)
        out = ended is not None and ended.challenger.version == version
        return out or now.shadows(version) != config.shadows(version)

    def _miss(self, name: str, version: int) -> None:
        missing = Absent(State.UNFIT, "no such folder")
        if self.repository.absent.get((name, version)) != missing:
            folder = self._settings.models / name / str(version)
            log.error("unfit", model=name, version=version, reason=f"{folder}: {missing.reason}")
            self.repository.absent[name, version] = missing
