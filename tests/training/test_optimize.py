"""The learning rate over the steps of a run."""

from __future__ import annotations

import pytest
import torch

from tests.training.colours import tiny_recipe
from training.optimize import make_optimizer, make_schedule


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 40])
@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
def test_a_run_of_any_length_has_a_rate_at_every_step(steps: int, schedule: str) -> None:
    """With 4 steps, the default warm-up is exactly one."""
    recipe = tiny_recipe(schedule=schedule, learning_rate=0.5)
    optimizer = make_optimizer(recipe, torch.nn.Linear(2, 2))
    scheduler = make_schedule(recipe, optimizer, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert all(0 <= rate <= 0.5 for rate in rates)
    assert steps < 40 or max(rates) == pytest.approx(0.5, rel=0.05)
