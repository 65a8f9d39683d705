"""Every shipped recipe, from images to answers over the network: trained, exported, served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convoy.bundle import Bundle
from convoy.v1 import image_classifier_pb2 as pb
from tests.servers import running_server
from tests.training.sources import write_source
from training.cli import main
from training.recipe import SHIPPED, load_recipe

QUICK = ["epochs=1", "batch_size=8"]
OWN = {"finetune": ["network.weights=none", "image_size=64"]}
"""What only a user's machine has, and what takes long."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(file.stem for file in SHIPPED.glob("*.toml")))
def test_a_recipe_s_bundle_is_served(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    data = write_source(recipe, tmp_path / "data")
    sets = [word for change in QUICK + OWN.get(name, []) for word in ("--set", change)]
    options = ["--data", str(data), "--run", str(tmp_path / "run"), *sets]
    assert main(["fit", name, *options, "--models", str(tmp_path / "models")]) == 0

    bundle = Bundle.open(tmp_path / "models" / recipe.name / "1")
    golden = bundle.golden()
    classes = golden.probabilities.shape[1]
    request = pb.ClassifyRequest(
        images=[pb.Image(encoded=data) for data in golden.encoded], top_k=classes
    )
    with running_server(tmp_path / "models") as server, server.stub() as stub:
        reply = stub.Classify(request)
    served = np.zeros_like(golden.probabilities)
    for row, prediction in zip(served, reply.predictions, strict=True):
        for score in prediction.classes:
            row[score.index] = score.probability
    assert (reply.model, reply.version) == (recipe.name, 1)
    np.testing.assert_allclose(served, golden.probabilities, atol=1e-5)
