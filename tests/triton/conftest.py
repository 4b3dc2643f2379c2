"""How the tests serve a repository on the real Triton, and ask it."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.grpc import model_config_pb2 as pb

from models.manifest import INPUTS, OUTPUTS, Manifest, read_manifest
from models.triton.text_encoder.tokens import Item
from optimize.triton_config import read_config, write_config
from serving.triton.launch import run_triton

CORE = Path(__file__).parent / "cpu_core.py"

Ask = Callable[..., np.ndarray]


@pytest.fixture(scope="session")
def serve(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., AbstractContextManager[Ask]]:
    """Serves a repository; gives a function that sends its model one request and returns the answer.

    `class_count` asks for so many of the best classes by name, Triton's classification extension.
    """

    @contextmanager
    def serve(repository: Path, unverified: bool = False) -> Iterator[Ask]:
        manifest = read_manifest(repository)
        log = tmp_path_factory.mktemp("triton") / "triton.log"
        with (
            run_triton(repository, log_path=log, unverified=unverified) as triton,
            triton_grpc.InferenceServerClient(triton.grpc_url) as client,
        ):

            def ask(items: Sequence[Item], class_count: int = 0) -> np.ndarray:
                name = OUTPUTS[manifest.task]
                wanted = triton_grpc.InferRequestedOutput(name, class_count=class_count)
                inputs = tensors_of(manifest, items)
                return client.infer(manifest.name, inputs, outputs=[wanted]).as_numpy(name)

            yield ask

    return serve


def tensors_of(manifest: Manifest, items: Sequence[Item]) -> list[triton_grpc.InferInput]:
    """Texts, or pairs of a query and a text, as the tensors of the model's task."""
    rows = [(item,) if isinstance(item, str) else item for item in items]
    tensors = []
    for column, name in enumerate(INPUTS[manifest.task]):
        values = np.array([[row[column].encode()] for row in rows], dtype=object)
        tensor = triton_grpc.InferInput(name, list(values.shape), "BYTES")
        tensor.set_data_from_numpy(values)
        tensors.append(tensor)
    return tensors


@pytest.fixture(scope="session")
def put_on_cpu() -> Callable[[Path], None]:
    """Gives the core of a GPU ensemble another backend and kind of instance, and nothing else."""

    def put_on_cpu(core: Path) -> None:
        config = read_config(core / "config.pbtxt")
        config.ClearField("platform")
        config.backend = "python"
        config.instance_group[0].kind = pb.ModelInstanceGroup.KIND_CPU
        write_config(core / "config.pbtxt", config)
        shutil.copyfile(CORE, core / "1/model.py")
        names = {"inputs": [t.name for t in config.input], "output": config.output[0].name}
        (core / "1/names.json").write_text(json.dumps(names))

    return put_on_cpu
