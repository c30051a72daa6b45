"""slimcnn.training: the loop against a hand-written one, seeds, resuming, evaluation."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from slimcnn import data, models, training
from slimcnn.data import Augmentation, Split
from slimcnn.training import Recipe


@pytest.fixture(scope="module")
def split():
    return data.load("validation").subset(300)


def tiny(seed=0):
    with training.seeded(seed):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(4 * 13 * 13, 10),
        )


def same_weights(a, b):
    return all(torch.equal(x, b.state_dict()[k]) for k, x in a.state_dict().items())


RECIPE = Recipe(epochs=3, batch_size=64, lr=0.1, average=0.9)


def fit(model, split, recipe=RECIPE, **options):
    options = {"seed": 0, "device": "cpu", "progress": False, **options}
    return training.fit(model, split, recipe, **options)


def test_fit_equals_a_loop_written_by_hand(split):
    """Nesterov SGD, one-cycle rate, decay on matrices only, smoothing, averaging: step by step."""
    recipe = Recipe(epochs=2, batch_size=128, lr=0.05, warmup=0.3, average=0.8)
    model = tiny()[:4].append(nn.Linear(4 * 13 * 13, 10))
    model[2] = nn.Tanh()  # at the kink of a ReLU the last bit would decide
    trained, history = fit(model, split, recipe)

    parameters = {k: p.detach().clone().requires_grad_() for k, p in model.named_parameters()}
    buffers = {k: b.clone() for k, b in model.named_buffers()}
    momentum = {k: torch.zeros_like(p) for k, p in parameters.items()}
    average, step, total = None, 0, 2 * 3
    peak = round(total * 0.3)
    for epoch in range(2):
        losses = 0.0
        for batch in data.batches(
            split, 128, seed=0, epoch=epoch, augmentation=recipe.augmentation
        ):
            logits = torch.func.functional_call(model, (parameters, buffers), (batch.images,))
            hard = F.one_hot(batch.labels, 10).float()
            target = 0.9 * hard + 0.1 / 10
            loss = -(target * logits.log_softmax(1)).sum(1).mean()
            gradients = torch.autograd.grad(loss, list(parameters.values()))
            losses += loss.item() * len(batch.labels)
            if step < peak:
                rate = 0.05 * (step + 1) / peak
            else:
                phase = torch.tensor((step - peak + 1) / (total - peak + 1) * torch.pi)
                rate = 0.05 * 0.5 * (1 + phase.cos().item())
            with torch.no_grad():
                for (name, p), g in zip(parameters.items(), gradients, strict=True):
                    if p.ndim > 1:
                        g = g + 5e-4 * p
                    momentum[name] = 0.9 * momentum[name] + g
                    p -= rate * (g + 0.9 * momentum[name])
            state = {k: v.detach().clone().float() for k, v in (parameters | buffers).items()}
            if average is None:
                average = state
            else:
                average = {k: 0.8 * average[k] + 0.2 * v for k, v in state.items()}
            step += 1
        assert history.loss[epoch] == pytest.approx(losses / len(split), rel=1e-4)
    for name, parameter in trained.named_parameters():
        torch.testing.assert_close(parameter, average[name], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        trained[1].running_mean, average["1.running_mean"], rtol=1e-4, atol=1e-5
    )


def test_the_given_model_is_unchanged_and_the_result_is_in_eval_mode(split):
    model = tiny()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trained, _ = fit(model, split)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not trained.training
    assert not same_weights(model, trained)


def test_training_learns(split):
    trained, history = fit(tiny(), split, Recipe(epochs=15, batch_size=32, lr=0.05, average=0.9))
    assert history.loss[-1] < history.loss[0] - 0.5
    assert training.evaluate(trained, split) > 75


def test_same_seed_same_weights_and_other_seed_other_weights(split):
    first, _ = fit(tiny(), split)
    torch.rand(7)  # the global generator's state must not matter
    second, _ = fit(tiny(), split)
    other, _ = fit(tiny(), split, seed=1)
    assert same_weights(first, second)
    assert not same_weights(first, other)


def test_global_generator_is_left_alone(split):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fit(tiny(), split)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_averaging_the_last_weights_come_back(split, tmp_path):
    path = tmp_path / "run.safetensors"
    trained, _ = fit(tiny(), split, Recipe(epochs=1, batch_size=64, average=0.0), checkpoint=path)
    from safetensors.torch import load_file

    for name, tensor in trained.state_dict().items():
        assert torch.equal(load_file(path)[f"model.{name}"], tensor)


class Interrupted(Exception):
    pass


def interrupt_after(steps):
    objective = training.cross_entropy(0.1)
    count = 0

    def interrupted(model, batch):
        nonlocal count
        count += 1
        if count > steps:
            raise Interrupted
        return objective(model, batch)

    return interrupted


@pytest.mark.parametrize("steps", [5, 9, 14])
def test_an_interrupted_run_continues_to_the_same_weights_and_history(split, tmp_path, steps):
    path = tmp_path / "run.safetensors"
    whole, expected = fit(tiny(), split, validation=split)
    with pytest.raises(Interrupted):
        fit(tiny(), split, validation=split, checkpoint=path, objective=interrupt_after(steps))
    resumed, history = fit(tiny(), split, validation=split, checkpoint=path)
    assert same_weights(whole, resumed)
    assert history.loss == expected.loss
    assert history.validation_accuracy == expected.validation_accuracy
    assert len(history.seconds) == 3


KILLED_RUN = """
import sys, torch
from slimcnn import data, models, training
from slimcnn.training import Recipe
torch.set_num_threads(1)
with training.seeded(0):
    model = models.StudentNet(width=0.125)
