"""Time the book's networks in each runtime and store the records.

    python scripts/measure_latency.py               the two networks, three runtimes (chapter 1)
    python scripts/measure_latency.py --finalists   networks with fewer channels (chapter 2)

Writes results/latency.json or results/pruning-latency.json: one record a network and runtime,
batch 1, one thread, all candidates interleaved in one process. Refuses to write a disturbed
measurement.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from slimcnn import checkpoints, data, export, latency, models, pruning, report
from sweeps import ROOT, weights_file

ROUNDS = 300
FINALISTS = (
    *("L1 50", "L1 50 longer", "L1 35", "L1 25"),
    *("unaligned L1 50", "unaligned L1 25"),
)


def baselines() -> dict[str, tuple[nn.Module, Path]]:
    """The two networks of the book and their files."""
    names = ("resnet14", "student")
    return {name: (checkpoints.load(name), checkpoints.entry(name).path) for name in names}


def finalists() -> dict[str, tuple[nn.Module, Path]]:
    """ResNet-14, whole and with fewer channels."""
    found = {"dense": baselines()["resnet14"]}
    for name in FINALISTS:
        path = weights_file(f"channels {name}", 0)
        found[f"channels {name}"] = pruning.load_pruned(models.build("resnet14"), path), path
    return found


def measure(
    networks: Mapping[str, tuple[nn.Module, Path]], runtimes: tuple[str, ...], command: str
) -> dict[tuple[str, str], tuple[report.Record, latency.Latency]]:
    """Export, check parity, time all together; by network and runtime.

    The record's model is the network's name if `models` knows it, else ResNet-14 with that name
    as its variant.
    """
    image = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        files, callables = {}, {}
        for name, (model, weights) in networks.items():
            for runtime in runtimes:
                path, make = weights, latency.eager
                given = model
                if runtime == "ONNX Runtime":
                    given = path = export.to_onnx(model, image, Path(folder) / f"{name}.onnx")
                    make = latency.onnxruntime
                if runtime == "ExecuTorch":
                    given = path = export.to_executorch(model, image, Path(folder) / f"{name}.pte")
                    make = latency.executorch
                files[name, runtime], callables[name, runtime] = path, make(given, image)
            reference = latency.eager(model, image)()
            for runtime in runtimes:
                logits = callables[name, runtime]()
                torch.testing.assert_close(logits, reference, atol=1e-4, rtol=1e-4)
                print(f"{name} in {runtime}: same logits as eager PyTorch")
        timed = latency.measure(callables, rounds=ROUNDS)
        if disturbed := [key for key, t in timed.items() if t.disturbed]:
            sys.exit(f"disturbed, nothing written: {disturbed}; try again on a quiet machine")
        found = {}
        for (name, runtime), t in timed.items():
            known = name in models.MODELS
            record = report.measure_model(
                networks[name][0],
                name=name if known else "resnet14",
                technique="channel pruning" if name.startswith("channels") else "dense",
                seed=0,
                split=data.load("test"),
                settings={"runtime": runtime, "batch": 1} | ({} if known else {"variant": name}),
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
    parser.add_argument("--finalists", action="store_true", help="networks of chapter 2")
    chosen = parser.parse_args().finalists
    networks = finalists() if chosen else baselines()
    runtimes = ("ONNX Runtime",) if chosen else ("eager PyTorch", "ONNX Runtime", "ExecuTorch")
    command = "python scripts/measure_latency.py" + (" --finalists" if chosen else "")
    found = measure(networks, runtimes, command)
    file = "pruning-latency.json" if chosen else "latency.json"
    report.save_records([record for record, _ in found.values()], ROOT / "results" / file)
    for (name, runtime), (_, t) in found.items():
        print(f"{name:28}{runtime:16}{t}")


if __name__ == "__main__":
    main()
