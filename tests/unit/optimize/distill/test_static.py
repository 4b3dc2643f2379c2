from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models.triton.text_encoder.encoder import TextEncoder, open_session
from models.triton.text_encoder.tokens import open_tokenizer
from optimize.distill.static import quantize_static_table, special_ids, write_static
from optimize.distill.teacher import VECTORS
from optimize.load import SourceModel
from optimize.recipe import Recipe, encoder_settings
from optimize.sections import StaticDistillation

from ..conftest import MAX_TOKENS, SPECIAL

SECTION = StaticDistillation(dimensions=16)


@pytest.fixture(scope="session")
def static(
    tiny_model: Path,
    training_texts: list[str],
    teacher: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The static student's directory."""
    folder = tmp_path_factory.mktemp("static")
    write_static(tiny_model, training_texts, teacher, SECTION, MAX_TOKENS, folder)
    return folder


@pytest.fixture(scope="session")
def small_static(static: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with its table in INT8."""
    folder = tmp_path_factory.mktemp("static-int8")
    quantize_static_table(static / "model.onnx", folder)
    return folder


def served(folder: Path, tiny_model: Path, recipe: Recipe) -> TextEncoder:
    """A student as it is served: with its teacher's tokenizer."""
    settings = encoder_settings(recipe)
    tokenizer = open_tokenizer(tiny_model / "tokenizer.json", MAX_TOKENS)
    return TextEncoder(open_session(folder / "model.onnx", settings), tokenizer, settings)


def stored(folder: Path) -> dict[str, np.ndarray]:
    graph = onnx.load(folder / "model.onnx").graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def test_a_static_student_answers_where_its_teacher_does(
    static: Path, tiny_model: Path, tiny_recipe: Recipe, training_texts: list[str], teacher: Path
) -> None:
    vectors = served(static, tiny_model, tiny_recipe).encode(training_texts).outputs
    targets = np.load(teacher / VECTORS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    same_for_all = targets.mean(axis=0)
    pairs = zip(vectors - same_for_all, targets - same_for_all, strict=True)
    assert np.mean([np.corrcoef(ours, theirs)[0, 1] for ours, theirs in pairs]) > 0.3


def test_padding_and_the_texts_beside_it_do_not_change_a_vector(
    static: Path, tiny_model: Path, tiny_recipe: Recipe, training_texts: list[str]
) -> None:
    encoder = served(static, tiny_model, tiny_recipe)
    together = encoder.encode(training_texts[:20]).outputs
    alone = np.concatenate([encoder.encode([text]).outputs for text in training_texts[:20]])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_a_text_without_a_word_has_a_finite_vector(
    static: Path, small_static: Path, tiny_model: Path, tiny_recipe: Recipe
) -> None:
    for folder in (static, small_static):
        vectors = served(folder, tiny_model, tiny_recipe).encode(["", "is it so?"]).outputs
        assert np.isfinite(vectors).all()
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_every_token_but_the_special_ones_has_a_vector_in_the_teachers_order(
    static: Path, tiny_source: SourceModel
) -> None:
    table = stored(static)["table"]
    ids = tiny_source.tokenizer.get_vocab()
    assert len(table) == len(ids)
    empty = {token for token, row in ids.items() if not table[row].any()}
    assert {"[PAD]", "[CLS]", "[SEP]", "[UNK]"} <= empty <= set(SPECIAL)


def test_special_tokens_are_what_stands_around_an_empty_text_and_pads(
    tiny_source: SourceModel,
) -> None:
    names = {tiny_source.tokenizer.id_to_token(row) for row in special_ids(tiny_source.tokenizer)}
    assert names == {"[PAD]", "[CLS]", "[SEP]"}


def test_int8_quarters_the_table_and_hardly_moves_the_vectors(
    static: Path,
    small_static: Path,
    tiny_model: Path,
    tiny_recipe: Recipe,
    training_texts: list[str],
) -> None:
    assert stored(small_static)["table"].dtype == np.int8
    whole = served(static, tiny_model, tiny_recipe).encode(training_texts).outputs
    small = served(small_static, tiny_model, tiny_recipe).encode(training_texts).outputs
    assert (whole * small).sum(axis=1).min() > 0.999


def test_the_same_inputs_give_the_same_graph(
    static: Path, tiny_model: Path, training_texts: list[str], teacher: Path, tmp_path: Path
) -> None:
    write_static(tiny_model, training_texts, teacher, SECTION, MAX_TOKENS, tmp_path)
    assert (tmp_path / "model.onnx").read_bytes() == (static / "model.onnx").read_bytes()
