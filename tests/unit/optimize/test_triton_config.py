from pathlib import Path

import pytest
from tritonclient.grpc import model_config_pb2 as pb

from optimize.proof import Proof
from optimize.recipe import Recipe
from optimize.triton_config import (
    WARMUP_TEXT,
    read_config,
    text_encoder_config,
    warmup_batch_sizes,
    warmup_bytes,
    write_config,
)


def with_serving(recipe: Recipe, **changes: object) -> Recipe:
    return recipe.model_copy(update={"serving": recipe.serving.model_copy(update=changes)})


def test_the_configuration_says_what_goes_in_and_out(small_recipe: Recipe, proof: Proof):
    config = text_encoder_config(small_recipe, proof)
    assert (config.name, config.backend) == ("search-encoder", "python")
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [
        ("text", pb.TYPE_STRING, [1])
    ]
    assert [(o.name, o.data_type, list(o.dims)) for o in config.output] == [
        ("embedding", pb.TYPE_FP32, [32]),
        ("token_count", pb.TYPE_INT32, [1]),
    ]


def test_the_configuration_carries_the_recipes_serving_parameters(
    small_recipe: Recipe, proof: Proof
):
    recipe = with_serving(small_recipe, max_batch_size=16, max_queue_delay_us=250, instances=3)
    config = text_encoder_config(recipe, proof)
    assert config.max_batch_size == 16
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    assert config.instance_group[0].count == 3


@pytest.mark.parametrize(
    ("vectors", "data_type", "dim"),
    [
        ("fp16", pb.TYPE_FP16, 32),
        ("int8", pb.TYPE_INT8, 32),
        ("binary", pb.TYPE_UINT8, 4),
    ],
)
def test_vectors_in_fewer_bits_have_their_own_type_and_size(
    small_recipe: Recipe, proof: Proof, vectors: str, data_type: int, dim: int
):
    output = text_encoder_config(with_serving(small_recipe, vectors=vectors), proof).output[0]
    assert (output.data_type, list(output.dims)) == (data_type, [dim])


def test_a_reranker_takes_a_query_and_a_text(small_recipe: Recipe, proof: Proof):
    recipe = small_recipe.model_copy(update={"task": "rerank"})
    scored = proof.model_copy(update={"output_dim": 1})
    config = text_encoder_config(recipe, scored)
    assert [tensor.name for tensor in config.input] == ["query", "text"]
    assert [tensor.name for tensor in config.output] == ["score", "token_count"]
    assert set(config.model_warmup[0].inputs) == {"query", "text"}


def test_a_configuration_reads_back_as_it_was_written(
    small_recipe: Recipe, proof: Proof, tmp_path: Path
):
    config = text_encoder_config(small_recipe, proof)
    write_config(tmp_path / "config.pbtxt", config)
    assert read_config(tmp_path / "config.pbtxt") == config


@pytest.mark.parametrize(
    ("max_batch_size", "sizes"), [(1, [1]), (4, [1, 4]), (8, [1, 8]), (64, [1, 8, 64])]
)
def test_the_smallest_a_middle_and_the_largest_batch_are_warmed_up(
    small_recipe: Recipe, proof: Proof, max_batch_size: int, sizes: list[int]
):
    assert warmup_batch_sizes(max_batch_size) == sizes
    config = text_encoder_config(with_serving(small_recipe, max_batch_size=max_batch_size), proof)
    assert [sample.batch_size for sample in config.model_warmup] == sizes


def test_the_warm_up_text_is_stored_behind_its_length():
    stored = warmup_bytes()
    assert int.from_bytes(stored[:4], "little") == len(stored) - 4
    assert stored[4:].decode() == WARMUP_TEXT
