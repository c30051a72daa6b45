"""The sweeps of scripts/: their lists, and the records that are there already."""

import importlib

import pytest

from slimcnn import report

SWEEPS = {
    "pruning": "sweep_pruning",
    "pruning-screen": "screen_pruning",
    "sparsity": "sweep_sparsity",
    "distillation": "sweep_distillation",
    "distillation-screen": "screen_distillation",
    "lowrank": "sweep_lowrank",
    "quantization": "sweep_quantization",
    "quantization-screen": "screen_quantization",
    "compression": "sweep_compression",
    "recipe": "sweep_recipe",
}


@pytest.mark.parametrize("name", SWEEPS)
def test_runs_have_names_of_their_own_and_records_belong_to_them(name):
    module = importlib.import_module(SWEEPS[name])
    runs = module.runs()
    keys = [run.key for run in runs]
    assert len(set(keys)) == len(keys) > 0
    assert all(run.minutes > 0 for run in runs)
    path = module.ROOT / "results" / f"{name}.jsonl"
    records = report.load_records(path) if path.exists() else []
    assert {(r.model, r.settings["variant"], r.seed) for r in records} <= set(keys)