split = data.load("validation").subset(500)
recipe = Recipe(epochs=int(sys.argv[2]), batch_size=50, lr=0.05)
training.fit(model, split, recipe, seed=1, device="cpu", checkpoint=sys.argv[1], progress=False)
"""


def run_killed(path: Path, epochs: int):
    """Start the run in a process of its own and kill it (SIGKILL) after its second epoch."""
    process = subprocess.Popen([sys.executable, "-c", KILLED_RUN, str(path), str(epochs)])
    seen, deadline = set(), time.monotonic() + 120
    while len(seen) < 2:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        if path.exists():
            seen.add(path.stat().st_mtime_ns)
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_a_killed_process_continues_to_the_same_weights(tmp_path):
    epochs = 12
    killed, whole = tmp_path / "killed.safetensors", tmp_path / "whole.safetensors"
    run_killed(killed, epochs)
    for path in (killed, whole):
        subprocess.run([sys.executable, "-c", KILLED_RUN, str(path), str(epochs)], check=True)
    from safetensors.torch import load_file

    a, b = load_file(killed), load_file(whole)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(split, tmp_path):
    path = tmp_path / "run.safetensors"
    fit(tiny(), split, checkpoint=path)
    content = path.read_bytes()
    with pytest.raises(training.ResumeError, match="another run"):
        fit(tiny(), split, seed=1, checkpoint=path)
    with pytest.raises(training.ResumeError, match="another run"):
        fit(tiny(), split, Recipe(epochs=4, batch_size=64), checkpoint=path)
    with pytest.raises(training.ResumeError, match="does not fit"):
        fit(models.StudentNet(width=0.1), split, checkpoint=path)
    assert path.read_bytes() == content
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(training.ResumeError, match="damaged"):
        fit(tiny(), split, checkpoint=path)


def test_a_finished_run_is_not_trained_again(split, tmp_path):
    path = tmp_path / "run.safetensors"
    first, _ = fit(tiny(), split, checkpoint=path)
    again, _ = fit(tiny(), split, checkpoint=path, objective=interrupt_after(0))
    assert same_weights(first, again)


def test_one_cycle_rises_to_one_and_falls_to_almost_nothing():
    factor = training.one_cycle(100, 0.2)
    values = [factor(step) for step in range(100)]
    assert values[0] == pytest.approx(1 / 20)
    assert values[19] == 1.0
    assert max(values) == 1.0
    assert values[19:] == sorted(values[19:], reverse=True)
    assert values[59] == pytest.approx(0.5 * (1 + torch.cos(torch.tensor(40 / 81 * torch.pi))))
    assert 0 < values[-1] < 1e-3
    assert training.one_cycle(1, 0.2)(0) == 1.0


def test_predict_is_eval_mode_restores_modes_and_ignores_batching(split):
    model = tiny().train()
    model[1].eval()
    logits = training.predict(model, split.images, batch_size=7)
    assert [m.training for m in model] == [True, False, True, True, True, True]
    reference = tiny().eval()
    torch.testing.assert_close(logits, reference(data.normalize(split.images)).detach())


def test_evaluate_in_percent(split):
    class Oracle(nn.Module):
        def forward(self, x):
            wrong = torch.arange(len(x)) % 4 == 0  # one of four is wrong
            return F.one_hot((labels + wrong) % 10, 10).float()

    labels = split.labels
    assert training.evaluate(Oracle(), split) == pytest.approx(75.0)
    assert training.evaluate(Oracle(), Split("all", split.images, split.labels)) == 75.0


def test_cross_entropy_with_smoothing_by_hand():
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    batch = data.Batch(torch.zeros(1), torch.tensor([0]), torch.tensor([0]))
    loss, out = training.cross_entropy(0.3)(lambda _: logits, batch)
    log_p = logits[0].log_softmax(0)
    assert loss.item() == pytest.approx(-(0.8 * log_p[0] + 0.1 * log_p[1] + 0.1 * log_p[2]).item())
    assert out is logits


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("lr", 0.0),
        ("warmup", 1.0),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("label_smoothing", 1.0),
        ("average", 1.0),
    ],
)
def test_impossible_recipes_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        Recipe(**{field: value})


def test_empty_split_is_refused(split):
    empty = Split("empty", split.images[:0], split.labels[:0])
    with pytest.raises(ValueError, match="empty"):
        fit(tiny(), empty)


def test_augmentation_can_be_off(split):
    recipe = Recipe(epochs=1, batch_size=300, lr=1e-9, augmentation=None, label_smoothing=0.0)
    model = tiny()[:4].append(nn.Linear(4 * 13 * 13, 10))
    _, history = fit(model, split, recipe)
    model.train()
    expected = F.cross_entropy(model(data.normalize(split.images)), split.labels)
    assert history.loss[0] == pytest.approx(expected.item(), rel=1e-4)
    assert Augmentation() == Recipe().augmentation
