"""Write the page of all results, book/results.md and its two figures, from the records.

    python scripts/results_page.py

Its text is in results_page.md, where every number is a blank: run this again whenever records are
added.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl

from slimcnn import checkpoints, data, metrics, report
from slimcnn.summary import Summary
from sweeps import ROOT

# Sweeps by chapter, and the lesson to read about each.
SWEEPS = {
    "pruning": "../chapters/02-pruning/magnitude.ipynb",
    "sparsity": "../chapters/03-sparsity/patterns.ipynb",
    "distillation": "../chapters/04-distillation/soft-targets.ipynb",
    "lowrank": "../chapters/05-low-rank/tensors.ipynb",
    "quantization": "../chapters/06-quantization/post-training.ipynb",
    "compression": "../chapters/06-quantization/weight-sharing.ipynb",
}
# What is in the records to be warned of, or as a control of something else.
LEFT_OUT = ("planted fault",)
NAMES = {"resnet14": "ResNet-14", "student": "student"}


@dataclass(frozen=True)
class Row:
    """One method, its seeds joined.

    Attributes:
        summary: of its records.
        lesson: where it is explained.
        difference: from the baseline of its network, image by image and seed by seed, with its
            95 % interval; None with one seed.
    """

    summary: Summary
    lesson: str
    difference: metrics.PairedDifference | None

    @property
    def name(self) -> str:
        """What was done."""
        variant = self.summary.settings.get("variant", "baseline")
        return str(variant).removeprefix("student ")


def rows() -> list[Row]:
    """All final results on the test set, in the order of the chapters."""
    labels = data.load("test").labels
    right = {name: checkpoints.predictions(name) == labels for name in NAMES}
    found = [
        Row(summary, "../chapters/01-measuring/accuracy.ipynb", None)
        for summary in _summaries("baselines")
        if summary.model in NAMES
    ]
    for sweep, lesson in SWEEPS.items():
        for summary in _summaries(sweep):
            difference = None
            if len(summary.seeds) == 3:
                predicted = report.load_predictions(sweep, summary.settings["variant"])
                difference = metrics.paired_bootstrap(right[summary.model], predicted == labels)
            found.append(Row(summary, lesson, difference))
    return found


def _summaries(sweep: str) -> list[Summary]:
    records = [
        record
        for record in report.load_records(sweep)
        if (record.stage, record.split) == ("final", "test") and record.technique not in LEFT_OUT
    ]
    return report.summarize(records, by=("model", "technique", "settings.variant"))


def table(chosen: Sequence[Row]) -> Iterator[str]:
    """The lines of a table, most accurate first within its network."""
    titles = ("network", "technique", "what was done", "accuracy (%)", "against the baseline")
    yield "| " + " | ".join((*titles, "bytes", "MACs")) + " |"
    yield "|---|---|---|---:|---:|---:|---:|"
    for row in sorted(chosen, key=lambda r: (r.summary.model, -r.summary.accuracy)):
        s, d = row.summary, row.difference
        spread = f" ± {s.accuracy_std:.2f}" if s.accuracy_std is not None else ""
        paired = f"{d.difference:+.2f} ({d.low:+.2f} to {d.high:+.2f})" if d else ""
        name = "baseline" if row.name == "baseline" else f"[{row.name}]({row.lesson})"
        yield (
            f"| {NAMES[s.model]} | {s.technique} | {name} | {s.accuracy:.2f}{spread} | {paired}"
            f" | {round(s.bytes):,} | {s.macs / 1e6:.1f} M |"
        )


def timed(found: Sequence[Row]) -> list[Summary]:
    """What was timed together, with the accuracy of its sweep."""
    accuracies = {(r.summary.model, r.name): r.summary for r in found}
    result = []
    for record in report.load_records("results-latency"):
        variant = record.settings.get("variant", "baseline")
        key = record.model, variant.removeprefix("student ")
        result.append(replace(accuracies[key], latency=record.latency))
    return result


def tried() -> Iterator[str]:
    """The lines of the recipe's table: another network, step by step, against its control."""
    control = "dense, trained on"
    labels = data.load("test").labels
    steps = {s.settings["variant"]: s for s in _summaries("recipe")}
    right = {name: report.load_predictions("recipe", name) == labels for name in steps}
    times = {r.settings["variant"]: r.latency for r in report.load_records("recipe-latency")}
    yield "| MobileNetV2 | accuracy (%) | against the control | kB | MACs | ms |"
    yield "|---|---:|---:|---:|---:|---:|"
    for variant, s in steps.items():
        d = metrics.paired_bootstrap(right[control], right[variant])
        paired = f"{d.difference:+.2f} ({d.low:+.2f} to {d.high:+.2f})"
        time = f"{times[variant].median_ms:.3f}" if variant in times else ""
        yield (
            f"| {variant} | {s.accuracy:.2f} | {'' if variant == control else paired}"
            f" | {s.bytes / 1e3:,.0f} | {s.macs / 1e6:.1f} M | {time} |"
        )


