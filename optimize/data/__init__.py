"""Data sets as folders of gzipped JSON lines with their provenance, whatever they were made from.

Retrieval (embed, rerank): questions, passages, calibration, and training where there is any.
Labelled (classify): train, test, calibration.
"""

from functools import partial
from pathlib import Path
from typing import Any

from models.files import sha256_file
from optimize.data.boolq import write_boolq
from optimize.data.files import build_from_files, file_digests
from optimize.data.trec import build_trec
from optimize.sections import BoolqData, Data, FolderData, LabelledFiles, PairFiles, TrecData
from optimize.steps import Workspace


def data_folder(data: Data, workspace: Workspace) -> Path:
    """The folder of a recipe's data; what has to be made first is a step like any other."""
    inputs: dict[str, Any] = data.model_dump(mode="json")
    match data:
        case FolderData():
            return data.folder
        case BoolqData():
            return workspace.step("data", inputs, write_boolq).directory
        case TrecData():
            return workspace.step("data", inputs, partial(build_trec, data.classes)).directory
        case PairFiles() | LabelledFiles():
            inputs["digests"] = file_digests(data)
            return workspace.step("data", inputs, partial(build_from_files, data)).directory


def folder_digests(folder: Path) -> dict[str, str]:
    """sha256 of each file, for the key of the steps that read them."""
    return {path.name: sha256_file(path) for path in sorted(folder.glob("*.jsonl.gz"))}
