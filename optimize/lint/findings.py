"""What a check says, and the models of a repository as the checks see them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from optimize.triton_config import CONFIG_NAME, read_config


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, where it is and what to do."""

    severity: Literal["error", "warning"]
    where: str
    problem: str
    fix: str

    @property
    def line(self) -> str:
        """The finding as one line."""
        return f"{self.severity}: {self.where}: {self.problem}: {self.fix}"


@dataclass(frozen=True)
class Model:
    """One model's folder with its configuration, or with what is wrong with it."""

    folder: Path
    config: pb.ModelConfig
    problems: list[Finding] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What requests call it."""
        return self.folder.name

    @property
    def kind(self) -> str:
        """Its backend, or "ensemble"; older configurations name a platform instead."""
        if self.config.platform == "ensemble":
            return "ensemble"
        return str(self.config.backend or PLATFORMS.get(self.config.platform, ""))

    @property
    def versions(self) -> list[Path]:
        """Its version folders, the newest first."""
        folders = [path for path in self.folder.iterdir() if path.is_dir() and path.name.isdigit()]
        return sorted(folders, key=lambda path: -int(path.name))

    def error(self, file: str, problem: str, fix: str) -> Finding:
        """An error in one of its files."""
        return Finding("error", f"{self.name}/{file}", problem, fix)

    def warning(self, file: str, problem: str, fix: str) -> Finding:
        """A doubt about one of its files."""
        return Finding("warning", f"{self.name}/{file}", problem, fix)


PLATFORMS = {
    "onnxruntime_onnx": "onnxruntime",
    "tensorrt_plan": "tensorrt",
    "pytorch_libtorch": "pytorch",
}


def read_models(repository: Path) -> list[Model]:
    """Every folder with a config.pbtxt, or with version folders and none."""
    if not repository.is_dir():
        return []
    folders = [path for path in sorted(repository.iterdir()) if path.is_dir()]
    return [read_model(folder) for folder in folders if looks_like_a_model(folder)]


def looks_like_a_model(folder: Path) -> bool:
    """Whether Triton would try to load it."""
    return (folder / CONFIG_NAME).is_file() or any(p.name.isdigit() for p in folder.iterdir())


def read_model(folder: Path) -> Model:
    """Parse a configuration; what cannot be parsed is a finding."""
    path = folder / CONFIG_NAME
    if not path.is_file():
        problem = Finding(
            "warning",
            f"{folder.name}/{CONFIG_NAME}",
            "there is none",
            "write one: what Triton derives from the model file depends on its version",
        )
        return Model(folder, pb.ModelConfig(name=folder.name), [problem])
    try:
        config = read_config(path)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        problem = Finding(
            "error",
            f"{folder.name}/{CONFIG_NAME}",
            f"cannot be parsed ({error})",
            "correct the line, fields are those of Triton's ModelConfig message",
        )
        return Model(folder, pb.ModelConfig(name=folder.name), [problem])
    return Model(folder, config)
