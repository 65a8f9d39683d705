"""tritonserver, the binary in NVIDIA's wheel, with its Python backend: how it is started."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

NAME = "triton"
PACKAGES = ("nvidia-pytriton", "tritonclient[grpc]")

_NUMBER = f"{sys.version_info.major}.{sys.version_info.minor}"


def command(python: Path, folder: Path, port: int) -> list[str]:
    """What serves `folder`/models on a port of 127.0.0.1; `folder` is its own."""
    server = _wheel(python) / "tritonserver"
    backends = folder / "backends"
    shutil.copytree(server / "backends", backends)
    stub = Path(_NUMBER, "triton_python_backend_stub")
    shutil.copy(server / "python_backend_stubs" / stub, backends / "python")
    return [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={backends}",
        f"--grpc-port={port}",
        *("--grpc-address=127.0.0.1", "--allow-http=false", "--allow-metrics=false"),
    ]


def libraries(python: Path) -> dict[str, str]:
    """Where the backend's process finds its libraries."""
    return {"LD_LIBRARY_PATH": str(_wheel(python).parent / "nvidia_pytriton.libs")}


def _wheel(python: Path) -> Path:
    return python.parents[1] / "lib" / f"python{_NUMBER}" / "site-packages" / "pytriton"
