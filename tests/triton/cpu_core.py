"""A core of the GPU ensemble for machines without a GPU: the same graph on the CPU provider."""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Runs all requests of a batch as one."""

    def initialize(self, args):
        version = Path(args["model_repository"]) / args["model_version"]
        self.names = json.loads((version / "names.json").read_text())
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(
            str(version / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def execute(self, requests):
        feeds = [
            {
                name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
                for name in self.names["inputs"]
            }
            for request in requests
        ]
        whole = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
        (output,) = self.session.run(None, whole)
        sizes = [len(next(iter(feed.values()))) for feed in feeds]
        parts = np.split(output, np.cumsum(sizes)[:-1])
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(self.names["output"], part)])
            for part in parts
        ]
