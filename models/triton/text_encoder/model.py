"""The adapter between Triton's python backend and `encoder.py`.

Interface reference: the python_backend repository's README (TritonPythonModel, pb_utils).
"""

from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from .encoder import Encoded, TextEncoder


class TritonPythonModel:
    """Encodes all texts of all requests that the dynamic batcher gathered as one batch."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model of this version directory."""
        directory = Path(args["model_repository"]) / args["model_version"]
        self.encoder = TextEncoder.from_directory(directory)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request; a request that is not UTF-8 fails alone."""
        texts: list[str] = []
        ranges: list[range | Exception] = []
        for request in requests:
            try:
                decoded = [raw.decode() for raw in text_input(request)]
            except UnicodeDecodeError as error:
                ranges.append(error)
                continue
            ranges.append(range(len(texts), len(texts) + len(decoded)))
            texts += decoded
        encoded = self.encoder.encode(texts) if texts else None
        return [response(encoded, part) for part in ranges]


def text_input(request: Any) -> list[bytes]:
    """The texts of one request, in order."""
    flat: list[bytes] = (
        pb_utils.get_input_tensor_by_name(request, "text").as_numpy().ravel().tolist()
    )
    return flat


def response(encoded: Encoded | None, part: range | Exception) -> Any:
    """The vectors and whole token counts of one request, or its error."""
    if encoded is None or isinstance(part, Exception):
        message = f"text is not UTF-8 ({part}): send UTF-8 encoded bytes"
        error = pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG)
        return pb_utils.InferenceResponse(error=error)
    rows = slice(part.start, part.stop)
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor("embedding", encoded.embeddings[rows]),
            pb_utils.Tensor("token_count", encoded.token_counts[rows].reshape(-1, 1)),
        ]
    )
