"""Time the products of all convolutions with the patterns of chapter 3.

    python scripts/measure_patterns.py

A convolution is a matrix product of its weight with the patches of the image. For each pattern
of results/sparsity.jsonl, every layer takes the fastest of the kernels that can use its zeros,
dense among them; then all layers of the network are timed together, batch 1, one thread, all
patterns interleaved with the dense network. Writes results/patterns-latency.json: the records
of seed 0 with this time. Refuses to write a disturbed measurement.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from slimcnn import checkpoints, latency, report
from slimcnn.provenance import cpu_name, provenance
from slimcnn.sparsity.kernels import matmul_kernels
from sweep_sparsity import PATTERNS, permuted, prunable
from sweeps import ROOT

ROUNDS = 100
# Rows and columns of the blocks that a pattern is made of; others are tried with 4×4.
BLOCKS = {"vector 1x4": (1, 4), "kernel": (1, 9)}
RUNTIME = "matrix products, fastest kernels"


def products(
    model: nn.Module, masks: Mapping[str, Tensor], block: tuple[int, int]
) -> dict[str, dict[str, Callable[[], object]]]:
    """For each convolution the kernels that multiply its masked weight with random patches."""
    sizes: dict[str, tuple[int, int]] = {}

    def watch(name: str) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            sizes[name] = module.weight[0].numel(), output.shape[2] * output.shape[3]

        return hook

    convolutions = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    handles = [m.register_forward_hook(watch(n)) for n, m in convolutions.items()]
    with torch.inference_mode():
        model.eval()(torch.zeros(1, 1, 28, 28))
    for handle in handles:
        handle.remove()
    found = {}
    for name, module in convolutions.items():
        weight = module.weight.detach()
        key = f"{name}.weight"
        patches = torch.randn(sizes[name], generator=torch.Generator().manual_seed(0))
        if key not in masks:  # the stem stays dense
            matrix = weight.flatten(1)
            found[name] = {"dense": lambda w=matrix, x=patches: w @ x}
            continue
        fits = all(s % b == 0 for s, b in zip(weight.flatten(1).shape, block, strict=True))
        matrix = (weight * masks[key]).flatten(1)
        found[name] = matmul_kernels(matrix, patches, block if fits else (1, 1))
    return found


def together(kernels: list[Callable[[], object]]) -> Callable[[], object]:
    """All of them, one after the other."""

    def run() -> object:
        for kernel in kernels:
            result = kernel()
        return result

    return run


def main() -> None:
    """Choose kernels, time, write."""
    model = checkpoints.load("resnet14")
    records = {
        record.settings["variant"]: record
        for record in report.load_records("sparsity")
        if record.technique == "sparsity pattern" and record.seed == 0
    }
    callables, chosen = {}, {}
    for variant in records:
        name = variant.removesuffix(" 75").removesuffix(" permuted")
        network = permuted(model, 2, 4) if variant.endswith("permuted") else model
        masks = {key: PATTERNS[name](score) for key, score in prunable(network).items()}
        with latency.thread_limit(1):
            layers = products(network, masks, BLOCKS.get(name, (4, 4)))
        fastest = {}
        for layer, kernels in layers.items():
            timed = latency.measure(kernels, rounds=30, warmup=5)
            fastest[layer] = min(timed, key=lambda kernel: timed[kernel].median)
        chosen[variant] = sorted(set(fastest.values()))
        callables[variant] = together([layers[n][kernel] for n, kernel in fastest.items()])
        callables.setdefault("dense", together([kernels["dense"] for kernels in layers.values()]))
    timed = latency.measure(callables, rounds=ROUNDS)
    if disturbed := [name for name, t in timed.items() if t.disturbed]:
        sys.exit(f"disturbed, nothing written: {disturbed}; try again on a quiet machine")
    (dense,) = [
        r
        for r in report.load_records("baselines")
        if r.model == "resnet14" and r.seed == 0 and r.technique == "dense"
    ]
    written = []
    for name, t in timed.items():
        record = records.get(name, dense)
        recorded = report.RecordedLatency(
            median_ms=t.median,
            q1_ms=t.q1,
            q3_ms=t.q3,
            cpu_wall=t.cpu_wall,
            disturbed=t.disturbed,
            rounds=len(t.samples),
            threads=t.threads,
            runtime=RUNTIME,
            cpu=cpu_name(),
        )
        settings = {"variant": name, "kernels": ", ".join(chosen.get(name, ["dense"]))}
        source = provenance("python scripts/measure_patterns.py")
        written.append(replace(record, latency=recorded, settings=settings, provenance=source))
        print(f"{name:20}{t}  {settings['kernels']}")
    report.save_records(written, ROOT / "results" / "patterns-latency.json")


if __name__ == "__main__":
    main()
