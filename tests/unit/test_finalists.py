"""Weights of finalists in results/weights/: each is rebuilt and must reproduce its record."""

from pathlib import Path

import pytest

from slimcnn import (
    checkpoints,
    coding,
    data,
    lowrank,
    metrics,
    models,
    pruning,
    quantization,
    report,
    sparsity,
    training,
)
from slimcnn.stored import KINDS
from sweeps import ROOT, weights_file

IMAGES = 5  # of 10,000 may come out otherwise on another processor


def finalists():
    """(record, file) of every final run whose weights are kept."""
    for path in sorted((ROOT / "results").glob("*.jsonl")):
        for record in report.load_records(path):
            for kind in KINDS:
                file = weights_file(record.settings.get("variant", ""), record.seed, kind)
                if record.stage == "final" and "variant" in record.settings and file.exists():
                    yield pytest.param(record, file, id=file.stem)


def rebuild(record: report.Record, file: Path):
    """The network in a file: its architecture follows from the technique and the file."""
    network = models.build(record.model)
    if record.technique in ("weight pruning", "sparsity pattern"):
        return sparsity.load_encoded(network, file)
    if record.technique == "channel pruning":
        return pruning.load_pruned(network, file)
    if record.technique == "low rank":
        return lowrank.load_factorized(network, file)
    if file.suffix == ".slim":
        return coding.load_slim(file, quantization.fold_batch_norm(network))
    if "quantiz" in record.technique:
        network = quantization.load_quantized(quantization.fold_batch_norm(network), file)
        if record.settings.get("arithmetic") != "integers":
            return network
        images = data.load("train").subset(500).images
        return quantization.IntegerNetwork(quantization.place_quantizers(network, images))
    checkpoints.load_weights_(network, file)
    return network


@pytest.mark.parametrize(("record", "file"), list(finalists()))
def test_a_finalist_reproduces_its_record(record, file):
    network, test = rebuild(record, file).eval(), data.load("test")
    found = {
        "bytes": file.stat().st_size,
        "macs": metrics.count_macs(network, (1, 1, 28, 28)),
        "parameters": metrics.count_parameters(network),
        "nonzeros": metrics.count_nonzeros(network),
    }
    assert found == {name: getattr(record, name) for name in found}
    right = round(training.evaluate(network, test) * len(test) / 100)
    assert abs(right - round(record.accuracy * len(test) / 100)) <= IMAGES


def test_all_weights_together_stay_small():
    kept = list((ROOT / "results" / "weights").iterdir())
    assert sum(file.stat().st_size for file in kept) <= 40e6
    named = {param.values[1] for param in finalists()}
    named |= {entry.path for entry in checkpoints.entries()}
    assert set(kept) <= named, "weights without a record"
