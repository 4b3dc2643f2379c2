"""The adapter between Triton's python backend and `encoder.py`.

Interface reference: the python_backend repository's README (TritonPythonModel, pb_utils).
"""

from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from .encoder import Encoded, TextEncoder
from .tokens import Item, decoded_items
from .vectors import compress


class TritonPythonModel:
    """Encodes everything of all requests that the dynamic batcher gathered as one batch."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model of this version directory."""
        directory = Path(args["model_repository"]) / args["model_version"]
        self.encoder = TextEncoder.from_directory(directory)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request; a request that is not UTF-8 fails alone."""
        inputs = self.encoder.settings.inputs
        items: list[Item] = []
        ranges: list[range | Exception] = []
        for request in requests:
            try:
                read = decoded_items(request, inputs, pb_utils.get_input_tensor_by_name)
            except UnicodeDecodeError as error:
                ranges.append(error)
                continue
            ranges.append(range(len(items), len(items) + len(read)))
            items += read
        encoded = self.encoder.encode(items) if items else None
        return [self.response(encoded, part) for part in ranges]

    def response(self, encoded: Encoded | None, part: range | Exception) -> Any:
        """The outputs and whole token counts of one request, or its error."""
        if encoded is None or isinstance(part, Exception):
            message = f"text is not UTF-8 ({part}): send UTF-8 encoded bytes"
            error = pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        rows = slice(part.start, part.stop)
        settings = self.encoder.settings
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(settings.output, compress(encoded.outputs[rows], settings.vectors)),
                pb_utils.Tensor("token_count", encoded.token_counts[rows].reshape(-1, 1)),
            ]
        )
