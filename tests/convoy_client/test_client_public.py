from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import convoy
from convoy.client import errors as client_errors
from convoy.errors import ConvoyError


def test_public_names_are_sorted_and_importable():
    assert convoy.__all__ == sorted(convoy.__all__)
    assert all(hasattr(convoy, name) for name in convoy.__all__)
    assert dir(convoy) == convoy.__all__
    with pytest.raises(AttributeError, match="no attribute 'Client'"):
        _ = convoy.Client


def test_every_error_is_public_and_in_the_drawn_tree():
    errors = {
        name: one
        for name, one in vars(client_errors).items()
        if inspect.isclass(one) and issubclass(one, ConvoyError)
    }
    assert errors.keys() <= set(convoy.__all__)
    assert all(f"── {name}" in client_errors.__doc__ for name in errors.keys() - {"ConvoyError"})


def test_both_clients_have_the_same_methods():
    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(one).parameters)
            for name, one in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_") or name == "__init__"
        }

    assert methods(convoy.ImageClient) == methods(convoy.AsyncImageClient)


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import convoy", ["grpc", "numpy", "PIL", "pydantic"]),
        ("import convoy; convoy.ImageClient", ["numpy", "PIL", "pydantic"]),
        ("import convoy.cli", ["grpc", "numpy", "PIL"]),
    ],
)
def test_importing_is_light(code, absent):
    check = f"{code}; import sys; sys.exit(str(set({absent}) & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.stderr.strip() == ""
