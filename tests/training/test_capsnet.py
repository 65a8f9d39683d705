"""Capsules: squash and routing against the paper's formulas, safe where nothing is to be seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from convoy.imaging import InputSpec
from tests.training.colours import tiny_recipe
from training.classifier import Classifier
from training.deployed import Deployed, to_onnx
from training.errors import TrainingError
from training.measure import OnnxModel
from training.networks import make_network
from training.networks.capsnet import Routing, squash
from training.recipe import Network

SMALL = {"name": "capsnet", "filters": 4, "kernel": 3, "capsules": 2, "capsule_size": 4}


def test_squash_is_the_paper_s() -> None:
    vectors = torch.randn(5, 7)
    length = vectors.norm(dim=-1, keepdim=True)
    expected = length**2 / (1 + length**2) * vectors / length
    torch.testing.assert_close(squash(vectors), expected)
    # Even the longest vectors stay probabilities.
    assert squash(torch.full((1, 4), 1e6)).norm() <= 1.0


def test_squash_is_safe_at_zero() -> None:
    zeros = torch.zeros(2, 3, requires_grad=True)
    squash(zeros).sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(squash(zeros), torch.zeros(2, 3))
    assert torch.equal(zeros.grad, torch.zeros(2, 3))


def test_an_empty_image_teaches_nothing_but_finite_numbers() -> None:
    network = make_network(Network.model_validate(SMALL), (1, 12, 12), 3)
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    lengths = network(torch.zeros(2, 1, 12, 12))
    lengths.sum().backward()
    assert torch.equal(lengths, torch.zeros(2, 3))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_routing_is_the_paper_s_procedure() -> None:
    route = Routing(inputs=5, size=4, outputs=3, out_size=6, rounds=3)
    torch.nn.init.normal_(route.predict)
    capsules = torch.randn(2, 5, 4)
    weights = route.predict.detach().reshape(5, 4, 3, 6).numpy()
    expected = np.stack([routed(one, weights, rounds=3) for one in capsules.numpy()])
    torch.testing.assert_close(route(capsules).detach(), torch.from_numpy(expected))


def routed(
    capsules: NDArray[np.float32], weights: NDArray[np.float32], rounds: int
) -> NDArray[np.float32]:
    """Procedure 1 of the paper for one image, line by line."""
    predicted = np.einsum("id,idjo->ijo", capsules, weights)
    b = np.zeros(predicted.shape[:2], np.float32)
    for _ in range(rounds):
        c = np.exp(b) / np.exp(b).sum(axis=1, keepdims=True)
        s = np.einsum("ij,ijo->jo", c, predicted)
        squared = (s**2).sum(axis=1, keepdims=True)
        v = squared / (1 + squared) * s / np.sqrt(squared)
        b = b + np.einsum("ijo,jo->ij", predicted, v)
    return v


def test_the_graph_takes_any_batch_and_agrees() -> None:
    recipe = tiny_recipe(network=SMALL, objective="margin", channels=1)
    spec = InputSpec(height=14, width=12, channels=1)
    deployed = Deployed(Classifier(recipe, spec, 3)).eval()
    images = np.random.default_rng(0).integers(0, 256, (5, *spec.shape), np.uint8)
    images[0] = 0
    model = OnnxModel(to_onnx(deployed, spec))
    for size in (1, 5):
        np.testing.assert_allclose(model(images[:size]), deployed.predict(images[:size]), atol=1e-5)


def test_images_smaller_than_the_kernels_are_refused() -> None:
    with pytest.raises(TrainingError, match="two kernels of 9 pixels need images of 17 pixels"):
        make_network(Network(name="capsnet"), (3, 16, 16), 10)
