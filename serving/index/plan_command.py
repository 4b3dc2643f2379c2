"""`python -m serving.index plan`: layouts by the nodes they need and what they do there, and one to build."""

import argparse
import math
from collections.abc import Sequence

from rich.table import Table

from models.manifest import Record
from serving.errors import DoesNotFitError, PlanError, SettingsError
from serving.index.layout import Layout
from serving.index.operations import MAX_K
from serving.index.plan import (
    LayoutPlan,
    Size,
    candidates,
    plan_layout,
    with_search,
)
from serving.index.plan_sample import read_sample
from serving.index.quantities import bytes_of, count_of
from serving.index.trial import Announce, Sample, Trial, shown, try_layouts

GB, MB = 10**9, 10**6


class Option(Record):
    """A layout with what it needs and, where there is a sample, what it does."""

    plan: LayoutPlan
    trial: Trial | None = None

    @property
    def reached(self) -> bool:
        """Whether it is known to reach the recall: a flat index looks at everything."""
        return self.plan.layout.kind == "flat" or (self.trial is not None and self.trial.reached)

    def problem(self, report: "Report") -> str:
        """Why it will not do, in words; empty when it will, or when that is not known."""
        if not self.plan.fits:
            return self.plan.refusal
        if self.trial is not None and not self.reached:
            return f"misses recall {report.recall:g}: it reached {self.trial.recall:.3f}"
        if self.plan.read_bytes > report.max_read_bytes:
            return (
                f"reads {self.plan.read_bytes / MB:,.0f} MB of a disk for each search, and "
                f"{report.max_read_bytes / MB:g} are allowed"
            )
        return ""


class Report(Record):
    """A plan, as --json writes it."""

    size: Size
    node_memory_bytes: int
    recall: float
    sample_rows: int
    """0: there was no sample."""
    sample_queries: int
    max_read_bytes: int
    """What a search may read from the disk of a node."""
    options: tuple[Option, ...] = ()
    """Best first: what will do, by the fewest nodes and then the fastest."""
    recommended: str = ""
    """The command that builds the first; empty when none is known to do."""


def plan_index(options: argparse.Namespace, announce: Announce) -> Report:
    """Plan what the options of `plan` say. Raises SettingsError, PlanError and what sources raise."""
    size = size_of(options)
    limits = {"nodes": options.nodes, "shards": options.shards}
    plans = [plan_layout(layout, size, **limits) for layout in candidates(size.dim)]
    sample = read_sample(options) if options.sample is not None else None
    found = [Option(plan=plan) for plan in plans]
    if sample is not None:
        found = with_trials(plans, size, sample, options.recall, announce)
    report = Report(
        size=size,
        node_memory_bytes=bytes_of(options.node_memory),
        recall=options.recall,
        sample_rows=len(sample.rows) if sample else 0,
        sample_queries=len(sample.queries) if sample else 0,
        max_read_bytes=bytes_of(options.max_read),
    )
    return ranked(report, found)


def ranked(report: Report, options: Sequence[Option]) -> Report:
    """The report with these options."""

    def rank(option: Option) -> tuple[bool, bool, bool, int, float]:
        problem, speed = option.problem(report), option.trial.queries_per_s if option.trial else 0.0
        return (not option.plan.fits, bool(problem), not option.reached, option.plan.nodes, -speed)

    best, *others = sorted(options, key=rank)
    will_do = best.reached and not best.problem(report)
    recommended = command_of(best, report.size) if will_do else ""
    return report.model_copy(update={"options": (best, *others), "recommended": recommended})


def size_of(options: argparse.Namespace) -> Size:
    """What is planned for. Raises SettingsError."""
    whole = {"--dim": options.dim, "--nodes": options.nodes, "--shards": options.shards}
    for name, value in whole.items():
        if value is not None and value < 1:
            raise SettingsError(f"{name} is {value}: give 1 or more")
    if not 1 <= options.k <= MAX_K:
        raise SettingsError(f"--k is {options.k}: shards answer 1 to {MAX_K}")
    if not 0 < options.recall <= 1:
        raise SettingsError(f"--recall is {options.recall:g}: give a share such as 0.95")
    if not 0 <= options.headroom < 1:
        raise SettingsError(f"--headroom is {options.headroom:g}: give a share such as 0.1")
    if options.queries is not None and options.sample is None:
        raise SettingsError("--queries ask a sample: name its rows with --sample")
    return Size(
        rows=count_of(options.rows),
        dim=options.dim,
        metric=options.metric,
        usable_bytes=int(bytes_of(options.node_memory) * (1 - options.headroom)),
        k=options.k,
        read_only=options.read_only,
    )


def with_trials(
    plans: Sequence[LayoutPlan], size: Size, sample: Sample, recall: float, announce: Announce
) -> list[Option]:
    """Try those that fit; each is then planned with the effort and the rescoring that it needs."""
    fitting = {template_of(plan.layout): plan for plan in plans if plan.fits}
    found = [Option(plan=plan) for plan in plans if not plan.fits]
    for template, trial in try_layouts([*fitting], sample, recall, announce):
        plan, effort = fitting[template], trial.layout.effort
        if template.is_ivf:
            effort = math.ceil(trial.share * plan.layout.lists)
        plan = with_search(plan, size, effort=effort, rescore=trial.layout.rescore)
        found.append(Option(plan=plan, trial=trial))
    return found


