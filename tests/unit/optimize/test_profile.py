from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from models.manifest import Histogram, ReferenceProfile
from models.profile import count_into, project, stability_index
from optimize.errors import EvidenceError
from optimize.profile import reference_profile

LABELS = ("ABBR", "DESC", "HUM")
DIM = 32
TEXTS = 3000

Embed = Callable[..., npt.NDArray[np.float32]]


@pytest.fixture
def embed() -> Embed:
    """Unit vectors of texts that cluster around a topic."""

    def draw(seed: int, texts: int = TEXTS, topic: float = 0.0) -> npt.NDArray[np.float32]:
        vectors = np.random.default_rng(seed).standard_normal((texts, DIM))
        vectors[:, :4] += topic
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    return draw


def lengths(seed: int, mean: float = 10) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).poisson(mean, TEXTS) + 2


def probabilities(seed: int, favourite: float = 1.0) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).dirichlet([favourite, 1.0, 1.0], TEXTS)


def shifts(profile: ReferenceProfile, embeddings: npt.NDArray[np.float32]) -> list[float]:
    """The stability index of live embeddings along each direction."""
    live = project(embeddings, len(profile.projections), profile.seed).T
    return [
        stability_index(reference, count_into(reference.edges, values))
        for reference, values in zip(profile.projections, live, strict=True)
    ]


def shift(reference: Histogram, values: npt.NDArray[np.floating]) -> float:
    return stability_index(reference, count_into(reference.edges, values))


def test_other_texts_of_the_same_kind_are_no_shift(embed: Embed):
    profile = reference_profile(lengths(1), embed(1), probabilities(1), LABELS)
    assert profile.confidence is not None
    assert max(shifts(profile, embed(2))) < 0.1
    assert shift(profile.token_lengths, lengths(2)) < 0.1
    assert shift(profile.confidence, probabilities(2).max(axis=1)) < 0.1


def test_texts_of_another_kind_are_a_large_shift(embed: Embed):
    profile = reference_profile(lengths(1), embed(1), probabilities(1), LABELS)
    assert profile.confidence is not None
    assert max(shifts(profile, embed(2, topic=1.5))) > 0.25
    assert shift(profile.token_lengths, lengths(2, mean=20)) > 0.25
    assert shift(profile.confidence, probabilities(2, favourite=9).max(axis=1)) > 0.25


def test_the_same_texts_give_the_same_profile(embed: Embed):
    made = [reference_profile(lengths(1), embed(1), seed=5) for _ in range(2)]
    assert made[0] == made[1]


def test_a_profile_reads_back_as_it_was_written(embed: Embed):
    profile = reference_profile(lengths(1), embed(1), probabilities(1), LABELS)
    assert ReferenceProfile.model_validate_json(profile.model_dump_json()) == profile


def test_each_direction_has_twenty_bins_of_about_equally_many_texts(embed: Embed):
    profile = reference_profile(lengths(1), embed(1))
    assert len(profile.projections) == 8
    for histogram in profile.projections:
        assert len(histogram.counts) == 20
        assert sum(histogram.counts) == TEXTS
        assert min(histogram.counts) > 0.9 * TEXTS / 20
        assert histogram.edges == sorted(histogram.edges)


def test_every_text_is_counted_however_long(embed: Embed):
    counted = reference_profile(np.array([1, 7, 300, 100_000]), embed(1, texts=4)).token_lengths
    assert sum(counted.counts) == 4
    assert counted.counts[-1] == 1


def test_norms_are_kept_only_where_they_tell_something(embed: Embed):
    unit = embed(1)
    assert reference_profile(lengths(1), unit).embedding_norms is None
    norms = np.random.default_rng(3).uniform(1, 9, (TEXTS, 1))
    histogram = reference_profile(lengths(1), unit * norms).embedding_norms
    assert histogram is not None
    assert shift(histogram, norms.ravel()) < 0.01
    assert shift(histogram, norms.ravel() * 2) > 0.25


def test_vectors_that_are_all_the_same_still_have_a_histogram():
    same = np.tile(np.array([[0.6, 0.8]], dtype=np.float32), (TEXTS, 1))
    for histogram in reference_profile(lengths(1), same).projections:
        assert histogram.counts == [TEXTS]


def test_priors_are_the_shares_of_predicted_classes():
    given = np.array([[0.8, 0.1, 0.1], [0.4, 0.3, 0.3], [0.2, 0.7, 0.1], [0.9, 0.1, 0.0]])
    profile = reference_profile(np.array([3, 4, 5, 6]), None, given, LABELS)
    assert profile.class_priors == {"ABBR": 0.75, "DESC": 0.25, "HUM": 0.0}
    assert profile.confidence is not None
    filled = {
        edge: count
        for edge, count in zip(profile.confidence.edges, profile.confidence.counts, strict=False)
        if count
    }
    assert filled == {0.4: 1, 0.7: 1, 0.8: 1, 0.9: 1}


def test_a_reranker_has_token_lengths_alone():
    profile = reference_profile(lengths(1))
    assert profile.projections == []
    assert (profile.embedding_norms, profile.class_priors, profile.confidence) == (None,) * 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"token_counts": np.array([])}, "needs texts"),
        ({"embeddings": np.full((2, 3), np.nan)}, "embeddings of held-out texts are not finite"),
        ({"embeddings": np.ones((3, 3))}, "3 embeddings for 2 texts"),
        ({"probabilities": np.full((2, 3), np.inf)}, "probabilities of .* are not finite"),
        ({"probabilities": np.full((2, 4), 0.25)}, "4 probabilities for 3 labels"),
    ],
)
def test_what_would_mislead_is_refused(change: dict[str, object], words: str):
    given = {"token_counts": np.array([3, 4]), "label_names": LABELS} | change
    with pytest.raises(EvidenceError, match=words):
        reference_profile(**given)  # type: ignore[arg-type]
