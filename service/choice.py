"""Which of a model's versions answer, as `models.toml` has it and with what is fit to serve."""

from __future__ import annotations

from service.models_file import STABLE, ModelConfig
from service.repository import Entry
from service.served import ServedModel


def choose(
    name: str, config: ModelConfig, models: dict[int, ServedModel], old: Entry | None
) -> Entry | None:
    """What serves from now on, of the models that are fit; None where nothing can.

    What answers now goes on where nothing may take its place. Left out are models that are about to
    close, and those that were loaded to be shown copies only and are to answer now, or the reverse.
    """
    models = {
        version: model
        for version, model in models.items()
        if not model.retired and model.background == config.shadows(version)
    }
    trial = config.trial
    before = old.live if old else 0
    stable = config.labels.get(STABLE)
    if stable is None:
        live = max((version for version in models if version != trial), default=before)
    else:
        live = stable if stable in models else before
    if not live:
        return None
    versions = models if live in models or old is None else {**models, live: old.versions[live]}
    return Entry(
        name,
        live,
        versions,
        {label: version for label, version in config.labels.items() if version in versions},
        config.challenger if trial in versions and trial != live else None,
    )
