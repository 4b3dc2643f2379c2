"""An answer in, the JSON of OpenAI's API out. Pure functions of values."""

import binascii
from datetime import datetime

import numpy as np
import orjson
from numpy.typing import NDArray

from models.manifest import Manifest
from serving.gateway.answer import Answer
from serving.gateway.schemas import EncodingFormat


def embeddings_reply(answer: Answer, manifest: Manifest) -> bytes:
    """OpenAI's embeddings object, and a `farshore` object that says how the answer was made."""
    tokens = answer.embedded.total_tokens
    rows = [encode(row, answer.encoding_format) for row in answer.embedded.embeddings]
    reply = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": row}
            for index, row in enumerate(rows)
        ],
        "model": manifest.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "farshore": {
            "source": answer.source,
            "degraded": answer.degraded,
            "model_version": manifest.version,
            "variant": manifest.variant,
            "digest": manifest.digest,
        },
    }
    return orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)


def encode(row: NDArray[np.float32], encoding_format: EncodingFormat) -> NDArray[np.float32] | str:
    """One embedding [dim] as numbers, or as base64 of its little-endian float32 bytes."""
    if encoding_format == "float":
        return row
    return binascii.b2a_base64(row.astype("<f4", copy=False).tobytes(), newline=False).decode()


def models_reply(manifest: Manifest) -> bytes:
    """OpenAI's list of models: the one that is served."""
    model = {
        "id": manifest.name,
        "object": "model",
        "created": int(datetime.fromisoformat(manifest.created_at).timestamp()),
        "owned_by": "farshore",
    }
    return orjson.dumps({"object": "list", "data": [model]})