def gained() -> dict[str, str]:
    """What the recipe was worth in the end, for the sentence below its table."""
    steps = {s.settings["variant"]: s for s in _summaries("recipe")}
    times = {r.settings["variant"]: r.latency for r in report.load_records("recipe-latency")}
    first, last = "dense, trained on", "half the MACs, int8"
    return {
        "smaller": f"{steps[first].bytes / steps[last].bytes:.0f}",
        "faster": f"{times[first].median_ms / times[last].median_ms:.1f}",
        "lost": f"{steps[first].accuracy - steps[last].accuracy:.1f}",
    }


def figure(summaries: Sequence[Summary], cost: str, path: Path) -> None:
    """Accuracy against cost; what is on the front is named."""
    costs = [s.latency.median_ms if cost == "latency" else s.bytes for s in summaries]
    front = report.pareto_front(costs, [s.accuracy for s in summaries])
    best = {id(summaries[i]) for i in front}

    def label(summary: Summary) -> str:
        return summary.settings.get("variant", summary.model) if id(summary) in best else ""

    # The same bytes for the same records.
    with mpl.rc_context({"svg.hashsalt": "slimcnn", "svg.fonttype": "path"}):
        made = report.tradeoff(summaries, cost, label=label)
        made.set_size_inches(7.2, 5.4)
        made.savefig(path, metadata={"Date": None, "Creator": None})


def page(found: Sequence[Row]) -> str:
    """The page as MyST Markdown."""
    three = [r for r in found if len(r.summary.seeds) == 3]
    one = [r for r in found if len(r.summary.seeds) < 3]
    by_name = {(r.summary.model, r.name): r for r in found}

    times = {(s.model, s.settings.get("variant")): s.latency.median_ms for s in timed(found)}

    def of(name: str, model: str = "resnet14") -> str:
        s, d = by_name[model, name].summary, by_name[model, name].difference
        lost = f", {d.difference:+.2f} points" if d else ""
        time = times.get((model, s.settings.get("variant")))
        faster = f", {times['resnet14', None] / time:.1f}× as fast as ResNet-14" if time else ""
        return f"{s.accuracy:.2f} %{lost}, {s.bytes / 1e3:,.0f} kB{faster}"

    template = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    return template.format(
        three="\n".join(table(three)),
        one="\n".join(table(one)),
        tried="\n".join(tried()),
        **gained(),
        counts=f"{len(three)} methods on three seeds, {len(one)} on one",
        int8=of("int8"),
        adaround=of("weights 4, AdaRound"),
        coded=of("zeros 90, values 16, halves"),
        channels=of("channels L1 50 longer"),
        quarter=of("channels L1 25 longer"),
        spatial=of("spatial 50"),
        student=of("baseline", "student"),
        taught=of("soft targets", "student"),
        weights=of("gradual 90 longer"),
        pattern=of("2:4"),
        two=of("trained, weights 2"),
    )


def main() -> None:
    """Write the page and its figures."""
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    found, figures = rows(), ROOT / "book" / "figures"
    (ROOT / "book" / "results.md").write_text(page(found), encoding="utf-8")
    rivals = (" by ", "Torch-Pruning")  # in the table, where there is room
    three = [r.summary for r in found if len(r.summary.seeds) == 3]
    three = [s for s in three if not any(n in s.settings.get("variant", "") for n in rivals)]
    figure(three, "bytes", figures / "results-bytes.svg")
    figure(timed(found), "latency", figures / "results-latency.svg")


if __name__ == "__main__":
    main()
