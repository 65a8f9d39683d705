"""A run's folder: its recipe, environment, log and checkpoint, each written whole or not at all.

PyTorch is imported where it is needed: to list runs takes none.
"""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convoy.bundle import LOG_FILE
from training.errors import TrainingError, first_line
from training.files import write_file
from training.recipe import Recipe, differing_keys, parse_recipe

if TYPE_CHECKING:
    from training.datasets import Splits

RECIPE_FILE = "recipe.json"
ENVIRONMENT_FILE = "environment.json"
CHECKPOINT_FILE = "checkpoint.pt"

LIBRARIES = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")

ENVIRONMENT_KEYS = (
    "started", "data", "dataset_sha256", "train_images", "validation_images", "train_statistics",
    "git_commit", "hardware", "versions",
)  # fmt: skip
"""What an environment must hold to go on, or to export."""

Log = Sequence[Mapping[str, Any]]
"""An entry per finished epoch."""


class Run:
    """The folder of one training run."""

    def __init__(self, path: Path, recipe: Recipe, environment: Mapping[str, Any]) -> None:
        self.path = path
        self.recipe = recipe
        self.environment = environment

    @classmethod
    def create(
        cls, path: Path, recipe: Recipe, data: Path, splits: Splits, *, name: str | None = None
    ) -> Run:
        """Start a run in a new folder; `name` is for its bundles, where not the recipe's.

        Raises: TrainingError where the folder holds a run already.
        """
        environment = {"name": name or recipe.name, **describe_environment(data, splits)}
        run = cls(path, recipe, environment)
        claim = path / RECIPE_FILE
        try:
            path.mkdir(parents=True, exist_ok=True)
            claim.touch(exist_ok=False)
        except OSError as error:
            if claim.exists():
                raise TrainingError(
                    f"{path}: holds a run already; add --resume, or choose another --run"
                ) from None
            raise TrainingError(f"{claim}: cannot be written: {error.strerror}") from None
        try:
            run._write(ENVIRONMENT_FILE, json.dumps(run.environment, indent=2).encode())
            run._write(RECIPE_FILE, json.dumps(recipe.model_dump(mode="json"), indent=2).encode())
        except BaseException:
            claim.unlink(missing_ok=True)  # what has not begun keeps nobody out
            raise
        return run

    @classmethod
    def open(cls, path: Path) -> Run:
        """Open the folder of a run. Raises: TrainingError where it is none."""
        try:
            recipe = json.loads((path / RECIPE_FILE).read_bytes())
            environment = json.loads((path / ENVIRONMENT_FILE).read_bytes())
        except (OSError, ValueError):
            raise TrainingError(
                f"{path}: not a run's folder; name one that holds {RECIPE_FILE}"
            ) from None
        file = path / ENVIRONMENT_FILE
        if not isinstance(environment, dict):
            raise TrainingError(f"{file}: no description of a run")
        if missing := [key for key in ENVIRONMENT_KEYS if key not in environment]:
            raise TrainingError(f"{file}: no description of a run: has no {missing[0]!r}")
        return cls(path, parse_recipe(recipe, where=str(path / RECIPE_FILE)), environment)

    @classmethod
    def resume(cls, path: Path, recipe: Recipe, splits: Splits) -> Run:
        """Open a run to go on with. Raises: TrainingError where recipe or data are others."""
        run = cls.open(path)
        if keys := differing_keys(run.recipe, recipe):
            raise TrainingError(
                f"{path}: was started with another recipe, {keys[0]} differs; "
                "resume with the same one, or start a new run"
            )
        run.require_same_data(splits)
        return run

    @property
    def name(self) -> str:
        """What its bundles are called."""
        # Runs of before it was kept know only the recipe's.
        return str(self.environment.get("name", self.recipe.name))

    def require_same_data(self, splits: Splits) -> None:
        """Raises: TrainingError where the run was started on other images or classes."""
        began = self.environment
        for key, now, kind in (
            ("dataset_sha256", splits.sha256, "images"),
            ("validation_sha256", splits.validation_sha256, "validation images"),
        ):
            if began.get(key, now) != now:  # runs of before it was kept have none
                raise TrainingError(
                    f"{self.path}: was started on other {kind}; give the same by --data, or start "
                    "a new run"
                )
        # Nor do they know names.
        labels = tuple(began.get("labels", splits.labels))
        if labels != splits.labels:
            raise TrainingError(
                f"{self.path}: was started with the classes {', '.join(labels)}, these are "
                f"{', '.join(splits.labels)}; name them as they were, or start a new run"
            )

    def save(self, checkpoint: Mapping[str, Any], log: Log) -> None:
        """Replace the checkpoint and the log. Raises: TrainingError where the disk refuses."""
        import torch

        buffer = io.BytesIO()
        torch.save(dict(checkpoint), buffer)
        self._write(CHECKPOINT_FILE, buffer.getvalue())
        self._write(LOG_FILE, "".join(json.dumps(line) + "\n" for line in log).encode())

    def has_checkpoint(self) -> bool:
        """Whether there is something to go on from."""
        return (self.path / CHECKPOINT_FILE).exists()

    def load(self) -> dict[str, Any]:
        """Read the checkpoint. Raises: TrainingError where there is none or it is broken."""
        import torch

        file = self.path / CHECKPOINT_FILE
        try:
            loaded: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise TrainingError(f"{file}: missing; the run has saved nothing yet") from None
        except Exception as error:  # torch.load raises whatever its unpickler does
            raise TrainingError(f"{file}: not readable: {first_line(error)}") from None
        if not isinstance(loaded, dict) or not loaded.keys() >= {"model", "log", "best"}:
            raise TrainingError(f"{file}: no checkpoint of a run")
        return loaded

    def _write(self, name: str, data: bytes) -> None:
        write_file(self.path / name, data)


