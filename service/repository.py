"""The models of this process: by name, version and label."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from typing import NamedTuple

from service.errors import InvalidRequest, ModelNotFound
from service.models_file import Challenger
from service.served import ServedModel

# In a message, which gRPC bounds with the other trailers at 8 KiB: names, and reasons with paths.
MOST_NAMED, MOST_REASONS = 20, 5
# Of one of them, in characters: together they fit the headers of a response.
LONGEST_REASON = 1_000


@dataclass(frozen=True, slots=True)
class Entry:
    """What serves under one name. It is replaced as a whole when anything of it changes."""

    name: str
    live: int
    """The version that answers requests that name none."""
    versions: dict[int, ServedModel]
    labels: dict[str, int] = field(default_factory=dict)
    challenger: Challenger | None = None

    @property
    def champion(self) -> ServedModel:
        """The model that answers requests that name no version."""
        return self.versions[self.live]

    def find(self, version: int, label: str) -> ServedModel | None:
        """A version by its number or its label; with neither, the champion."""
        return self.versions.get(version or self.labels.get(label, 0 if label else self.live))

    def without(self, version: int) -> Entry:
        """The same without a version that is not live."""
        challenger = self.challenger
        return Entry(
            self.name,
            self.live,
            {one: model for one, model in self.versions.items() if one != version},
            {label: one for label, one in self.labels.items() if one != version},
            challenger if challenger is None or challenger.version != version else None,
        )


class State(StrEnum):
    """Why a version does not serve."""

    LOADING = "loading"
    UNFIT = "unfit"
    UNLOADED = "unloaded"
    ENDED = "taken out"


class Absent(NamedTuple):
    """What is known of a version that does not serve."""

    state: State
    reason: str = ""


class Route(NamedTuple):
    """Who answers a request, and who is shown a copy of it."""

    model: ServedModel
    shadow: ServedModel | None = None


class Repository:
    """What is being served; an empty `default` is the only model, where there is but one."""

    def __init__(self, default: str | None = None) -> None:
        self._default = default
        self.entries: dict[str, Entry] = {}
        self.absent: dict[tuple[str, int], Absent] = {}
        """Versions that were to serve and do not, or not yet."""

    def __iter__(self) -> Iterator[ServedModel]:
        """Every version of every model, by name, then by number."""
        for entry in list(self.entries.values()):
            for version in sorted(entry.versions):
                yield entry.versions[version]

    @property
    def default(self) -> str | None:
        """The model of requests that name none."""
        return self._default or (next(iter(self.entries)) if len(self.entries) == 1 else None)

    def put(self, entry: Entry) -> None:
        """Serve this under its name from now on."""
        self.entries = dict(sorted({**self.entries, entry.name: entry}.items()))

    def remove(self, name: str) -> None:
        """Serve nothing under this name."""
        self.entries = {one: self.entries[one] for one in self.entries if one != name}

    def forgive(self, name: str, *, but: set[int]) -> None:
        """Forget what does not serve under this name, and why, `but` for these versions."""
        self.absent = {
            key: one for key, one in self.absent.items() if key[0] != name or key[1] in but
        }

    def live(self) -> list[tuple[str, int]]:
        """Names and the versions that answer requests that name none."""
        return [(name, entry.live) for name, entry in self.entries.items()]

    def trials(self) -> list[tuple[tuple[str, str, str], float]]:
        """Model, version and mode of every challenger, and its share of the requests."""
        every = [(name, entry.challenger) for name, entry in self.entries.items()]
        return [((name, str(one.version), one.mode), one.share) for name, one in every if one]

    def unfit(self) -> dict[tuple[str, int], bool]:
        """Names and versions, and whether they are to serve but fail a check."""
        served = {(one.manifest.name, one.manifest.version): False for one in self}
        every = tuple(self.absent.items())
        return served | {key: True for key, one in every if one.state is State.UNFIT}

    def reasons(self, name: str) -> str:
        """Why versions of this name do not serve, for a message; empty where all do."""
        mine = ((key[1], one) for key, one in sorted(self.absent.items()) if key[0] == name)
        return _some(
            (f"version {key}: {one.reason[:LONGEST_REASON]}" for key, one in mine),
            MOST_REASONS,
            "; ",
        )

    def get(self, name: str, version: int = 0, label: str = "") -> ServedModel:
        """The model of that name, an empty one the default, and version or label.

        Raises: ModelNotFound, or InvalidRequest where a name is needed.
        """
        entry = self._entry(name)
        model = entry.find(version, label)
        if model is None:
            raise self._missing(entry.name, version, label)
        return model

    def route(self, name: str, *, key: str = "") -> Route:
        """Who is to answer a request that names no version: the champion, or its challenger.

        The same `key` goes the same way for as long as the challenger's share is the same.

        Raises: as `get`.
        """
        entry = self._entry(name)
        challenger = entry.challenger
        model = entry.champion
        if challenger is None:
            return Route(model)
        other = entry.versions.get(challenger.version)
        if other is None or place(entry.name, key) >= challenger.share:
            return Route(model)
        return Route(model, other) if challenger.mode == "shadow" else Route(other)

    def _entry(self, name: str) -> Entry:
        wanted = name or self.default
        if wanted is None:
            raise InvalidRequest(
                f"model: name one of {_some(self.entries)}; this server has no default model"
            )
        entry = self.entries.get(wanted)
        if entry is None:
            raise self._missing(wanted, 0, "")
        return entry

    def _missing(self, name: str, version: int, label: str) -> ModelNotFound:
        asked = f"{name[:128]!r}"
        if version or label:
            asked += f" version {version}" if version else f" label {label[:64]!r}"
        have = _some(f"{one.manifest.name} (version {one.manifest.version})" for one in self)
        return ModelNotFound(f"model {asked}: not found; this server has {have or 'no models'}")


def place(name: str, key: str) -> float:
    """A number in [0, 1): the same for the same model and key, by chance without a key."""
    if not key:
        return random.random()
    return (
        int.from_bytes(blake2b(key.encode(), digest_size=8, key=name.encode()[:64]).digest())
        / 2**64
    )


def _some(texts: Iterable[str], most: int = MOST_NAMED, between: str = ", ") -> str:
    """A list for a message."""
    every = list(texts)
    more = [f"and {len(every) - most} more"] if len(every) > most else []
    return between.join([*every[:most], *more])
