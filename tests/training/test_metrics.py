"""Figures of quality: the same as scikit-learn's, and what a hand can work out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn

from training.datasets import Split
from training.measure import measure
from training.metrics import (
    calibration_error,
    decide,
    describe_share,
    per_class,
    roc_auc,
    share_right,
    top_accuracy,
    wilson_interval,
)

RANDOM = np.random.default_rng(0)
CLASSES = 8
SCORES = RANDOM.dirichlet(np.ones(CLASSES), 300).astype(np.float32)
LABELS = np.where(RANDOM.random(300) < 0.5, SCORES.argmax(axis=1), RANDOM.integers(0, 7, 300))
SEVERAL = RANDOM.integers(0, 2, (300, 3), np.uint8)


def split_of(labels: np.ndarray) -> Split:
    return Split(np.zeros((len(labels), 1, 1, 3), np.uint8), labels, "made")


def test_figures_of_one_label_are_scikit_learns() -> None:
    quality = measure(split_of(LABELS), SCORES)
    predicted, classes = SCORES.argmax(axis=1), np.arange(CLASSES)
    theirs = sklearn.precision_recall_fscore_support(
        LABELS, predicted, labels=classes, zero_division=0
    )
    np.testing.assert_allclose((quality.precision, quality.recall, quality.f1), theirs[:3])
    assert quality.accuracy == pytest.approx(sklearn.accuracy_score(LABELS, predicted))
    assert quality.top5_accuracy == pytest.approx(
        sklearn.top_k_accuracy_score(LABELS, SCORES, k=5, labels=classes)
    )
    assert np.array_equal(
        quality.confusion, sklearn.confusion_matrix(LABELS, predicted, labels=classes)
    )
    assert quality.roc_auc == ()


def test_figures_of_several_labels_are_scikit_learns() -> None:
    scores = np.round(0.3 * SEVERAL + 0.7 * RANDOM.random(SEVERAL.shape), 1).astype(np.float32)
    thresholds = (0.35, 0.55, 0.75)
    quality = measure(split_of(SEVERAL), scores, thresholds)
    given = scores > np.array(thresholds)
    theirs = sklearn.precision_recall_fscore_support(SEVERAL, given, zero_division=0)
    np.testing.assert_allclose((quality.precision, quality.recall, quality.f1), theirs[:3])
    assert quality.accuracy == pytest.approx(sklearn.accuracy_score(SEVERAL, given))
    assert quality.macro_f1 == pytest.approx(sklearn.f1_score(SEVERAL, given, average="macro"))
    areas = sklearn.roc_auc_score(SEVERAL, scores, average=None)  # rounding makes many ties
    assert quality.roc_auc == pytest.approx(areas)
    assert (quality.confusion, quality.top5_accuracy) == ((), None)


def test_macro_f1_is_of_the_classes_that_there_are_images_of() -> None:
    labels = np.array([0, 0, 1, 1])
    scores = np.eye(10, dtype=np.float32)[[0, 0, 1, 7]]
    quality = measure(split_of(labels), scores)
    theirs = sklearn.f1_score(labels, scores.argmax(axis=1), labels=[0, 1], average="macro")
    assert quality.macro_f1 == pytest.approx(theirs)
    assert measure(split_of(np.zeros((2, 3), np.uint8)), scores[:2, :3]).macro_f1 is None


def test_two_classes_have_an_area_under_the_curve() -> None:
    labels, second = SEVERAL[:, 0].astype(np.int64), SCORES[:, 0]
    quality = measure(split_of(labels), np.stack([1 - second, second], axis=1))
    area = sklearn.roc_auc_score(labels, second)
    assert quality.roc_auc == pytest.approx((area, area))
    assert roc_auc(np.ones(3, bool), SCORES[:3, 0]) is None


def test_a_label_counts_above_one_half_unless_told_otherwise() -> None:
    labels = np.array([[1, 0], [1, 1]], np.uint8)
    scores = np.array([[0.6, 0.5], [0.4, 0.9]], np.float32)
    truth, given = decide(labels, scores)
    assert given.tolist() == [[True, False], [False, True]]
    assert per_class(truth, given)[1].tolist() == [0.5, 1.0]
    assert decide(labels, scores, (0.3, 0.5))[1].tolist() == [[True, False], [True, True]]


def test_figures_of_four_images() -> None:
    labels = np.array([0, 0, 1, 1])
    scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]], np.float32)
    quality = measure(split_of(labels), scores)
    assert quality.confusion == ((1, 1), (0, 2))
    assert quality.accuracy == 0.75
    # Four bins of one image each: |0.9 - 1|, |0.6 - 0|, |0.8 - 1|, |0.7 - 1|, averaged.
    assert calibration_error(labels, scores) == pytest.approx(0.3)


def test_calibration_of_several_labels_counts_each() -> None:
    labels = np.array([[1, 0], [1, 0]], np.uint8)
    scores = np.array([[0.9, 0.3], [0.9, 0.0]], np.float32)
    assert calibration_error(labels, scores) == pytest.approx((0.1 + 0.3 + 0.1 + 0.0) / 4)


@pytest.mark.parametrize(
    ("right", "images", "interval"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I.
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_interval_of_a_share(right: int, images: int, interval: tuple[float, float]) -> None:
    assert wilson_interval(right, images) == pytest.approx(interval, abs=5e-5)


def test_a_share_is_printed_with_its_interval() -> None:
    assert describe_share(935 / 1000, 1000) == "93.50% (91.80-94.87)"
    assert describe_share(1.0, 5000) == "100.00% (99.92-100.00)"


def test_top_one_is_the_accuracy() -> None:
    assert top_accuracy(LABELS, SCORES, 1) == (SCORES.argmax(axis=1) == LABELS).mean()


def test_share_right_is_by_the_labels_own_thresholds() -> None:
    labels = np.array([[1, 0], [0, 1]], np.uint8)
    probabilities = np.array([[0.4, 0.1], [0.2, 0.7]], np.float32)
    assert share_right(labels, probabilities) == 0.5
    assert share_right(labels, probabilities, (0.3, 0.5)) == 1.0
    assert share_right(labels, probabilities, (0.3, 0.05)) == 0.5
