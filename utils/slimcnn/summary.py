"""Several seeds of one recipe as one row: mean, standard deviation, and no mixing.

A screen never enters a final table, and accuracies on two splits are never put side by
side: `summarize` refuses both. `pareto_front` says which rows are worth having.
"""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from slimcnn.record import Record, RecordedLatency, RecordError


@dataclass(frozen=True)
class Summary:
    """The records of one model, technique and settings, over their seeds.

    Attributes:
        model, technique, settings, stage, split: as in each of the records.
        seeds: of the records, ascending.
        accuracy: mean, percent.
        accuracy_std: sample standard deviation (n − 1), points; None for one seed.
        parameters, nonzeros, macs, bytes: means; they differ between seeds only where the
            technique decides by value, as a global threshold or a code table does.
        latency: means of medians and quartiles over the records that have one, or None.
    """

    model: str
    technique: str
    settings: dict
    stage: str
    split: str
    seeds: tuple[int, ...]
    accuracy: float
    accuracy_std: float | None
    parameters: float
    nonzeros: float
    macs: float
    bytes: float
    latency: RecordedLatency | None


def summarize(
    records: Iterable[Record],
    by: Sequence[str] = ("model", "technique", "settings"),
    *,
    stage: str | None = None,
) -> list[Summary]:
    """Join records that differ only in their seed, in order of first appearance.

    Args:
        records: of one stage and one split.
        by: what makes a group: "model", "technique", "settings" (all of them) or single
            settings as "settings.NAME". Settings that are not named may differ in a group,
            and only those that agree are kept in its summary.
        stage: refuse any other stage, such as "screen" in a table of final results.

    Raises:
        RecordError: no records; stages or splits are mixed; one seed twice in a group;
            a group mixes models, techniques, or runtimes.
    """
    records = list(records)
    if not records:
        raise RecordError("there are no records to summarize")
    for name in by:
        if name not in ("model", "technique", "settings") and not name.startswith("settings."):
            raise RecordError(
                f"records cannot be grouped by {name!r}; allowed are 'model', 'technique',"
                " 'settings' and 'settings.NAME'"
            )
    require_same(records, "stage", "screens and final runs are not compared")
    require_same(records, "split", "accuracies on different images are not compared")
    if stage is not None and records[0].stage != stage:
        raise RecordError(f"these are {records[0].stage} records; {stage} records are needed")
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(_key(record, by), []).append(record)
    return [_join(group) for group in groups.values()]


def pareto_front(costs: Sequence[float], accuracies: Sequence[float]) -> list[int]:
    """The points that no other point beats, by ascending cost.

    A point is beaten by one that costs no more and is no less accurate, and is better in
    one of the two. Equal points do not beat each other.

    Args:
        costs, accuracies: of the same N points.

    Returns:
        Indices of the points on the front.
    """
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -accuracies[i]))
    front: list[int] = []
    for index in order:
        better = not front or accuracies[index] > accuracies[front[-1]]
        equal = front and (costs[index], accuracies[index]) == (
            costs[front[-1]],
            accuracies[front[-1]],
        )
        if better or equal:
            front.append(index)
    return front


def varying_settings(summaries: Sequence[Summary]) -> list[str]:
    """Names of the settings that are not the same in all summaries, in order of appearance."""
    names = dict.fromkeys(name for summary in summaries for name in summary.settings)
    absent = object()
    first = summaries[0].settings if summaries else {}
    return [
        name
        for name in names
        if any(s.settings.get(name, absent) != first.get(name, absent) for s in summaries)
    ]


def _key(record: Record, by: Sequence[str]) -> str:
    parts: list[object] = []
    for name in by:
        if name.startswith("settings."):
            parts.append(record.settings.get(name.removeprefix("settings.")))
        else:
            parts.append(getattr(record, name))
    return json.dumps(parts, sort_keys=True)


def _join(group: list[Record]) -> Summary:
    first = group[0]
    what = f"{first.model}, {first.technique}, {first.settings}"
    for name in ("model", "technique"):
        require_same(group, name, f"add {name!r} to `by`")
    seeds = sorted(record.seed for record in group)
    if len(set(seeds)) < len(seeds):
        raise RecordError(
            f"{what}: a seed appears twice in {seeds}; drop the repeated run, or name the"
            " setting that tells the runs apart in `by`"
        )
    accuracies = [record.accuracy for record in group]
    return Summary(
        model=first.model,
        technique=first.technique,
        settings={
            name: value
            for name, value in first.settings.items()
            if all(name in r.settings and r.settings[name] == value for r in group)
        },
        stage=first.stage,
        split=first.split,
        seeds=tuple(seeds),
        accuracy=statistics.fmean(accuracies),
        accuracy_std=statistics.stdev(accuracies) if len(group) > 1 else None,
        parameters=statistics.fmean(record.parameters for record in group),
        nonzeros=statistics.fmean(record.nonzeros for record in group),
        macs=statistics.fmean(record.macs for record in group),
        bytes=statistics.fmean(record.bytes for record in group),
        latency=_join_latencies([r.latency for r in group if r.latency is not None], what),
    )


def _join_latencies(latencies: list[RecordedLatency], what: str) -> RecordedLatency | None:
    if not latencies:
        return None
    for name in ("runtime", "threads", "cpu"):
        require_same(latencies, name, f"{what}: such latencies are not averaged")
    means = {
        name: statistics.fmean(getattr(latency, name) for latency in latencies)
        for name in ("median_ms", "q1_ms", "q3_ms", "cpu_wall")
    }
    return replace(
        latencies[0],
        **means,
        rounds=sum(latency.rounds for latency in latencies),
        disturbed=any(latency.disturbed for latency in latencies),
    )


def require_same(items: Sequence[object], name: str, reason: str) -> None:
    """Refuse items whose attribute `name` is not the same everywhere."""
    values = list(dict.fromkeys(getattr(item, name) for item in items))
    if len(values) > 1:
        raise RecordError(f"{name} is {' and '.join(map(repr, values))}; {reason}")
