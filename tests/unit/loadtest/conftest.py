import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

from loadtest.results import OK, Recorder, Result, Sample, summarise
from loadtest.settings import Settings, make_settings
from models.manifest import Evidence, Interval, Manifest, Speed, write_manifest


@contextlib.contextmanager
def faulty_gateway(*arguments: str) -> Iterator[TextIO]:
    """The process of faulty_gateway.py; yields what it prints."""
    script = Path(__file__).with_name("faulty_gateway.py")
    process = subprocess.Popen(
        [sys.executable, str(script), *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process.stdout
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def url_of(output: TextIO) -> str:
    return f"http://127.0.0.1:{json.loads(output.readline())['port']}"


@pytest.fixture(scope="session")
def gateway_url() -> Iterator[str]:
    with faulty_gateway() as output:
        yield url_of(output)


@pytest.fixture
def busy_gateway() -> Iterator[tuple[str, Callable[[], str]]]:
    """A gateway of one's own and a function that returns once it has had 100 requests."""
    with faulty_gateway() as output:
        yield url_of(output), output.readline


@pytest.fixture(scope="session")
def stalling_gateway() -> Iterator[dict[str, float]]:
    """Stalls for one second in every ten."""
    with faulty_gateway("10", "1") as output:
        yield json.loads(output.readline())


@pytest.fixture
def settings(gateway_url: str) -> Settings:
    return make_settings(
        url=gateway_url, model="search-encoder", rate_per_s=200, duration_s=2, warmup_s=0.5
    )


@pytest.fixture
def result() -> Result:
    """A run of 1,000 answers of 1 ms to 1 s."""
    recorder = Recorder()
    for number in range(1_000):
        recorder.record(Sample(number / 100, number / 100, number / 100 + (number + 1) / 1e3, OK))
    return summarise(recorder, planned=1_000, duration_s=10, cpu_share=0.1, interrupted=False)


@pytest.fixture
def manifest(plain_manifest: Manifest) -> Manifest:
    """The model that the faulty gateway says it serves; twice as fast as its baseline."""

    def evidence(ms: float, speedup: float) -> Evidence:
        gain = Interval(value=speedup, low=speedup - 0.1, high=speedup + 0.1)
        speed = Speed(
            batch_size=1, p50_ms=ms, p99_ms=ms, throughput_texts_per_s=1e3 / ms, speedup=gain
        )
        quality = {"ndcg@10": Interval(value=0.8, low=0.78, high=0.82)}
        return Evidence(quality=quality, speed=[speed], size_bytes=int(ms * 1e6))

    described = {
        "name": "search-encoder",
        "variant": "int8",
        "digest": "d" * 64,
        "evidence": evidence(10.0, 2.0),
        "baseline": evidence(20.0, 1.0),
        "gate": ["int8: chosen, the fastest that keeps its quality"],
    }
    return plain_manifest.model_copy(update=described)


@pytest.fixture
def repository(tmp_path: Path, manifest: Manifest) -> Path:
    write_manifest(tmp_path / "repository", manifest)
    return tmp_path / "repository"
