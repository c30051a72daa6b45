"""Time the book's networks in each runtime and store the records (chapter 1).

    python scripts/measure_latency.py

Writes results/latency.json: one record a network and runtime, batch 1, one thread, all
candidates interleaved in one process. Refuses to write a disturbed measurement.
"""

import sys
import tempfile
from pathlib import Path

import torch

from slimcnn import checkpoints, data, export, latency, report

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 300


def main() -> None:
    """Export, check parity, time, write."""
    image = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    test = data.load("test")
    names = ("resnet14", "student")
    models = {name: checkpoints.load(name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        files, callables = {}, {}
        for name, model in models.items():
            onnx = export.to_onnx(model, image, Path(folder) / f"{name}.onnx")
            pte = export.to_executorch(model, image, Path(folder) / f"{name}.pte")
            files |= {
                (name, "eager PyTorch"): checkpoints.entry(name).path,
                (name, "ONNX Runtime"): onnx,
                (name, "ExecuTorch"): pte,
            }
            callables |= {
                (name, "eager PyTorch"): latency.eager(model, image),
                (name, "ONNX Runtime"): latency.onnxruntime(onnx, image),
                (name, "ExecuTorch"): latency.executorch(pte, image),
            }
        for (name, runtime), function in callables.items():
            reference = callables[name, "eager PyTorch"]()
            torch.testing.assert_close(function(), reference, atol=1e-4, rtol=1e-4)
            print(f"{name} in {runtime}: same logits as eager PyTorch")
        timed = latency.measure(callables, rounds=ROUNDS)
        disturbed = [key for key, t in timed.items() if t.disturbed]
        if disturbed:
            sys.exit(f"disturbed, nothing written: {disturbed}; try again on a quiet machine")
        records = [
            report.measure_model(
                models[name],
                name=name,
                technique="dense",
                seed=0,
                split=test,
                settings={"runtime": runtime, "batch": 1},
                latency=t,
                runtime=runtime,
                path=files[name, runtime],
                command="python scripts/measure_latency.py",
            )
            for (name, runtime), t in timed.items()
        ]
    report.save_records(records, ROOT / "results" / "latency.json")
    for (name, runtime), t in timed.items():
        print(f"{name:10}{runtime:16}{t}")


if __name__ == "__main__":
    main()
