from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.triton.text_encoder.encoder import TextEncoder
from models.triton.text_encoder.vectors import compress
from optimize.build import build
from optimize.data import data_folder, folder_digests
from optimize.measure import Candidates, losses_of, measure_quality
from optimize.opening import open_variant
from optimize.recipe import Recipe, encoder_settings
from optimize.steps import Workspace
from optimize.tasks import PREDICTIONS, TASKS
from optimize.tasks.embed import PASSAGES, QUESTIONS, rank_passages


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8", "binary"])
def test_a_variant_answers_with_what_is_read_of_its_vectors_in_the_format_they_are_sent_in(
    kind: str, tiny_recipe: Recipe, tiny_model: Path, tiny_onnx: Path, tiny_encoder: TextEncoder
):
    settings = replace(encoder_settings(tiny_recipe), vectors=kind)
    items = ["a question", "another one"]
    answers = open_variant(tiny_onnx, tiny_model / "tokenizer.json", settings)(items)
    whole = tiny_encoder.encode(items).outputs
    assert answers.dtype == np.float32
    if kind == "binary":
        np.testing.assert_array_equal(answers, np.where(whole > 0, 1, -1))
    else:
        scale = 127 if kind == "int8" else 1
        np.testing.assert_allclose(answers * scale, compress(whole, kind), rtol=1e-6)


def test_the_quality_that_is_judged_is_that_of_the_vectors_as_they_are_sent(
    tiny_recipe: Recipe, tmp_path: Path
):
    serving = tiny_recipe.serving.model_copy(update={"vectors": "binary"})
    changes = {"variants": ("fp32",), "serving": serving}
    recipe = tiny_recipe.model_copy(update=changes)
    workspace = Workspace(tmp_path, lambda *_: None)
    folder = data_folder(recipe.evaluation.data, workspace)
    data = TASKS["embed"].read(folder, recipe.evaluation)
    built = build(recipe, workspace, data)
    candidates = Candidates(recipe, data, folder_digests(folder), [], built)
    quality = measure_quality(candidates, workspace)
    whole, sent = (quality[name].directory for name in ("pytorch", "fp32"))
    signs = [np.where(np.load(whole / name) > 0, 1, -1) for name in (QUESTIONS, PASSAGES)]
    expected = rank_passages(*(s.astype(np.float32) for s in signs), data.relevant)
    assert (np.load(sent / PREDICTIONS) == expected).mean() > 0.98  # but for zeros and their noise
    assert (np.load(whole / PREDICTIONS) == expected).mean() < 0.9
    assert losses_of(candidates, quality, "fp32")["ndcg@10"].value != pytest.approx(0, abs=1e-3)
