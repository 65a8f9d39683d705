"""The lines between the packages and inside them, held by walking the imports.

A new module goes into LAYERS below, one line above the highest module that it imports.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FORBIDDEN = {
    "convoy": {"service", "training", "torch", "torchvision", "onnx", "onnxruntime"},
    "service": {"training", "torch", "torchvision", "onnx", "onnxscript", "matplotlib"},
    "training": {"service"},
}

# From the ground up; a module imports from its own line and from the lines before it. A package
# named here stands for all of its modules.
LAYERS: dict[str, list[tuple[str, ...]]] = {
    "convoy": [
        ("v1", "arguments", "console", "errors", "files", "processors"),
        ("jpeg", "resizing", "tiff"),
        ("image_files",),
        ("imaging",),
        ("manifest", "golden"),
        ("bundle",),
        ("client.errors",),
        ("client.inputs", "client.retry", "client.signals", "client.types"),
        ("client.channel", "client.chunks", "client.steps"),
        ("client.joining", "client.plan"),
        ("client.base",),
        ("client.coalesce", "client.control"),
        ("client.sync", "client.aio"),
        ("client",),
        ("",),
        ("commands",),
        ("cli",),
    ],
    "service": [
        (
            "arena",
            "awake",
            "backoff",
            "compiled",
            "cuda",
            "drift",
            "errors",
            "logs",
            "memory",
            "scheduling",
            "shares",
            "watching",
        ),
        (
            "deadlines",
            "decode_process",
            "devices",
            "gate",
            "intake",
            "interpreter",
            "lines",
            "listening",
            "names",
            "packing",
            "ready",
            "settings",
            "status",
            "streaming",
            "wire",
        ),
        (
            "admission",
            "batching",
            "cache",
            "fork_server",
            "metrics",
            "models_file",
            "nvml",
            "session",
            "worker",
        ),
        ("bound", "decode_channel", "tuning"),
        ("decoding", "loading", "served"),
        ("opening", "repository"),
        ("choice", "retirement", "shadow", "versions"),
        ("keeper",),
        ("control", "trials"),
        ("images", "replies"),
        ("pipeline",),
        ("health", "methods", "oip"),
        ("rpcs",),
        ("carrier",),
        ("rest", "stream_calls"),
        ("fronts", "http"),
        ("server", "supervisor"),
        ("application",),
        ("",),
        ("cli",),
    ],
    "training": [
        ("errors", "interrupts", "jpeg", "memory"),
        ("files",),
        ("metrics", "recipe"),
        ("augment", "datasets", "networks", "objectives"),
        ("classifier", "measure", "runs", "temperature", "thresholds"),
        ("batchnorm", "deployed", "listing", "optimize", "progress", "tracking"),
        ("distributed",),
        ("feed", "onnx_foreign", "state"),
        ("onnx_prove", "onnx_wrap", "precision", "report", "speed", "train"),
        ("comparison", "new_bundle"),
        ("evaluate", "export", "preview", "summary"),
        ("compare", "importer"),
        ("bundle_commands", "fit", "import_command"),
        ("",),
        ("cli",),
        ("__main__",),
    ],
}
PACKAGES = list(LAYERS)


def modules(package: str) -> dict[str, ast.Module]:
    """Every module of a package by its full name, generated code left out."""
    found = {}
    for file in sorted((ROOT / package).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        if parts[:2] != ("convoy", "v1") and "_pb2" not in parts[-1]:
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(file.read_text(), file.name)
    return found


def imported(tree: ast.Module) -> Iterator[str]:
    """Full names of what a module imports, wherever in it, but for the eyes of a type checker."""
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse
        else:
            nodes += ast.iter_child_nodes(node)


def edges(package: str) -> dict[str, set[str]]:
    """Which modules of the package each of its modules imports."""
    trees = modules(package)
    graph: dict[str, set[str]] = {}
    for name, tree in trees.items():
        targets = {
            target if target in trees else target.rpartition(".")[0]
            for target in imported(tree)
            if target.split(".")[0] == package
        }
        graph[name] = (targets & trees.keys()) - {name}
    return graph


def layer(package: str, module: str) -> int:
    """Place of a module in the list of layers, from 0."""
    inside = module.removeprefix(package).removeprefix(".")
    for index, names in enumerate(LAYERS[package]):
        if inside in names or inside.partition(".")[0] in names:
            return index
    raise AssertionError(f"{module} is in no layer: add it to LAYERS in {Path(__file__).name}")


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_imports_what_it_must_not(package: str) -> None:
    wrong = {
        f"{name} imports {target}"
        for name, tree in modules(package).items()
        for target in imported(tree)
        if target.split(".")[0] in FORBIDDEN[package]
    }
    assert not wrong


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_from_a_layer_above_its_own(package: str) -> None:
    wrong = {
        f"{name} imports {target}"
        for name, targets in edges(package).items()
        for target in targets
        if layer(package, target) > layer(package, name)
    }
    assert not wrong


@pytest.mark.parametrize("package", PACKAGES)
def test_there_are_no_import_cycles(package: str) -> None:
    try:
        TopologicalSorter(edges(package)).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


HEAVY = {
    "convoy.cli": {"numpy", "PIL", "pydantic", "grpc", "google.protobuf"},
    "service.cli": {"numpy", "PIL", "onnxruntime", "grpc", "prometheus_client"},
    "training.cli": {"numpy", "torch", "torchvision", "onnx", "onnxruntime", "matplotlib"},
}


@pytest.mark.parametrize("module", HEAVY)
def test_a_command_starts_without_its_heavy_imports(module: str) -> None:
    script = f"import sys, {module}; print(*({HEAVY[module]!r} & sys.modules.keys()))"
    result = subprocess.run(
        [sys.executable, "-c", script], check=True, cwd=ROOT, capture_output=True, text=True
    )
    assert result.stdout.split() == []


def test_the_service_runs_where_nothing_of_the_training_is_installed() -> None:
    script = f"""
import sys
for name in {sorted(FORBIDDEN["service"])!r}:
    sys.modules[name] = None
import service.cli, service.server
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_imports_inside_functions_are_seen() -> None:
    """The walk above is worth nothing if it misses the lazy imports of the commands."""
    assert {"service.settings", "service.server"} <= edges("service")["service.cli"]


WALL_CLOCK = {"time.time", "time.time_ns", "datetime.datetime", "datetime.date"}


def test_no_wall_clock_decides_anything() -> None:
    """It may jump. It is only told: when a model answered last."""
    readers = {
        name
        for package in ("convoy", "service")
        for name, tree in modules(package).items()
        if WALL_CLOCK.intersection(imported(tree))
        or WALL_CLOCK.intersection(
            ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)
        )
    }
    assert readers == {"service.replies"}


def test_what_watches_over_envoy_takes_no_pixels() -> None:
    asked = "import sys, service.supervisor; print(sorted({'numpy', 'PIL'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"
