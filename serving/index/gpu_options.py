"""The options about GPUs of commands that start shards."""

import argparse
from typing import get_args

from serving.index.gpu import DEFAULT_RESERVE, GpuSettings, Precision, settings_of


def add_gpu(parser: argparse.ArgumentParser) -> None:
    """--gpu and what belongs to it."""
    add = parser.add_argument
    add(
        "--gpu",
        default="none",
        metavar="WHICH",
        help="that search the index: auto, none, or such as 0,1",
    )
    add("--gpu-precision", choices=get_args(Precision), default="fp32", help="of flat and ivf-pq")
    add("--gpu-reserve", default=DEFAULT_RESERVE, help="of each shard, for intermediate results")


def settings_from(options: argparse.Namespace) -> GpuSettings:
    """The settings of parsed options. Raises SettingsError."""
    return settings_of(options.gpu, options.gpu_precision, options.gpu_reserve)