def best_entry(log: Log) -> Mapping[str, Any]:
    """The epoch with the highest validation accuracy; of equals, the one with the lower loss."""
    return max(log, key=lambda entry: (entry["validation_accuracy"], -entry["validation_loss"]))


def new_run_folder(recipe_name: str) -> Path:
    """Make `runs/<recipe>-<time>`, in UTC, with a number behind it where another run has that.

    Raises: TrainingError where it cannot be made.
    """
    first = Path("runs") / f"{Path(recipe_name).stem}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    path, number = first, 1
    try:
        first.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                path.mkdir()
            except FileExistsError:
                number += 1
                path = first.with_name(f"{first.name}-{number}")
            else:
                return path
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be made: {error.strerror}; name another with --run"
        ) from None


def describe_environment(data: Path, splits: Splits) -> dict[str, Any]:
    """What a run's result depends on beside its recipe."""
    from training.datasets.base import channel_statistics

    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": str(data),
        "dataset_sha256": splits.sha256,
        "validation_sha256": splits.validation_sha256,
        "labels": splits.labels,
        "train_images": len(splits.train),
        "validation_images": len(splits.validation),
        "train_statistics": channel_statistics(splits.train.images)._asdict(),
        "git_commit": commit_of(Path(__file__)),
        "hardware": describe_hardware(),
        "versions": {"python": platform.python_version(), **_library_versions()},
    }


def describe_hardware() -> str:
    """The processors that train, in a few words."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return describe_processor()


def describe_processor() -> str:
    """The CPU of this machine."""
    return f"{os.cpu_count()} cores, {_cpu_name()}"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _library_versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except ModuleNotFoundError:  # onnxruntime goes by onnxruntime-gpu where that is installed
            found[library] = version(f"{library}-gpu")
    return found


def commit_of(file: Path) -> str | None:
    """The commit of a file of code, with `-dirty` where tracked files have changed since.

    None where git does not know the file.
    """
    try:
        # Code installed in an environment inside another project is not of that one's commit.
        _git(file.parent, "ls-files", "--error-unmatch", file.name)
        return _git(file.parent, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):  # installed, or git is not
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()
