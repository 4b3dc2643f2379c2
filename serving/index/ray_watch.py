"""Looks after the nodes that Ray keeps: asks each how it is, again and again."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.errors import ClusterError
from serving.index.ray_cluster import first_line, ray
from serving.index.ray_node import NodeReport
from serving.index.ray_plan import Slot

POLL_S = 0.5
SILENT_S = 5.0  # a node that says nothing for so long is gone, before Ray knows


@dataclass(frozen=True)
class Question:
    """A question that is under way: what stands for its answer, and since when (time.monotonic())."""

    answer: Any
    asked_s: float


class Watch:
    """The last reports of nodes; None for one that is gone."""

    def __init__(self, actors: Mapping[Slot, Any]) -> None:
        self._actors = actors
        self._asked: dict[Slot, Question] = {}
        self._reports: dict[Slot, NodeReport | None] = dict.fromkeys(actors)

    def poll(self) -> dict[Slot, NodeReport | None]:
        """How the nodes are, after POLL_S. Raises ClusterError when Ray gave one up."""
        began_s = time.monotonic()
        for slot in self._actors.keys() - self._asked.keys():
            self._asked[slot] = Question(self._actors[slot].report.remote(), began_s)
        answers = [question.answer for question in self._asked.values()]
        ray.wait(answers, num_returns=len(answers), timeout=POLL_S)
        for slot, question in list(self._asked.items()):
            self._take(slot, question)
        time.sleep(max(0.0, began_s + POLL_S - time.monotonic()))
        return dict(self._reports)

    def _take(self, slot: Slot, question: Question) -> None:
        done, _ = ray.wait([question.answer], timeout=0)
        if not done:
            if time.monotonic() - question.asked_s > SILENT_S:
                self._reports[slot] = None
            return
        del self._asked[slot]
        try:
            self._reports[slot] = ray.get(question.answer)
        except ray.exceptions.ActorDiedError as error:
            raise ClusterError(
                f"{slot.words} was ended for good ({first_line(error)}): another `ray-serve` of this index "
                "may have done so, or Farshore is not installed on that machine; see `ray logs`"
            ) from error
        except ray.exceptions.RayError:  # its process or machine died; Ray starts it again
            self._reports[slot] = None
