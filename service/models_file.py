"""`models.toml`, beside the models: which versions of each serve, under which labels, and how.

    [cifar10]
    versions = "latest"              # or "all", {latest = 2}, [2, 3]
    labels = {stable = 2}            # requests that name no version get `stable`
    max_batch_size = 64              # for this model alone, over the setting of that name

    [cifar10.challenger]
    version = 3
    mode = "canary"                  # or "shadow"
    share = 0.1

A model without a table, like an empty file, is served by its newest version.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from convoy.bundle import Name
from convoy.files import replace_file
from service.errors import UsageError
from service.settings import MaxBatchSize, MaxDelay, Positive, Settings

FILE_NAME = "models.toml"
STABLE, PREVIOUS = "stable", "previous"

Version = Annotated[int, Field(ge=1, lt=10**18, strict=True)]
# Not digits first: the Open Inference Protocol has one field for numbers and labels.
Label = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$", max_length=64)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Latest(_Table):
    """The newest versions that are fit to serve."""

    latest: Annotated[int, Field(ge=1, le=100)] = 1


class Challenger(_Table):
    """A version that is tried beside the one that answers."""

    version: Version
    mode: Literal["canary", "shadow"] = "canary"
    share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Of the requests that name no version: those that a canary answers, or a shadow is shown."""
    max_error_rate: Annotated[float, Field(ge=0.0, le=1.0)] = 0.02
    """A canary of which a larger share of requests fails is taken out."""
    max_slowdown: Annotated[float, Field(ge=1.0)] = 2.0
    """A canary that takes so many times as long as the champion is taken out."""


class ModelConfig(_Table):
    """How one model is served; what is None here is as the settings say."""

    versions: Literal["latest", "all"] | Latest | tuple[Version, ...] = "latest"
    labels: dict[Label, Version] = Field(default_factory=dict)
    challenger: Challenger | None = None
    max_batch_size: MaxBatchSize | None = None
    max_delay_ms: MaxDelay | None = None
    max_queue_size: Positive | None = None
    max_queue_bytes: Positive | None = None

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.versions == ():
            raise ValueError("versions: an empty list serves nothing")
        return self

    @property
    def newest(self) -> int:
        """How many of the newest versions serve; 0 where the file names them."""
        if isinstance(self.versions, Latest):
            return self.versions.latest
        return 1 if self.versions == "latest" else 0

    @property
    def trial(self) -> int:
        """The version of the challenger; 0 where there is none."""
        return self.challenger.version if self.challenger else 0

    @property
    def listed(self) -> set[int]:
        """The versions that must be there."""
        listed = self.versions if isinstance(self.versions, tuple) else ()
        return {*listed, *self.labels.values(), self.trial} - {0}

    def named(self, found: list[int]) -> set[int]:
        """The versions, of those found on disk, that are asked for one by one."""
        if self.versions == "all":
            return set(found)
        return self.listed & set(found)

    def shadows(self, version: int) -> bool:
        """Whether this version is only shown copies."""
        one = self.challenger
        shown = one is not None and one.mode == "shadow" and one.version == version
        return shown and self.labels.get(STABLE) != version

    def tries(self, terms: Challenger) -> bool:
        """Whether this is the challenger still, and not meant to answer everybody by now."""
        return self.challenger == terms and self.labels.get(STABLE) != terms.version

    def without_challenger(self) -> ModelConfig:
        """The same where nothing of the challenger is wanted: it was taken out."""
        out, versions = self.trial, self.versions
        if isinstance(versions, tuple):
            versions = tuple(one for one in versions if one != out)
        labels = {label: one for label, one in self.labels.items() if one != out}
        changes = {"challenger": None, "labels": labels, "versions": versions}
        return self.model_copy(update=changes)

    def settings(self, settings: Settings) -> Settings:
        """The settings, with what is said here put over them."""
        limits = ("max_batch_size", "max_delay_ms", "max_queue_size", "max_queue_bytes")
        own = {name: one for name in limits if (one := getattr(self, name)) is not None}
        if self.max_queue_size is not None:
            own["priority_queue_sizes"] = ()  # or they would go before it, being of all models
        return settings.model_copy(update=own)


_FILE = TypeAdapter(dict[Name, ModelConfig])


def read_models_file(models: Path) -> dict[str, ModelConfig]:
    """The tables of `models.toml` by model; none where there is no file.

    Raises: UsageError naming the file, the key and what is wrong.
    """
    file = models / FILE_NAME
    try:
        return _FILE.validate_python(_parsed(file.read_text()))
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{file}: {where}: {first['msg'].removeprefix('Value error, ')}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: {error}") from None


def promote(models: Path, name: str, version: int, *, previous: int) -> None:
    """Make `version` the stable one, remember the `previous`, and end the trial of a challenger.

    Raises: UsageError where the file is wrong or cannot be written.
    """
    _change(models, name, {STABLE: version, PREVIOUS: previous})


def roll_back(models: Path, name: str, version: int) -> None:
    """Make `version` the stable one again. Raises: UsageError as above."""
    _change(models, name, {STABLE: version, PREVIOUS: None})


def pin(models: Path, name: str, version: int) -> None:
    """Take the challenger out, and make sure that `version`, which answers, goes on.

    Raises: UsageError as above.
    """
    _change(models, name, {STABLE: version})


def _change(models: Path, name: str, labels: Mapping[str, int | None]) -> None:
    """Rewrite the labels of a model in place, without its challenger; comments stay.

    A file that says all this already is left alone: it may be where nothing can be written.
    """
    # Slow to import, for what a service may never do.
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    file = models / FILE_NAME
    read_models_file(models)  # somebody may have spoilt it meanwhile
    try:
        before = file.read_text() if file.exists() else ""
        document: Any = tomlkit.parse(before)
        table = document.setdefault(name, tomlkit.table())
        table.pop("challenger", None)
        own = table.setdefault("labels", tomlkit.inline_table())
        for label, version in labels.items():
            if version is not None:
                own[label] = version  # in its place, or blanks would gather where it was
            else:
                own.pop(label, None)
        text = tomlkit.dumps(document)
        _FILE.validate_python(_parsed(text))
        if text != before:
            replace_file(file, text.encode())
    except (OSError, TOMLKitError, ValidationError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{file}: cannot be written: {reason}") from None


def _parsed(toml: str) -> dict[str, Any]:
    import tomllib  # slow to import, for a file that many do not have

    return tomllib.loads(toml)
