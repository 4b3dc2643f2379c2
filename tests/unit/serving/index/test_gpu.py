"""What is decided before a GPU is touched."""

import argparse

import pytest

from serving.errors import DoesNotFitError, GpuError, SettingsError
from serving.index.generation import Generation
from serving.index.gpu import (
    CONTEXT_BYTES,
    Found,
    GpuSettings,
    GpuUse,
    Precision,
    check_usable,
    clone_bytes,
    settings_of,
    uses_of,
)
from serving.index.gpu_options import add_gpu, settings_from
from serving.index.layout import Layout

MIB = 2**20
GIB = 2**30
FLAT = Layout(kind="flat")
RESERVE = 100 * MIB


def generation(layout: Layout = FLAT, dim: int = 128) -> Generation:
    return Generation(
        index="demo",
        name="g1",
        dim=dim,
        metric="l2",
        layout=layout,
        shards=1,
        rows=0,
        created_at="",
    )


def use(precision: Precision = "fp32", reserve_bytes: int = RESERVE) -> GpuUse:
    return GpuUse(device=0, precision=precision, reserve_bytes=reserve_bytes)


def settings(*devices: int) -> GpuSettings:
    return GpuSettings(devices=devices or "auto", reserve_bytes=RESERVE)


def test_no_gpu_is_used_unless_it_is_asked_for() -> None:
    parser = argparse.ArgumentParser()
    add_gpu(parser)
    assert settings_from(parser.parse_args([])) == GpuSettings(devices="none")
    said = parser.parse_args(
        ["--gpu", "1,0,1", "--gpu-precision", "fp16", "--gpu-reserve", "512MiB"]
    )
    assert settings_from(said) == GpuSettings(
        devices=(1, 0), precision="fp16", reserve_bytes=512 * MIB
    )
    assert settings_of("auto", "fp32", "1GB").devices == "auto"


@pytest.mark.parametrize("gpu", ["", "all", "-1", "0-3", "0,", "0;1"])
def test_what_names_no_gpu_is_refused(gpu: str) -> None:
    with pytest.raises(SettingsError, match="write auto, none or numbers such as 0,1"):
        settings_of(gpu, "fp32", "1GB")


def test_a_reserve_that_faiss_would_cut_short_is_refused() -> None:
    settings_of("0", "fp32", "1536MiB")
    with pytest.raises(SettingsError, match=r"--gpu-reserve 2GB .* 1,536 MiB at most"):
        settings_of("0", "fp32", "2GB")


def test_settings_survive_the_way_to_another_process() -> None:
    given = GpuSettings(devices=(1, 0), precision="fp16")
    assert GpuSettings.model_validate_json(given.model_dump_json()) == given


@pytest.mark.parametrize("kind", ["hnsw", "hnsw-sq8", "ivf-rabitq"])
def test_a_layout_that_faiss_has_on_no_gpu_is_refused(kind: str) -> None:
    with pytest.raises(GpuError, match=f"no {kind} on a GPU: build flat, .* leave --gpu out"):
        check_usable(Layout.model_validate({"kind": kind}), 128, "fp32")


@pytest.mark.parametrize("kind", ["flat", "ivf-flat", "ivf-sq8", "ivf-pq"])
def test_the_others_can_go_there_codes_on_disk_too(kind: str) -> None:
    check_usable(Layout.model_validate({"kind": kind, "on_disk": True}), 384, "fp32")


@pytest.mark.parametrize(
    ("code_bytes", "precision", "is_possible"),
    [(48, "fp32", True), (64, "fp32", False), (64, "fp16", True), (44, "fp16", False)],
)
def test_product_codes_need_a_length_that_faiss_knows_and_tables_that_fit_a_block(
    code_bytes: int, precision: Precision, is_possible: bool
) -> None:
    layout = Layout(kind="ivf-pq", lists=10, code_bytes=code_bytes)
    if is_possible:
        check_usable(layout, 5 * code_bytes, precision)
    else:
        with pytest.raises(GpuError, match=r"--code-bytes 1, 2, .*, 48.* \(fp16 takes up to 96\)"):
            check_usable(layout, 5 * code_bytes, precision)


def test_more_components_than_a_block_has_room_for_are_refused() -> None:
    layout = Layout(kind="ivf-sq8", lists=10)
    check_usable(layout, 6_143, "fp32")
    with pytest.raises(GpuError, match="takes fewer than 6,144"):
        check_usable(layout, 6_144, "fp32")


