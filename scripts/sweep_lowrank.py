"""The experiments of chapter 5: networks with factorized layers.

    python scripts/sweep_lowrank.py             run what is missing (hours)
    python scripts/sweep_lowrank.py --list      say what is there and what is missing

Every run factorizes the baseline of its seed, ranks chosen on validation images, and has the
fine-tuning of chapter 2. Appends one record a run to results/lowrank.jsonl, predictions to
results/lowrank-predictions.safetensors, and keeps the weights of the finalists' seed 0. What the
network did before fine-tuning, on validation, is in the record's settings.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch.nn.functional as F
from torch import nn

from slimcnn import checkpoints, data, lowrank, pruning, report, sparsity, training
from sweep_pruning import FINE_TUNE, SHAPE, STEPS_AN_EPOCH, fine_tune
from sweeps import ROOT, Run, final_record, on_best_device, sweep

RECORDS = ROOT / "results" / "lowrank.jsonl"
FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8)  # of a layer's weights, for the scan
# Where the settings of a variant say "channel, data-aware", the outputs' moments decide.
METHODS = {
    "channel": ("channel", "svd"),
    "channel, data-aware": ("channel", "svd"),
    "input": ("input", "svd"),
    "spatial": ("spatial", "svd"),
    "Tucker-2": ("tucker2", "svd"),
    "CP": ("cp", "svd"),
}


def moments_for(model: nn.Module, name: str) -> dict | None:
    """Second moments of the outputs, if the variant is data-aware."""
    if not name.endswith("data-aware"):
        return None
    return lowrank.output_moments(model, data.load("train").images[:5000])


def by_validation(model: nn.Module, name: str, budget: float) -> lowrank.Plan:
    """Ranks from what each layer costs in validation loss, under a budget of MACs."""
    looked_at = data.load("validation").subset(2000)

    def measure(network: nn.Module) -> float:
        logits = training.predict(on_best_device(network), looked_at.images)
        return -F.cross_entropy(logits, looked_at.labels).item()

    scan = lowrank.layer_sensitivity(
        model, FRACTIONS, measure, methods=METHODS[name], moments=moments_for(model, name)
    )
    damages = lowrank.measured_damages(scan)
    return lowrank.choose_ranks(model, damages, budget=budget, input_shape=SHAPE)


def by_energy(model: nn.Module, name: str, budget: float) -> lowrank.Plan:
    """Ranks from the shares of the kernels that are lost, under a budget of MACs."""
    damages = lowrank.energy_damages(model, METHODS[name], moments_for(model, name))
    return lowrank.choose_ranks(model, damages, budget=budget, input_shape=SHAPE)


def by_evbmf(
    model: nn.Module, name: str, budget: float, whole_classifier: bool = False
) -> lowrank.Plan:
    """Ranks by variational Bayes, which knows no budget; only where they save weights."""
    plan = {}
    for layer, module in lowrank.candidates(model, METHODS[name]).items():
        if whole_classifier and isinstance(module, nn.Linear):
            continue
        method = "svd" if isinstance(module, nn.Linear) else METHODS[name][0]
        rank = lowrank.rank_by(module, method, lowrank.evbmf_rank)
        whole = sum(parameter.numel() for parameter in module.parameters())
        if lowrank.factorized_parameters(module, method, rank) < whole:
            plan[layer] = lowrank.Choice(method, rank)
    return plan


def factorized(
    name: str, budget: float, choose: Callable, variant: str, seed: int, state: Path
) -> report.Record:
    """The baseline of a seed, factorized and fine-tuned."""
    model = checkpoints.load("resnet14", seed)
    plan = choose(model, name, budget)
    made = lowrank.factorize(model, plan, moments_for(model, name))
    before = pruning.recalibrate(on_best_device(made), data.load("train").images[:5000])
    tuned = fine_tune(made, seed, state)
    return final_record(
        tuned,
        "lowrank",
        variant,
        seed,
        "low rank",
        save=lowrank.save_factorized,
        keep=seed == 0 and choose is by_validation,
        epochs=FINE_TUNE.epochs,
        budget=budget,
        before_fine_tuning=training.evaluate(before, data.load("validation")),
    )


def pruned_factors(zeros: float, variant: str, seed: int, state: Path) -> report.Record:
    """A factorized network whose factors are pruned, too, gradually."""
    model = checkpoints.load("resnet14", seed)
    made = lowrank.factorize(model, by_validation(model, "spatial", 0.5))
    masked = pruning.apply_masks(made, pruning.layerwise_masks(pruning.magnitude(made), 0.0))
    steps = STEPS_AN_EPOCH * FINE_TUNE.epochs * 2 // 3
    schedule = pruning.GradualPruning(zeros, steps, every=STEPS_AN_EPOCH // 5)
    tuned = fine_tune(masked, seed, state, before_step=schedule)
    return final_record(
        tuned,
        "lowrank",
        variant,
        seed,
        "low rank, pruned",
        save=sparsity.save_encoded,
        keep=False,
        epochs=FINE_TUNE.epochs,
        zeros=zeros,
    )


def runs() -> list[Run]:
    """Everything, in the order of need."""
    found = []

    def add(variant: str, seeds: tuple[int, ...], minutes: float, work: Callable) -> None:
        found.extend(Run(variant, s, minutes, partial(work, variant, s)) for s in seeds)

    three, one = (0, 1, 2), (0,)
    for budget in (50, 75, 35):
        for name in ("spatial", "channel, data-aware", "Tucker-2"):
            work = partial(factorized, name, budget / 100, by_validation)
            add(f"{name} {budget}", three if budget == 50 else one, 8, work)
    for name in ("channel", "input", "CP"):
        add(f"{name} 50", one, 8, partial(factorized, name, 0.5, by_validation))
    add("spatial 50 by energy", one, 6, partial(factorized, "spatial", 0.5, by_energy))
    add("Tucker-2 by EVBMF", one, 6, partial(factorized, "Tucker-2", 1.0, by_evbmf))
    work = partial(factorized, "Tucker-2", 1.0, partial(by_evbmf, whole_classifier=True))
    add("Tucker-2 by EVBMF, convolutions", one, 6, work)
    add("spatial 50, half pruned", one, 8, partial(pruned_factors, 0.5))
    return found


if __name__ == "__main__":
    sweep(__doc__.split("\n")[0], RECORDS, runs())
