"""A graph behind Triton's dynamic batcher against direct calls of the same graph, in turns.

The server is one that runs already, here or elsewhere; its model takes the graph's own inputs (the core of
a GPU ensemble). Callers send one text each, and the next when it is answered.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

Feed = dict[str, npt.NDArray[np.int64]]
Vectors = npt.NDArray[np.float32]
Run = Callable[[Feed], Vectors]


def connect(address: str, model: str) -> tuple[Any, Run]:
    """A client, and one request of it: ids [n, tokens] to vectors. Exits when the model is not there."""
    try:
        import tritonclient.grpc as triton_grpc
    except ImportError as error:
        raise SystemExit(f"error: {error}: bring tritonclient and grpcio to this host") from error
    client = triton_grpc.InferenceServerClient(address)
    try:
        metadata = client.get_model_metadata(model)
    except triton_grpc.InferenceServerException as error:
        raise SystemExit(
            f"error: no model {model} at {address} ({error}): start Triton on the repository, name its "
            "gRPC address and the core of the ensemble"
        ) from error
    names = [tensor.name for tensor in metadata.inputs]
    output = metadata.outputs[0].name

    def ask(feed: Feed) -> Vectors:
        tensors = []
        for name in names:
            tensor = triton_grpc.InferInput(name, feed[name].shape, "INT64")
            tensor.set_data_from_numpy(feed[name])
            tensors.append(tensor)
        return np.asarray(client.infer(model, tensors).as_numpy(output), dtype=np.float32)

    return client, ask


def compare(
    client: Any, model: str, ask: Run, direct: Run, feed: Feed, callers: int, rounds: int
) -> dict[str, Any]:
    """One case: the texts of `feed` by so many callers, directly one by one, directly in batches of
    `callers`; the three take turns in each round, after an untimed one.
    """
    rows, tokens = feed["input_ids"].shape
    ones, batches = cut(feed, 1), cut(feed, callers)
    error = largest_difference(in_turn(ask, ones, callers)[0], in_turn(direct, ones, 1)[0])
    in_turn(direct, batches[:1], 1)
    before, latencies_s = counts(client, model), []
    seconds: dict[str, list[float]] = {"triton": [], "one": [], "batched": []}
    for _ in range(rounds):
        _, taken_s, each_s = in_turn(ask, ones, callers)
        latencies_s += each_s
        seconds["triton"].append(taken_s)
        seconds["one"].append(in_turn(direct, ones, 1)[1])
        seconds["batched"].append(in_turn(direct, batches, 1)[1])
    texts, runs = np.subtract(counts(client, model), before).tolist()
    p50_s, p99_s = np.percentile(latencies_s, (50, 99)).tolist()
    return {
        "callers": callers,
        "tokens": tokens,
        "texts_per_s": {name: rows / statistics.median(taken) for name, taken in seconds.items()},
        "p50_ms": p50_s * 1e3,
        "p99_ms": p99_s * 1e3,
        "against_one_by_one": spread(seconds["one"], seconds["triton"]),
        "against_batches": spread(seconds["batched"], seconds["triton"]),
        "texts_per_execution": texts / runs,
        "max_abs_error": error,
    }


def largest_difference(vectors: Sequence[Vectors], expected: Sequence[Vectors]) -> float:
    """Between two lists of answers, absolute."""
    return float(np.abs(np.concatenate(vectors) - np.concatenate(expected)).max())


def cut(feed: Feed, size: int) -> list[Feed]:
    """The texts of a feed, `size` at a time."""
    rows = len(feed["input_ids"])
    return [
        {name: ids[start : start + size] for name, ids in feed.items()}
        for start in range(0, rows, size)
    ]


def in_turn(
    run: Run, feeds: Sequence[Feed], callers: int
) -> tuple[list[Vectors], float, list[float]]:
    """All answers, the seconds that they took together, and those of each."""

    def timed(feed: Feed) -> tuple[Vectors, float]:
        begin = time.perf_counter()
        vectors = run(feed)
        return vectors, time.perf_counter() - begin

    with ThreadPoolExecutor(callers) as pool:
        each = map if callers == 1 else pool.map  # a direct call goes through no other thread
        begin = time.perf_counter()
        answers = list(each(timed, feeds))
        taken_s = time.perf_counter() - begin
    return [vectors for vectors, _ in answers], taken_s, [seconds for _, seconds in answers]


def counts(client: Any, model: str) -> tuple[int, int]:
    """Texts answered and runs of the model so far."""
    (found,) = client.get_inference_statistics(model).model_stats
    return found.inference_count, found.execution_count


def spread(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """The ratio of two times, round by round: how many times as fast the second is."""
    ratios = [first / second for first, second in zip(above, below, strict=True)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
