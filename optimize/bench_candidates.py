"""What bench_gpu times: PyTorch in its number formats and ONNX graphs, each from token ids to vectors."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from transformers import AutoModel

from optimize.bench_floors import Work, work_of_graph, work_of_module
from optimize.bench_triton import Feed, Run


@dataclass(frozen=True)
class Candidate:
    """What is timed, and what it has to do at least."""

    run: Run
    work: Work


def torch_candidates(source: Path, device: str, compiled: bool) -> dict[str, Candidate]:
    """PyTorch eager in FP32 and, on a GPU, FP16; and compiled."""
    kinds = {"torch-fp32": torch.float32}
    if device == "cuda":
        kinds["torch-fp16"] = torch.float16
    found = {}
    for name, kind in kinds.items():
        module = open_module(source, kind, device)
        found[name] = Candidate(torch_run(module, device), work_of_module(module))
    if compiled:
        module = open_module(source, kinds.get("torch-fp16", torch.float32), device)
        run = torch_run(torch.compile(module), device)
        found["torch-compile"] = Candidate(run, work_of_module(module))
    return found


def open_module(source: Path, kind: torch.dtype, device: str) -> Any:
    """The encoder on the device."""
    module = AutoModel.from_pretrained(source, local_files_only=True, dtype=kind)
    return module.eval().to(device)


def torch_run(module: Any, device: str) -> Run:
    """Ids in, mean-pooled unit vectors out, as a server would use it: with both copies."""

    def run(feed: Feed) -> npt.NDArray[np.float32]:
        tensors = {name: torch.from_numpy(ids).to(device) for name, ids in feed.items()}
        with torch.inference_mode():
            hidden = module(**tensors).last_hidden_state.float()
            vectors = torch.nn.functional.normalize(hidden.mean(dim=1), dim=1)
        return np.asarray(vectors.cpu().numpy())

    return run


def open_graph(path: Path, device: str) -> Candidate:
    """An ONNX graph with its pooling inside, on the device's provider; the copies are included."""
    wanted = ["CUDAExecutionProvider"] if device == "cuda" else ["CPUExecutionProvider"]
    if device == "cuda":
        ort.preload_dlls()  # the CUDA libraries of torch's own packages
    session = ort.InferenceSession(str(path), providers=wanted)
    if session.get_providers()[0] != wanted[0]:
        raise SystemExit(f"error: ONNX Runtime has no {wanted[0]} here: install onnxruntime-gpu")
    names = {node.name for node in session.get_inputs()}

    def run(feed: Feed) -> npt.NDArray[np.float32]:
        (vectors,) = session.run(None, {n: ids for n, ids in feed.items() if n in names})
        return np.asarray(vectors, dtype=np.float32)

    return Candidate(run, work_of_graph(path, device))
