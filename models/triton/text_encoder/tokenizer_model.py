"""The first step of a GPU ensemble: texts to padded token ids (packaged as model.py of its own model).

Interface reference: the python_backend repository's README (TritonPythonModel, pb_utils).
"""

import json
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from .tokens import TextTokenizer, bucket_of, decoded_items, open_tokenizer, padded_inputs

SETTINGS_NAME = "tokenizer_settings.json"  # max_tokens, buckets, inputs, feed


class TritonPythonModel:
    """Each request keeps its own shape [n, bucket]; the core behind batches those that are alike."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer of this version directory."""
        directory = Path(args["model_repository"]) / args["model_version"]
        self.settings = json.loads((directory / SETTINGS_NAME).read_text())
        path = directory / "tokenizer.json"
        self.tokens = TextTokenizer(open_tokenizer(path, self.settings["max_tokens"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request; a request that is not UTF-8 fails alone."""
        return [self.respond(request) for request in requests]

    def respond(self, request: Any) -> Any:
        """The token ids, masks and whole token counts of one request."""
        inputs = self.settings["inputs"]
        try:
            items = decoded_items(request, inputs, pb_utils.get_input_tensor_by_name)
        except UnicodeDecodeError as error:
            message = f"text is not UTF-8 ({error}): send UTF-8 encoded bytes"
            refused = pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=refused)
        encodings, counts = self.tokens.encode(items)
        longest = max(len(encoding) for encoding in encodings)
        feed = padded_inputs(encodings, bucket_of(longest, self.settings["buckets"]))
        tensors = [pb_utils.Tensor(name, feed[name]) for name in self.settings["feed"]]
        return pb_utils.InferenceResponse(
            [*tensors, pb_utils.Tensor("token_count", counts.reshape(-1, 1))]
        )
