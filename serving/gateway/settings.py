"""What an operator may change about the gateway: command-line flags and FARSHORE_* variables."""

from collections.abc import Mapping

from pydantic import Field, ValidationError

from models.manifest import Record
from serving.errors import SettingsError

PREFIX = "FARSHORE_"


class Settings(Record):
    """Where the gateway listens and what it refuses. Each field is also FARSHORE_<FIELD>."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    deadline_s: float = Field(10.0, gt=0)
    max_texts: int = Field(2048, gt=0)  # the limit of OpenAI's embeddings API
    max_text_bytes: int = Field(32 * 1024, gt=0)
    max_body_bytes: int = Field(8 * 1024 * 1024, gt=0)
    hedge_share: float = Field(0.05, ge=0, le=1)  # extra requests to second replicas of a shard
    writable_index: bool = False  # whether clients may upsert and delete


def read_settings(
    environment: Mapping[str, str], flags: Mapping[str, object] | None = None
) -> Settings:
    """The settings: flags that are not None, else the environment, else the defaults.

    Raises SettingsError naming the value that cannot be used.
    """
    values: dict[str, object] = {
        name: environment[PREFIX + name.upper()]
        for name in Settings.model_fields
        if PREFIX + name.upper() in environment
    }
    values |= {name: value for name, value in (flags or {}).items() if value is not None}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise SettingsError(
            f"{name}={first['input']!r} cannot be used ({first['msg']}): "
            f"set --{name.replace('_', '-')} or {PREFIX}{name.upper()}"
        ) from error
