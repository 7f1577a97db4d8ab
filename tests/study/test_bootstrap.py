"""Intervals against what theory says of them."""

import numpy as np
import pytest

from hybrid_dense.study.bootstrap import compare, draw_images
from hybrid_dense.study.scores import Rights


def rights(share: float, images: int = 1000, seed: int = 0) -> Rights:
    return Rights(np.random.default_rng(seed).random(images) < share)


def test_resamples_have_as_many_images_as_there_are():
    parts = list(draw_images(np.random.default_rng(0), images=7, resamples=10, at_once=4))
    assert [part.shape for part in parts] == [(4, 7), (4, 7), (2, 7)]
    weights = np.concatenate(parts)
    assert (weights.sum(1) == 7).all()
    assert len(np.unique(weights, axis=0)) == 10


def test_the_interval_of_an_accuracy_is_the_binomials():
    scores = rights(0.8)
    found = compare(dict(a=[scores]), "a").models["a"]
    value = scores.right.mean()
    half = 1.96 * np.sqrt(value * (1 - value) / 1000)
    assert found.value == pytest.approx(value)
    assert (found.low, found.high) == (pytest.approx(value - half, abs=0.003), pytest.approx(value + half, abs=0.003))


def test_equal_models_do_not_differ():
    found = compare(dict(a=[rights(0.8)], b=[rights(0.8)]), "a").above["b"]
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_models_that_differ_by_chance_only_may_be_equal():
    found = compare(dict(a=[rights(0.8, seed=1)], b=[rights(0.8, seed=2)]), "a").above["b"]
    assert found.low < 0 < found.high
    assert 0.01 < found.p < 0.99


def test_a_paired_difference_is_sharper_than_two_intervals():
    """One model is right wherever the other is and on 30 images more: the difference is beyond chance."""
    low = rights(0.8)
    right = low.right.copy()
    right[np.flatnonzero(~right)[:30]] = True
    found = compare(dict(a=[Rights(right)], b=[low]), "a")
    assert found.models["a"].low < found.models["b"].high
    difference = found.above["b"]
    half = 1.96 * np.sqrt(0.03 * 0.97 / 1000)  # 30 of 1000 images differ, all in one direction
    assert difference.low == pytest.approx(0.03 - half, abs=0.002)
    assert difference.high == pytest.approx(0.03 + half, abs=0.002)
    assert difference.p == 0


def test_where_less_is_better_the_same_difference_speaks_against_the_reference():
    models = dict(a=[rights(0.85)], b=[rights(0.7)])
    assert compare(models, "a").above["b"].p == 0
    assert compare(models, "a", higher_is_better=False).above["b"].p == 1


def test_seeds_that_differ_widen_the_interval():
    """Two seeds of 1 and 0 with no noise between images: resampled means are 0, a half or 1, one to two to one."""
    seeds = [Rights(np.ones(5, bool)), Rights(np.zeros(5, bool))]
    found = compare(dict(a=seeds), "a").models["a"]
    assert (found.value, found.low, found.high) == (0.5, 0, 1)
    one = compare(dict(a=seeds[:1]), "a").models["a"]
    assert (one.low, one.high) == (1, 1)


def test_the_same_seed_gives_the_same_interval():
    models = dict(a=[rights(0.8)], b=[rights(0.7, seed=3)])
    assert compare(models, "a") == compare(models, "a")
    assert compare(models, "a", seed=1) != compare(models, "a")


def test_scores_of_different_images_are_refused():
    with pytest.raises(ValueError, match=r"different images cannot be compared: \[5, 6\]"):
        compare(dict(a=[rights(0.5, 5)], b=[rights(0.5, 6)]), "a")


def test_a_missing_reference_compares_nothing():
    assert compare(dict(b=[rights(0.5, 5)]), "a").above == {}
