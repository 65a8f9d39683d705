"""What a model predicts against its baseline: the index, the window, a real server's gauges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from convoy.bundle import Baseline, Manifest
from convoy.v1 import image_classifier_pb2 as pb
from service.drift import LEAST, MOST_BINS, SLOTS, Drift, stability_index
from service.errors import ModelFailure
from tests.bundles import COLOURS, make_bundle
from tests.servers import Running, running_server
from tests.service.clock import Clock

# The network of tests.bundles is sure of a saturated colour: all are in the last bin.
SURE = (0.0,) * 19 + (1.0,)
EVEN = Baseline(split="test", class_shares=(1 / 3,) * 3, confidence_shares=SURE)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return make_bundle(tmp_path).manifest


def rows(classes: Sequence[int], sure: float = 1.0, of: int = 3) -> NDArray[np.float32]:
    """Answers [N, of] that give `sure` to these classes and nothing to the others."""
    answers = np.zeros((len(classes), of), np.float32)
    answers[np.arange(len(classes)), classes] = sure
    return answers


def even(count: int = LEAST) -> NDArray[np.float32]:
    return rows([one % 3 for one in range(count)])


@pytest.mark.parametrize(
    ("live", "baseline", "index"),
    [
        # 0.2997 x (ln(0.7997 / 0.5) + ln(0.5 / 0.2003)), every share smoothed
        ((0.5, 0.5), (0.8, 0.2), 0.41491),
        # 0.4995 x (ln(0.5 / 0.0004995) + ln(0.9995 / 0.5)): an empty bin counts, and is finite
        ((0.0, 1.0), (0.5, 0.5), 3.79690),
        ((0.2, 0.3, 0.5), (0.2, 0.3, 0.5), 0.0),
    ],
)
def test_the_index_by_hand(
    live: tuple[float, ...], baseline: tuple[float, ...], index: float
) -> None:
    there, back = np.array(live), np.array(baseline)
    assert stability_index(there, back) == pytest.approx(index, abs=1e-5)
    assert stability_index(back, there) == pytest.approx(index, abs=1e-5)


def test_the_index_that_chance_gives_is_what_theory_says() -> None:
    random = np.random.default_rng(1)
    shares, live, before = np.full(10, 0.1), 2000, 1000
    drawn = stability_index(
        random.multinomial(live, shares, 2000) / live,
        random.multinomial(before, shares, 2000) / before,
    )
    assert drawn.mean() == pytest.approx(9 * (1 / live + 1 / before), rel=0.05)


def test_too_few_predictions_say_nothing(manifest: Manifest) -> None:
    drift = Drift(manifest, EVEN, window=60.0)
    drift.observe([even(LEAST - 1)])
    assert drift.read() == (LEAST - 1, {})
    drift.observe([ModelFailure("no answer")])
    assert drift.read() == (LEAST - 1, {})
    drift.observe([ModelFailure("no answer"), even(1)])
    predictions, found = drift.read()
    assert (predictions, set(found)) == (LEAST, {"classes", "confidence"})


def test_classes_and_confidence_move_by_themselves(manifest: Manifest) -> None:
    others, less_sure = Drift(manifest, EVEN, window=60.0), Drift(manifest, EVEN, window=60.0)
    others.observe([rows([0] * LEAST)])
    less_sure.observe([even() * np.float32(0.6)])
    _, found = others.read()
    assert found["classes"] > 1
    assert found["confidence"] == pytest.approx(0.0, abs=0.01)
    _, found = less_sure.read()
    assert found["classes"] == pytest.approx(0.0, abs=0.01)
    assert found["confidence"] > 1


def test_confidences_fall_into_the_bins_of_training(manifest: Manifest) -> None:
    """Edges included, and numbers that are no probabilities do no harm."""
    confidences = np.random.default_rng(1).integers(0, 41, LEAST).astype(np.float32) / 40
    shares = np.histogram(confidences, 20, range=(0.0, 1.0))[0] / LEAST
    baseline = EVEN.model_copy(update={"confidence_shares": tuple(shares)})
    drift = Drift(manifest, baseline, window=60.0)
    drift.observe([rows([0] * LEAST) * confidences[:, None]])
    assert drift.read()[1]["confidence"] == pytest.approx(0.0, abs=1e-9)
    drift.observe([np.array([[-3.0, -1.0, -2.0], [1e38, 0.0, 0.0]], np.float32)])
    assert drift.read()[0] == LEAST + 2


def test_what_is_older_than_the_window_is_forgotten(manifest: Manifest) -> None:
    clock = Clock()
    drift = Drift(manifest, EVEN, window=60.0, clock=clock)
    for _ in range(SLOTS):
        drift.observe([even(100)])
        clock.now += 60.0 / SLOTS
    assert drift.read()[0] == 100 * (SLOTS - 1)
    drift.observe([even(7)])
    assert drift.read()[0] == 100 * (SLOTS - 1) + 7
    clock.now += 1e6
    assert drift.read() == (0, {})
    drift.observe([even(1)])
    assert drift.read()[0] == 1


def test_of_many_classes_neighbours_are_taken_together(manifest: Manifest) -> None:
    """Else chance alone would look like drift: 1,000 predictions of 1,000 classes."""
    count = 20 * MOST_BINS
    many = manifest.model_copy(update={"labels": tuple(map(str, range(count)))})
    baseline = EVEN.model_copy(update={"class_shares": (1 / count,) * count})
    random = np.random.default_rng(1)
    for most, drifted in ((count, False), (count // 10, True)):
        drift = Drift(many, baseline, window=60.0)
        drift.observe([rows(random.integers(0, most, LEAST).tolist(), of=count)])
        assert (drift.read()[1]["classes"] > 0.25) is drifted


def test_of_several_labels_the_one_that_moved_most_counts(manifest: Manifest) -> None:
    several = manifest.model_copy(update={"task": "multi-label", "thresholds": (0.2, 0.5, 0.8)})
    baseline = EVEN.model_copy(update={"label_shares": (1.0, 0.5, 0.0)})
    drift = Drift(several, baseline, window=60.0)
    drift.observe([np.array([[0.3, 0.6, 0.7], [0.3, 0.4, 0.7]] * (LEAST // 2), np.float32)])
    assert drift.read()[1]["classes"] == pytest.approx(0.0, abs=1e-9)
    drift.observe([np.array([[0.3, 0.6, 0.7]] * LEAST, np.float32)])
    moved = stability_index(np.array([0.75, 0.25]), np.array([0.5, 0.5]))
    assert drift.read()[1]["classes"] == pytest.approx(float(moved))


def test_an_older_bundle_of_several_labels_is_watched_by_confidence(manifest: Manifest) -> None:
    several = manifest.model_copy(update={"task": "multi-label"})
    drift = Drift(several, EVEN, window=60.0)
    drift.observe([even()])
    assert set(drift.read()[1]) == {"confidence"}


def send(server: Running, shares: Sequence[int]) -> None:
    """Images of the saturated colours, so many of each."""
    pixels = np.zeros((sum(shares), 32, 32, 3), np.uint8)
    for image, colour in zip(pixels, np.repeat(range(3), shares), strict=True):
        image[..., colour] = 255
    images = [
        pb.Image(pixels=pb.Pixels(height=32, width=32, channels=3, data=one.tobytes()))
        for one in pixels
    ]
    with server.stub() as stub:
        stub.Classify(pb.ClassifyRequest(images=images, model="tiny"))


@pytest.mark.usefixtures("front")
def test_skewed_answers_raise_the_gauge_and_balanced_ones_do_not(tmp_path: Path) -> None:
    make_bundle(tmp_path, baseline=EVEN)
    make_bundle(tmp_path, "unwatched", labels=COLOURS)
    with running_server(tmp_path) as server:
        send(server, (85, 85, 85))
        assert server.metric("convoy_drift_predictions", model="tiny", version="1") == 255
        assert "convoy_drift_psi{" not in server.get("/metrics")
        for _ in range(3):
            send(server, (85, 85, 85))
        assert server.metric("convoy_drift_predictions", model="tiny") == 1020
        for of in ("classes", "confidence"):
            assert f'convoy_drift_psi{{model="tiny",of="{of}",version="1"}}' in server.get(
                "/metrics"
            )
            assert server.metric("convoy_drift_psi", of=of) < 0.01
        for _ in range(4):
            send(server, (250, 5, 0))
        # Red is two thirds now, green and blue a sixth: ln(2) / 3 + 2 ln(2) / 6, or a little less.
        assert server.metric("convoy_drift_psi", of="classes") == pytest.approx(0.46, abs=0.05)
        assert server.metric("convoy_drift_psi", of="confidence") < 0.01
        assert 'convoy_drift_predictions{model="unwatched"' not in server.get("/metrics")
