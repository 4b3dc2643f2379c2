from pathlib import Path

import pytest

from models.manifest import Manifest
from serving.errors import UnservableError
from serving.stack import refuse_unservable


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"task": "classify"}, "encoder is for classify, the gateway answers for embedders"),
        ({"vectors": "int8"}, "sends its vectors as int8, the gateway reads fp32"),
    ],
)
def test_what_the_gateway_has_no_answer_for_is_refused_with_the_way_out(
    plain_manifest: Manifest, changed: dict[str, str], words: str
):
    manifest = plain_manifest.model_copy(update=changed)
    with pytest.raises(UnservableError, match=words) as refused:
        refuse_unservable(manifest, Path("elsewhere"))
    assert "python -m serving.triton --repository elsewhere" in str(refused.value)


def test_an_embedder_with_fp32_vectors_is_served(plain_manifest: Manifest):
    refuse_unservable(plain_manifest, Path("here"))
