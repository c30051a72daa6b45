"""slimcnn.deploy.parity: the gate passes what is right, and refuses each classic mistake."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from slimcnn import deploy
from slimcnn.deploy import FLOAT, INT8, Gate

MEAN, STD = torch.tensor([0.5, 0.3, 0.7]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.1]).view(3, 1, 1)


@pytest.fixture(scope="module")
def pixels():
    return torch.rand(64, 3, 10, 10, generator=torch.Generator().manual_seed(0)) * MEAN * 2


@pytest.fixture(scope="module")
def inputs(pixels):
    return (pixels - MEAN) / STD


@pytest.fixture(scope="module")
def model(inputs):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 64, 10),
    )
    with torch.no_grad():
        for _ in range(10):
            network(inputs + 1)  # statistics of other inputs than those of the test
    return network.eval()


@pytest.mark.parametrize("gate", [FLOAT, INT8])
def test_a_network_passes_its_own_gate(gate, model, inputs):
    labels = model(inputs).argmax(1)
    found = deploy.parity(model, model, inputs, labels, gate).require()
    assert found.passed and found.failures == ()
    assert (found.difference, found.error, found.agreement) == (0.0, 0.0, 100.0)
    assert found.accuracy == (100.0, 100.0) and found.inputs == 64
    assert "passed" in str(found)


def training_mode(model):
    return copy.deepcopy(model).train()


@pytest.mark.parametrize("gate", [FLOAT, INT8])
@pytest.mark.parametrize(
    "fault",
    [
        lambda model: lambda x: model(x.flip(1)),  # blue, green, red
        lambda model: lambda x: model(x * STD + MEAN),  # normalization left out
        lambda model: lambda x: model((x * STD + MEAN) * 255),  # pixels up to 255
        training_mode,
        lambda model: lambda x: model(x).flip(1),  # labels in another order
        lambda model: lambda x: -model(x),
        lambda model: lambda x: model(x).softmax(1),  # probabilities for logits
        lambda model: lambda x: model(x.flip(0)),  # another image
        lambda model: lambda x: torch.cat([model(x[:1])] * len(x)),  # the first one, always
        lambda model: lambda x: model(x)[:, :9],
        lambda model: lambda x: model(x) * float("nan"),
    ],
    ids=[
        "bgr",
        "raw",
        "255",
        "train",
        "labels",
        "sign",
        "softmax",
        "shift",
        "stuck",
        "shape",
        "nan",
    ],
)
def test_each_mistake_is_refused(fault, gate, model, inputs):
    found = deploy.parity(model, fault(model), inputs, gate=gate)
    assert not found.passed
    with pytest.raises(deploy.ParityError, match="does not compute what"):
        found.require()


def test_networks_that_hardly_look_at_their_input_are_told_apart_too(model, inputs):
    def sleepy(x):
        return 1e-4 * model(x) + torch.arange(10)  # as untrained deep networks do

    assert deploy.parity(sleepy, sleepy, inputs).passed
    found = deploy.parity(sleepy, lambda x: sleepy(x.flip(1)), inputs)
    assert found.error < FLOAT.error and found.agreement == 100
    assert found.failures and "what tells inputs apart" in found.failures[0]
    single = deploy.parity(sleepy, sleepy, inputs[:1])
    assert single.passed and single.contrast is None


def test_one_wrong_image_of_many_is_enough(model, inputs):
    def program(x):
        logits = model(x).clone()
        logits[17] = logits[17].flip(0)
        return logits

    assert not deploy.parity(model, program, inputs).passed


def test_rounding_noise_passes_the_gate_for_int8_alone(model, inputs):
    expected = model(inputs)
    noise = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))

    def program(x):
        return model(x) + 0.03 * expected.std() * noise

    assert deploy.parity(model, program, inputs, gate=Gate(error=0.15, agreement=90.0)).passed
    assert not deploy.parity(model, program, inputs, gate=FLOAT).passed


def test_measures_are_those_of_numpy(model, inputs):
    expected, found = model(inputs).detach(), model(inputs + 0.1).detach()
    made = deploy.parity(model, lambda x: model(x + 0.1), inputs, torch.zeros(64, dtype=torch.long))
    a, b = expected.double().numpy(), found.double().numpy()
    assert made.difference == pytest.approx(np.abs(a - b).max())
    assert made.error == pytest.approx(np.sqrt(((a - b) ** 2).mean() / (a**2).mean()))
    varied = a - a.mean(0)
    assert made.contrast == pytest.approx(
        np.sqrt(((a - b) ** 2).mean() / (varied**2).mean()), rel=1e-5
    )
    assert made.agreement == pytest.approx(100 * (a.argmax(1) == b.argmax(1)).mean())
    assert made.accuracy == pytest.approx(
        (100 * (a.argmax(1) == 0).mean(), 100 * (b.argmax(1) == 0).mean())
    )


def test_a_loss_of_accuracy_is_refused_where_it_is_shown(model, inputs):
    labels = model(inputs).argmax(1)

    def wrong(count):
        def program(x):
            logits = model(x).clone()
            logits[:count] = logits[:count].roll(1, 1)
            return logits

        return deploy.parity(model, program, inputs, labels, Gate(error=9, agreement=0)).failures

    assert wrong(1) == ()  # one of 64: it may be luck
    assert any("accuracy falls by 50.00 points" in line for line in wrong(32))


def test_a_gate_is_inclusive(model, inputs):
    error = deploy.parity(model, lambda x: 1.01 * model(x), inputs).error
    assert error == pytest.approx(0.01, rel=1e-4)
    exact = Gate(error=error, agreement=100.0)
    assert deploy.parity(model, lambda x: 1.01 * model(x), inputs, gate=exact).passed
    below = Gate(error=error * 0.999, agreement=100.0)
    assert not deploy.parity(model, lambda x: 1.01 * model(x), inputs, gate=below).passed


def test_a_network_that_is_zero_has_no_scale(inputs):
    def zero(x):
        return torch.zeros(len(x), 3)

    assert deploy.parity(zero, zero, inputs).passed
    assert deploy.parity(zero, lambda x: zero(x) + 1e-9, inputs).error == float("inf")


def test_inputs_and_labels_must_fit(model, inputs):
    with pytest.raises(ValueError, match="64 inputs and 63 labels"):
        deploy.parity(model, model, inputs, torch.zeros(63, dtype=torch.long))
    with pytest.raises(ValueError, match="0 inputs"):
        deploy.parity(model, model, inputs[:0])
