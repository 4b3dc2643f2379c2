import numpy as np
import pytest

from models.manifest import Histogram
from models.profile import count_into, project, projection_directions, stability_index


def test_directions_are_the_same_from_the_same_seed_on_every_machine():
    drawn = projection_directions(3, 2, seed=7)
    expected = [[0.963884, -0.265663, 0.018713], [0.458935, -0.888467, 0.002326]]
    assert np.allclose(drawn, expected, atol=1e-5)


def test_directions_are_unit_vectors_and_differ_by_seed():
    drawn = projection_directions(384, 8, seed=0)
    assert drawn.shape == (8, 384)
    assert np.allclose(np.linalg.norm(drawn, axis=1), 1)
    assert not np.allclose(drawn, projection_directions(384, 8, seed=1))


def test_more_directions_begin_with_the_same_ones():
    assert np.array_equal(projection_directions(5, 9, 3)[:4], projection_directions(5, 4, 3))


def test_a_projection_is_the_inner_product_with_each_direction():
    embeddings = np.eye(3, dtype=np.float32)
    assert np.allclose(project(embeddings, 2, 7), projection_directions(3, 2, 7).T)


def test_a_bin_holds_its_lower_edge_and_the_outer_bins_what_lies_beyond():
    counted = count_into((1, 2, 4, 8), np.array([-5, 1, 2, 3, 4, 8, 900]))
    assert counted.counts == [2, 2, 3]
    assert counted.edges == [1, 2, 4, 8]


def test_no_values_are_counted_as_none():
    assert count_into((0, 1, 2), np.array([])).counts == [0, 0]


def test_equal_shares_are_stable_whatever_the_number_of_texts():
    few, many = (Histogram(edges=[0, 1, 2], counts=[50 * n, 150 * n]) for n in (1, 40))
    assert stability_index(few, few) == 0
    assert stability_index(few, many) < 0.001


def test_the_index_is_the_sum_over_bins_that_its_source_gives():
    before, after = (Histogram(edges=[0, 1, 2], counts=c) for c in ([7000, 3000], [4000, 6000]))
    by_hand = (0.7 - 0.4) * np.log(0.7 / 0.4) + (0.3 - 0.6) * np.log(0.3 / 0.6)
    assert stability_index(before, after) == pytest.approx(by_hand, rel=0.001)  # half counts


def test_an_empty_bin_gives_a_large_number_and_not_infinity():
    before, after = (Histogram(edges=[0, 1, 2], counts=c) for c in ([100, 0], [0, 100]))
    assert 5 < stability_index(before, after) < 20