@pytest.mark.parametrize("kind", ["ivf-flat", "ivf-sq8"])
def test_fp16_is_refused_where_it_would_change_nothing(kind: str) -> None:
    with pytest.raises(GpuError, match="leave --gpu-precision out"):
        check_usable(Layout.model_validate({"kind": kind}), 128, "fp16")


def test_flat_rows_take_their_components_a_norm_each_and_the_reserve() -> None:
    assert clone_bytes(generation(), 1_000, use()) == 1_000 * (128 * 4 + 4) + RESERVE


def test_fp16_halves_the_rows_and_takes_room_to_convert_a_part_of_them() -> None:
    rows = 4_000_000
    kept = rows * (128 * 2 + 4)
    assert clone_bytes(generation(), rows, use("fp16", 512 * MIB)) == kept + 512 * MIB
    assert clone_bytes(generation(), rows, use("fp16", 0)) == kept + 384 * MIB
    assert clone_bytes(generation(), 10, use("fp16", 0)) == 10 * (128 * 2 + 4 + 128 * 6)


def test_inverted_lists_take_padded_codes_ids_and_centroids() -> None:
    layout = Layout(kind="ivf-sq8", lists=10)
    of_lists = 10 * (512 + 24) + 10 * 4 * 129
    expected = 128 * (1_000 + 31 * 10) + 8 * 1_000 + of_lists
    assert clone_bytes(generation(layout), 1_000, use(reserve_bytes=0)) == expected


def test_product_codes_are_not_padded_and_have_codebooks_twice() -> None:
    layout = Layout(kind="ivf-pq", lists=10, code_bytes=16)
    of_lists = 10 * (512 + 24) + 10 * 4 * 129
    expected = (16 + 8) * 1_000 + of_lists + 2 * 256 * 128 * 4
    assert clone_bytes(generation(layout), 1_000, use(reserve_bytes=0)) == expected


def test_shards_are_spread_over_the_gpus_in_turn() -> None:
    found = Found(True, {0: 10 * GIB, 1: 10 * GIB, 2: 10 * GIB})
    uses = uses_of(settings(2, 0), generation(), [10, 10, 10], found)
    assert [one.device for one in uses] == [2, 0, 2]
    uses = uses_of(settings(), generation(), [10, 10], found)
    assert [one.device for one in uses] == [0, 1]
    assert {one.reserve_bytes for one in uses} == {RESERVE}


def test_only_a_gpu_that_was_named_is_required() -> None:
    found = Found(True, {0: 10 * GIB})
    assert uses_of(settings(0), generation(), [10], found)[0].required
    assert not uses_of(settings(), generation(), [10], found)[0].required


def test_shards_fit_to_the_byte_with_room_for_one_more_copy() -> None:
    rows = [3_000_000, 1_000_000]
    needs = [clone_bytes(generation(), count, use()) for count in rows]
    needed = sum(needs) + max(needs) + 2 * CONTEXT_BYTES
    uses_of(settings(0), generation(), rows, Found(True, {0: needed}))
    over = r"2 shards, with room to compact one, take [\d,]+ MiB of GPU 0 and .* it is 10 MiB over"
    words = over + "; .*, or leave --gpu out"
    with pytest.raises(DoesNotFitError, match=words):
        uses_of(settings(0), generation(), rows, Found(True, {0: needed - 10 * MIB}))


def test_each_gpu_must_have_room_for_its_own_shards() -> None:
    found = Found(True, {0: 10 * GIB, 1: GIB // 2})
    with pytest.raises(DoesNotFitError, match=r"1 shards, .* of GPU 1"):
        uses_of(settings(0, 1), generation(), [1_000, 1_000], found)


@pytest.mark.parametrize(
    ("asked", "found", "words"),
    [
        (settings(0), Found(False, {0: GIB}), "faiss-cpu, .* `make EXTRA=gpu`"),
        (settings(), Found(False, {}), "faiss-cpu, .* `make EXTRA=gpu`"),
        (settings(0), Found(True, {}), r"no GPU .* show none\): install the NVIDIA driver"),
        (settings(), Found(True, {}), r"no GPU .* show none\): install the NVIDIA driver"),
        (settings(0, 3), Found(True, {0: GIB, 1: GIB}), r"GPU 3 is not there .* show 0, 1\)"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_refused_with_what_to_do(
    asked: GpuSettings, found: Found, words: str
) -> None:
    with pytest.raises(GpuError, match=words):
        uses_of(asked, generation(), [10], found)