def template_of(layout: Layout) -> Layout:
    """A layout without what follows from its rows."""
    return layout.model_copy(update={"lists": 0, "effort": 0})


def check_report(report: Report) -> None:
    """Raise DoesNotFitError or PlanError when nothing does what was asked."""
    if report.recommended or any(is_unknown(option, report) for option in report.options):
        return
    fitting = [option for option in report.options if option.plan.fits]
    if not fitting:
        nearest = min((option.plan for option in report.options), key=lambda plan: plan.over_bytes)
        raise DoesNotFitError(
            f"nothing fits: what is nearest, {nearest.layout.words} in {nearest.shards} shards on "
            f"{nearest.nodes} nodes, {nearest.refusal}; allow more nodes or shards, or larger nodes"
        )
    problems = {option.problem(report): option for option in fitting}
    reasons = "; ".join(f"{shown(one.plan.layout)} {problem}" for problem, one in problems.items())
    raise PlanError(
        f"nothing that fits will do: {reasons}. Allow more nodes, or ask for less with --recall or --max-read"
    )


def is_unknown(option: Option, report: Report) -> bool:
    """Whether only its recall is not known."""
    return not option.reached and not option.problem(report)


def command_of(option: Option, size: Size) -> str:
    """The command that builds an option, for vectors in vectors.npy."""
    plan, layout = option.plan, option.plan.layout
    words = ["python -m serving.index build build/index --name g1 --vectors vectors.npy"]
    words += [f"--metric {size.metric} --layout {layout.kind} --shards {plan.shards}"]
    if layout.is_ivf:
        words += [f"--lists {layout.lists}"]
    if layout.kind == "ivf-pq":
        words += [f"--code-bytes {layout.code_bytes}"]
    if layout.effort:
        words += [f"--effort {layout.effort}"]
    if layout.rescore:
        words += [f"--rescore {layout.rescore}"]
    if layout.on_disk:
        words += ["--on-disk"]
    return " ".join(words)


def table_of(report: Report) -> Table:
    """The options, best first; what will not do is dim, with the reason."""
    size = report.size
    table = Table(
        title=f"{size.rows:,} rows of {size.dim} components on nodes of "
        f"{report.node_memory_bytes / GB:,.2f} GB, of which {size.usable_bytes / GB:,.2f} are used",
        caption=caption_of(report),
        caption_justify="left",
    )
    table.add_column("layout")
    for name in ("nodes", "shards", "lists", "effort", "re-\nscore", "a\nshard", "serving"):
        table.add_column(name, justify="right")
    for name in (
        "com-\npacting",
        "swit-\nching",
        "disk",
        "MB read\na search",
        f"recall\n@{size.k}",
    ):
        table.add_column(name, justify="right")
    if report.sample_rows:
        table.add_column("queries\n/s", justify="right")
        table.add_column("p50\nms", justify="right")
    for option in report.options:
        table.add_row(*cells_of(option), style="dim" if option.problem(report) else None)
    return table


def cells_of(option: Option) -> list[str]:
    """A row of the table."""
    plan, node, trial = option.plan, option.plan.node, option.trial
    layout = plan.layout
    counts = (plan.nodes, plan.shards, layout.lists, layout.effort, layout.rescore)
    sizes = (plan.shard.loaded_bytes, node.serving_bytes, node.compacting_bytes)
    cells = [shown(layout), *(f"{count:,}" if count else "" for count in counts)]
    cells += [f"{size / GB:,.2f}" for size in (*sizes, node.switching_bytes, node.disk_bytes)]
    cells += [f"{plan.read_bytes / MB:,.1f}"]
    if trial is None:
        return [*cells, "1 (exact)" if layout.kind == "flat" else "not measured"]
    return [*cells, f"{trial.recall:.3f}", f"{trial.queries_per_s:,.0f}", f"{trial.p50_ms:.2f}"]


def caption_of(report: Report) -> str:
    """What the numbers are, what they are not, and why some layouts will not do."""
    lines = [
        "GB of a shard as it was loaded, and of a node: the largest decides. MB read: codes on disk and",
        "rescored rows that a node's memory has no room for; measured times are without.",
    ]
    if report.sample_rows:
        lines += [
            f"Recall and speed are those of {report.sample_rows:,} rows, asked {report.sample_queries:,} "
            "queries one by one on one thread.",
            "Shards have more rows and lists: searches visit the same share of them, which is more than the",
            "same recall needs there, and take time in proportion to the rows.",
        ]
    else:
        lines += ["Recall and speed: not measured: give --sample."]
    problems = [(option.plan.layout, option.problem(report)) for option in report.options]
    return "\n".join(
        [*lines, *(f"{shown(layout)} {problem}." for layout, problem in problems if problem)]
    )
