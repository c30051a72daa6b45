"""slimcnn.quantization.equalization: the same function, even ranges, better rounding."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from slimcnn import checkpoints, data
from slimcnn import quantization as q


def chain():
    """Ordinary, depthwise, grouped and linear layers in a row."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3, groups=2),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
        nn.Linear(5, 3),
    )
    with torch.no_grad():  # ranges that differ a hundredfold
        model[0].weight.mul_(torch.logspace(-1, 1, 8).view(-1, 1, 1, 1))
        model[5].weight.mul_(torch.logspace(1, -1, 6).view(-1, 1, 1, 1))
    return model.double().eval()


def ranges(first, second):
    """Largest weights of each channel, as first has them and as second does."""
    groups = getattr(second, "groups", 1)
    own = first.weight.abs().flatten(1).amax(1)
    theirs = []
    per_group = second.weight.shape[1]
    for channel in range(len(own)):
        group, place = divmod(channel, per_group)
        outputs = len(second.weight) // groups
        theirs.append(second.weight[group * outputs : (group + 1) * outputs, place].abs().max())
    return own, torch.stack(theirs)


def test_a_channel_that_is_its_bias_alone_is_not_raised():
    model = chain()
    with torch.no_grad():
        model[0].weight[3].mul_(1e-6)
        model[0].bias[3] = 2.0
    x = torch.randn(4, 1, 12, 12, dtype=torch.float64)
    with torch.no_grad():
        made = q.equalize(model)
        torch.testing.assert_close(made(x), model(x), atol=1e-12, rtol=1e-10)
        assert made[0].bias[3] <= 2.0 and made[0](x)[:, 3].abs().max() <= 2.1


@pytest.mark.parametrize("place", [2, 3, 5])
def test_layers_beside_a_hook_stay(place):
    model = chain()
    model[place].register_forward_hook(lambda module, inputs, output: output + 1)
    made = q.equalize(model)
    x = torch.randn(4, 1, 12, 12, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(made(x), model(x), atol=1e-12, rtol=1e-10)
    assert not torch.equal(made[9].weight, model[9].weight), "others are equalized"


def test_the_function_stays_and_ranges_become_even():
    model = chain()
    before = copy.deepcopy(model.state_dict())
    made = q.equalize(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    x = torch.randn(4, 1, 12, 12, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(made(x), model(x), atol=1e-12, rtol=1e-10)
    layers = [m for m in made if isinstance(m, nn.Conv2d | nn.Linear)]
    given = [m for m in model if isinstance(m, nn.Conv2d | nn.Linear)]
    for first, second in pairwise(layers):
        own, theirs = ranges(first, second)
        torch.testing.assert_close(own, theirs, rtol=1e-3, atol=0)
    own, theirs = ranges(*given[:2])
    assert (own / theirs).max() / (own / theirs).min() > 5  # they were not


@pytest.mark.parametrize("name", ["resnet14", "student"])
def test_the_networks_of_the_book(name):
    model = q.fold_batch_norm(checkpoints.load(name)).double()
    made = q.equalize(model)
    x = data.normalize(data.load("validation").subset(10).images).double()
    with torch.no_grad():
        torch.testing.assert_close(made(x), model(x), atol=1e-10, rtol=1e-10)
    changed = [n for n, p in made.named_parameters() if not torch.equal(p, model.get_parameter(n))]
    # the residual network's sums keep all but the pairs inside its blocks
    assert (f"{'stage1.0.conv1' if name == 'resnet14' else 'conv'}.weight") in changed
    assert ("conv.weight" in changed) == (name == "student")


def test_one_scale_for_a_tensor_is_good_enough_afterwards():
    model, x = chain().float(), torch.randint(0, 256, (16, 1, 12, 12), dtype=torch.uint8)
    scheme, real = q.Scheme(8, None, per_channel=False), data.normalize(x)

    def noise(of):
        with torch.no_grad():
            return q.sqnr(model(real), q.quantize(of, scheme, x)(real))

    assert noise(q.equalize(model)) > noise(model) + 6  # decibels: a bit


class Odd(nn.Module):
    """Pairs that must be left alone."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.six = nn.ReLU6()
        self.c, self.d = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
        self.e = nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")
        self.shared, self.fc = nn.Conv2d(2, 2, 1), nn.Linear(32, 2)

    def forward(self, x):
        x = self.b(self.six(self.a(x)))
        y = self.c(x)
        y = self.d(y) + y + x
        y = self.shared(self.shared(self.e(y)))
        return self.fc(torch.flatten(y, 1))


def test_what_cannot_be_moved_stays():
    model = Odd().eval()
    made = q.equalize(model)
    for name, parameter in made.named_parameters():
        torch.testing.assert_close(parameter, model.get_parameter(name), atol=0, rtol=0, msg=name)


def test_channels_of_zeros_and_networks_without_pairs():
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        model[0].weight[0] = 0
        model[2].weight[:, 1] = 0
    made = q.equalize(model)
    assert all(
        torch.equal(a, b) for a, b in zip(made.parameters(), model.parameters(), strict=True)
    )
    alone = nn.Sequential(nn.Linear(3, 2))
    assert torch.equal(q.equalize(alone)[0].weight, alone[0].weight)


def test_networks_that_cannot_be_traced_are_refused():
    class Depends(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="Depends cannot be traced by"):
        q.equalize(Depends())


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.b.weight = self.a.weight

    def forward(self, x):
        return torch.nn.functional.linear(self.c(self.b(self.a(x))), self.c.weight[:, :2])


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.Linear(16, 5)), (2, 1, 16, 16)),
        (nn.Sequential(nn.Conv2d(1, 16, 3), nn.Flatten(2), nn.Linear(16, 5)), (2, 1, 6, 6)),
        (nn.Sequential(nn.Linear(6, 3), nn.Conv2d(3, 2, 1)), (2, 3, 5, 6)),
        (nn.Sequential(nn.Linear(6, 4), nn.AdaptiveAvgPool2d(4), nn.Linear(4, 2)), (2, 3, 5, 6)),
        (Tied(), (2, 4)),
    ],
    ids=["rows", "places", "columns", "pooled", "tied"],
)
def test_sizes_that_happen_to_match_are_no_pair(model, shape):
    model, x = model.double(), torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(q.equalize(model)(x), model(x), atol=1e-12, rtol=1e-10)
