"""Objectives: losses against PyTorch's and the paper's, probabilities against their meaning."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.training.colours import tiny_recipe
from training.errors import TrainingError
from training.objectives import make_objective


def test_softmax_is_cross_entropy() -> None:
    objective = make_objective(tiny_recipe(label_smoothing=0.1))
    logits, classes = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    expected = F.cross_entropy(logits, classes, label_smoothing=0.1)
    torch.testing.assert_close(objective.loss(logits, classes), expected)
    torch.testing.assert_close(objective.probabilities(logits).sum(dim=1), torch.ones(6))


def test_sigmoid_is_softmax_over_zero_and_its_output() -> None:
    objective = make_objective(tiny_recipe(objective="sigmoid"))
    output, classes = torch.randn(6, 1), torch.tensor([0, 1, 1, 0, 1, 0])
    both = torch.cat([torch.zeros(6, 1), output], dim=1)
    torch.testing.assert_close(objective.loss(output, classes), F.cross_entropy(both, classes))
    torch.testing.assert_close(objective.probabilities(output), both.softmax(dim=1))
    assert objective.right(torch.tensor([[2.0], [2.0]]), torch.tensor([1, 0])).tolist() == [1, 0]


def test_sigmoid_needs_two_classes() -> None:
    objective = make_objective(tiny_recipe(objective="sigmoid"))
    assert objective.outputs(2) == 1
    with pytest.raises(TrainingError, match="needs two classes, the images have 3"):
        objective.outputs(3)


def test_multi_label_counts_an_image_whose_labels_are_all_right() -> None:
    objective = make_objective(tiny_recipe(source="table", objective="multi-label"))
    logits = torch.tensor([[3.0, -3.0, 3.0], [3.0, 3.0, -3.0]])
    targets = torch.tensor([[1, 0, 1], [1, 0, 0]], dtype=torch.uint8)
    assert objective.right(logits, targets).tolist() == [True, False]
    expected = F.binary_cross_entropy_with_logits(logits, targets.float())
    torch.testing.assert_close(objective.loss(logits, targets), expected)


def test_margin_is_the_paper_s() -> None:
    objective = make_objective(tiny_recipe(objective="margin", network={"name": "capsnet"}))
    lengths = torch.tensor([[0.8, 0.3, 0.05]])
    # The right one is 0.1 too short; of the others, one is 0.2 too long.
    expected = torch.tensor(0.1**2 + 0.5 * 0.2**2)
    torch.testing.assert_close(objective.loss(lengths, torch.tensor([0])), expected)
