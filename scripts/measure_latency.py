"""Time the book's networks in each runtime and store the records.

    python scripts/measure_latency.py             the two networks, three runtimes (chapter 1)
    python scripts/measure_latency.py pruning     networks with fewer channels (chapter 2)
    python scripts/measure_latency.py lowrank     networks with factorized layers (chapter 5)
    python scripts/measure_latency.py quantization    networks of eight bits (chapter 6)
    python scripts/measure_latency.py results     what is faster by any technique (all results)
    python scripts/measure_latency.py recipe      MobileNetV2 by the recipe (after sweep_recipe.py)

Writes results/latency.json or results/SWEEP-latency.json: one record a network and runtime,
batch 1, one thread, all candidates interleaved in one process. Refuses to write a disturbed
measurement.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import nn

import sweep_recipe
from rivals import RIVALS
from slimcnn import (
    checkpoints,
    data,
    export,
    latency,
    lowrank,
    models,
    pruning,
    quantization,
    report,
)
from sweeps import ROOT, weights_file

ROUNDS = 300
BASELINES = ("resnet14", "student")
CHANNELS = "channels L1 50"
PRUNED = (
    *(CHANNELS, "channels L1 50 longer", "channels L1 35", "channels L1 25"),
    *("channels unaligned L1 50", "channels unaligned L1 25"),
)
FACTORIZED = (
    *(
        f"{method} {budget}"
        for method in ("spatial", "channel, data-aware", "Tucker-2")
        for budget in (75, 50, 35)
    ),
    *("channel 50", "input 50", "CP 50"),
)


class Candidate(NamedTuple):
    """A network, its file, and the technique that made it."""

    model: nn.Module
    path: Path
    technique: str = "dense"
    network: str = "resnet14"
    write: Callable[[nn.Module, Path], object] | None = None  # the .onnx file, if not an export


def baseline(name: str) -> Candidate:
    """A network of the book."""
    return Candidate(checkpoints.load(name), checkpoints.entry(name).path, network=name)


def finalist(variant: str, load: Callable, technique: str) -> Candidate:
    """A ResNet-14 from results/weights/."""
    path = weights_file(variant, 0)
    return Candidate(load(models.build("resnet14"), path), path, technique)


def eight_bits(name: str) -> dict[str, Candidate]:
    """A network of the book in int8, by us and by those whose files ONNX Runtime reads."""
    images = data.load("train").subset(500).images

    def ours(model: nn.Module, path: Path) -> None:
        network = quantization.quantize(model, quantization.Scheme(), images)
        network = quantization.place_quantizers(network, images)
        quantization.to_qdq_onnx(network, data.normalize(images[:1]), path)

    ways = {"slimcnn": ours}
    for package in ("onnxruntime", "nncf"):
        ways[package] = lambda model, path, make=RIVALS[package]: make(model, images, path)
    model, path = quantization.fold_batch_norm(checkpoints.load(name)), checkpoints.entry(name).path
    technique = "post-training quantization"
    return {
        f"{name} int8 by {package}": Candidate(model, path, technique, name, write)
        for package, write in ways.items()
    }


def recipe() -> dict[str, Candidate]:
    """MobileNetV2 as the recipe of the page of all results leaves it, step by step."""
    images = data.normalize(data.load("train").subset(500).images)
    found = {}
    for variant, load in sweep_recipe.LOADED.items():
        path = sweep_recipe.weights(variant)
        model = load(sweep_recipe.network(), path).eval()
        technique = "channel pruning" if load is pruning.load_pruned else "dense"
        found[variant] = Candidate(model, path, technique, "mobilenet_v2")
        found[sweep_recipe.rounded(variant)] = Candidate(
            *(model, path, "post-training quantization", "mobilenet_v2"),
            lambda model, path: sweep_recipe.RUNTIME.quantize(model, images, path),
        )
    return found


def candidates(sweep: str) -> dict[str, Candidate]:
    """What is timed together."""
    if sweep == "recipe":
        return recipe()
    if sweep == "baselines":
        return {name: baseline(name) for name in BASELINES}
    if sweep == "quantization":
        found = {name: baseline(name) for name in BASELINES}
        for name in BASELINES:
            found |= eight_bits(name)
        return found
    pruned = PRUNED if sweep == "pruning" else (CHANNELS,)
    factorized = FACTORIZED if sweep == "lowrank" else ()
    if sweep == "results":
        found = {name: baseline(name) for name in BASELINES}
        for v in ("channels L1 50 longer", "channels L1 35", "channels L1 25 longer"):
            found[v] = finalist(v, pruning.load_pruned, "channel pruning")
        for v in ("spatial 50", "channel, data-aware 50", "Tucker-2 50"):
            found[v] = finalist(v, lowrank.load_factorized, "low rank")
        for name, variant in zip(BASELINES, ("int8", "student int8"), strict=True):
            found[variant] = eight_bits(name)[f"{name} int8 by slimcnn"]
        return found
    return (
        {"dense": baseline("resnet14")}
        | {v: finalist(v, pruning.load_pruned, "channel pruning") for v in pruned}
        | {v: finalist(v, lowrank.load_factorized, "low rank") for v in factorized}
    )


def measure(
    networks: Mapping[str, Candidate], runtimes: tuple[str, ...], command: str
) -> dict[tuple[str, str], tuple[report.Record, latency.Latency]]:
    """Export, check parity, time all together; by network and runtime.

    What is not called as its network has that name as its record's variant.
    """
    image = data.normalize(data.load("validation").images[:1])
    with tempfile.TemporaryDirectory() as folder:
        files, callables = {}, {}
        for name, (model, weights, _, _, write) in networks.items():
            for runtime in runtimes:
                path, make = weights, latency.eager
                given = model
                if runtime == "ONNX Runtime":
                    given = path = Path(folder) / f"{name}.onnx"
                    (write or partial(export.to_onnx, example=image))(model, path=path)
                    make = latency.onnxruntime
                if runtime == "ExecuTorch":
                    given = path = export.to_executorch(model, image, Path(folder) / f"{name}.pte")
                    make = latency.executorch
                files[name, runtime], callables[name, runtime] = path, make(given, image)
            reference = latency.eager(model, image)()
            for runtime in runtimes:
                logits = callables[name, runtime]()
                difference = float((logits - reference).norm() / reference.norm())
                if difference > (1e-4 if write is None else 0.2):
                    sys.exit(f"{name} in {runtime}: logits differ by {100 * difference:.2g} %")
                print(f"{name} in {runtime}: logits of eager PyTorch to {100 * difference:.2g} %")
        timed = latency.measure(callables, rounds=ROUNDS)
        if disturbed := [key for key, t in timed.items() if t.disturbed]:
            sys.exit(f"disturbed, nothing written: {disturbed}; try again on a quiet machine")
        found = {}
        for (name, runtime), t in timed.items():
            network = networks[name].network
            variant = {} if name == network else {"variant": name}
            record = report.measure_model(
                networks[name].model,
                name=network,
                technique=networks[name].technique,
                seed=0,
                split=data.load("test"),
                settings={"runtime": runtime, "batch": 1} | variant,
                latency=t,
                runtime=runtime,
                path=files[name, runtime],
                command=command,
            )
            found[name, runtime] = record, t
    return found


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    choices = ("baselines", "pruning", "lowrank", "quantization", "results", "recipe")
    parser.add_argument("sweep", nargs="?", choices=choices, default=choices[0])
    sweep = parser.parse_args().sweep
    runtimes, command, file = (
        ("ONNX Runtime",),
        f"measure_latency.py {sweep}",
        f"{sweep}-latency.json",
    )
    if sweep == "baselines":
        runtimes = ("eager PyTorch", "ONNX Runtime", "ExecuTorch")
        command, file = "measure_latency.py", "latency.json"
    found = measure(candidates(sweep), runtimes, f"python scripts/{command}")
    report.save_records([record for record, _ in found.values()], ROOT / "results" / file)
    for (name, runtime), (_, t) in found.items():
        print(f"{name:30}{runtime:16}{t}")


if __name__ == "__main__":
    main()
