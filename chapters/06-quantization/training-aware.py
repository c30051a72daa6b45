# %% [markdown]
# # Training with rounding
#
# A trained network never saw its own rounding. Can it learn to live with it? This lesson changes the accuracy of networks of four, three, two bits, and of one.
#
# **You will**
#
# - say why rounding stops all learning, and what the straight-through estimator does about it;
# - train a network with rounded weights and activations;
# - derive the gradient of a quantizer's step, and learn the step too;
# - judge what training gains against the same training without rounding.
#
# **You need** [Integers](integers.ipynb) and
# [Fewer bits, without training](post-training.ipynb). Symbols are on the
# [notation page](../../book/notation.md).
#
# **Time** 35 minutes to read, about a minute to run on a CPU.

# %% tags=["setup", "hide-input"]
# Colab only: install the book's package; torch, torchvision, numpy stay as they are.
import sys

REPOSITORY = "https://github.com/slim_cnns/slim-cnns"
if "google.colab" in sys.modules:
    import subprocess
    from importlib.metadata import version

    if "/slim_cnns/" in REPOSITORY:
        raise RuntimeError(
            f"{REPOSITORY} is a placeholder: nothing was installed. Set REPOSITORY in"
            " this cell to the address of your copy of the book, or in all lessons at"
            " once with `make repository URL=...`."
        )
    kept = [f"{name}=={version(name)}" for name in ("torch", "torchvision", "numpy")]
    package = f"slimcnn[lessons] @ git+{REPOSITORY}@v0.1.0"
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.check_call([*pip, *kept, package])

# %% tags=["imports"]
import copy
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from slimcnn import checkpoints, data, latency, metrics, plotting, report, training
from slimcnn import quantization as quant
from slimcnn.checks import few_bits
from slimcnn.training import Recipe

plotting.use_style()
_ = torch.manual_seed(0)

# %% [markdown]
# ## Measure first
#
# Where the lesson before has left us: ResNet-14 and the student, rounded to the nearest, a scale a
# channel, the first and the last layer with eight bits. Activations have as many bits as weights.

# %%
validation = data.load("validation").subset(1000)
train = data.load("train").subset(6000)
calibration = train.images[:300]
resnet = quant.fold_batch_norm(checkpoints.load("resnet14"))
student = quant.fold_batch_norm(checkpoints.load("student"))

# %% [markdown]
# Rounded to the nearest, on a thousand validation images:

# %%
rounded = {}
for name, model in (("resnet14", resnet), ("student", student)):
    for bits in (8, 4, 3, 2):
        network = quant.quantize(model, quant.Scheme(bits, bits), calibration)
        rounded[name, bits] = training.evaluate(network, validation)
    row = ", ".join(f"{b} bits {rounded[name, b]:.1f} %" for b in (8, 4, 3, 2))
    print(f"{name:10}{row}")

# %% [markdown]
# Eight bits are free, as before. With four ResNet-14 has lost one or two points and the student more than
# a third, with two bits both are near chance.
#
# ## The idea
#
# Train the network *as it will be*: rounded in the forward pass. But the derivative of a staircase
# is zero wherever it exists. A weight's gradient is the gradient of its rounded value times that
# zero, and nothing moves. The **straight-through estimator** {cite:p}`bengio2013estimating` puts
# another derivative in its place: 1, as if nothing were rounded. Where values are clipped, 0 has
# proved better {cite:p}`hubara2016binarized`. Together that is the derivative of a ramp: 1 as long
# as the rounded integer exists, which is half a step beyond the ends of the range, and 0 further out.

# %%
x = torch.linspace(-1.5, 1.5, 601, requires_grad=True)
quantizer = quant.symmetric_quantizer(torch.tensor(1.0), bits=3)
y = quant.fake_quantize(x, quantizer)
(slope,) = torch.autograd.grad(y.sum(), x)
fig, axes = plt.subplots(1, 2, figsize=(6.8, 2.8))
axes[0].plot(x.detach(), y.detach())
axes[0].set(title="forwards", xlabel="x", ylabel="rounded")
axes[1].plot(x.detach(), slope)
_ = axes[1].set(title="backwards", xlabel="x", ylabel="derivative, as used")

# %% [markdown]
# It is not the derivative of anything that is computed. It says: to make the rounded value larger,
# make the weight larger; the step to the next level will come when enough has added up. For this
# the real weight must be kept during training, and the optimizer moves it. What is stored in the
# end are integers and their scales. (During training each weight's range is taken anew at every
# step. That of an activation is a moving average over batches, and stays fixed in evaluation mode.)
#
# ## By hand
#
# One weight $w = 0.7$, step $\delta = 0.5$, an input $x = 2$ and a target of 2. Rounded,
# $\hat{w} = 0.5$, so the output is 1 and the loss $(1 - 2)^2 = 1$. Its derivative by $\hat{w}$ is
# $2 \cdot (1 - 2) \cdot 2 = -4$. Straight through, $w$ gets the same: with a learning rate of 0.1
# it becomes $0.7 + 0.4 = 1.1$, which rounds to 1. The output is 2, and the loss is 0.

# %%
w = torch.tensor(0.7, requires_grad=True)
half = quant.Quantizer(torch.tensor(0.5), torch.tensor(0, dtype=torch.int32), -3, 3)
loss = (2 * quant.fake_quantize(w, half) - 2) ** 2
loss.backward()
moved = (w - 0.1 * w.grad).detach()
print(f"gradient {w.grad:.0f}, new weight {moved:.1f}, rounds to {half(moved):.1f}")
assert w.grad == -4 and half(moved) == 1

# %% [markdown]
# ## From scratch
#
# With `detach` a tensor can have the value of one expression and the gradient of another: in
# $a.\text{detach}() + (b - b.\text{detach}())$ the bracket is zero, and has the gradient of $b$.


# %%
def straight_through(x, scale, low, high):
    """Rounded to multiples of the scale; gradient 1 inside the range, 0 outside."""
    steps = x / scale
    rounded = steps.round()
    inside = (rounded >= low) & (rounded <= high)
    passed = torch.where(inside, steps, steps.detach())
    whole = rounded.clamp(low, high).detach() + (passed - passed.detach())
    return whole * scale


# %% [markdown]
# The equality cell, forwards and backwards: the package, and PyTorch's own operation.

# %%
weight = torch.randn(16, 8, requires_grad=True)
three = quant.symmetric_quantizer(torch.tensor(1.5), bits=3)
upstream = torch.randn(16, 8)

# %% [markdown]
# Three ways to compute one thing:

# %%
found = []
for function in (
    lambda w: straight_through(w, float(three.scale), -3, 3),
    lambda w: quant.fake_quantize(w, three),
    lambda w: torch.fake_quantize_per_tensor_affine(w, float(three.scale), 0, -3, 3),
):
    made = function(weight)
    found.append((made, *torch.autograd.grad(made, weight, upstream)))
for made, gradient in found[1:]:
    torch.testing.assert_close(made, found[0][0])
    torch.testing.assert_close(gradient, found[0][1])

# %% [markdown]
# ### Steps that learn
#
# Who says that the largest weight is the right end of the range? **LSQ**, learned step size
# quantization {cite:p}`esser2020learned`, makes $\delta$ a parameter. It clips before it rounds, so
# that "inside" means $q_\text{low} < x / \delta < q_\text{high}$; our `straight_through` also counts the
# half step beyond each end. Inside, $\hat{x} = \delta \operatorname{round}(x / \delta)$. With product
# rule and chain rule, and rounding straight through,
#
# $$
# \frac{\partial \hat{x}}{\partial \delta}
#   = \operatorname{round}\!\Bigl(\frac{x}{\delta}\Bigr)
#   + \delta \cdot \Bigl(-\frac{x}{\delta^2}\Bigr)
#   = \operatorname{round}\!\Bigl(\frac{x}{\delta}\Bigr) - \frac{x}{\delta} ,
# $$ (eq-lsq)
#
# and where $x$ is clipped, $\hat{x} = \delta\, q_\text{high}$, so that the derivative is
# $q_\text{high}$ (or $q_\text{low}$). A larger step moves a clipped value outwards by that much, and
# one inside by at most half as much as the step grows. (LSQ uses all eight integers of three bits, −4 to 3.)


# %%
def learned(x, step, low, high):
    """Rounded to multiples of a step that gets a gradient, too."""
    clipped = (x / step).clamp(low, high)
    return (clipped + (clipped.round() - clipped).detach()) * step


# %% [markdown]
# Autograd must find what we have derived:

# %%
step = torch.tensor(0.4, requires_grad=True)
values = torch.tensor([0.1, 0.5, -0.9, 5.0])
made = learned(values, step, -4, 3)
slopes = [torch.autograd.grad(v, step, retain_graph=True)[0].item() for v in made]
by_formula = (values / 0.4).round() - values / 0.4
by_formula[3] = 3  # clipped
print([f"{s:+.2f}" for s in slopes])
torch.testing.assert_close(torch.tensor(slopes), by_formula)

# %% [markdown]
# A step sums the gradients of all its $N$ numbers (here $N$ counts these; of activations, those of one
# image), and a sum of $N$ gradients of random sign is about $\sqrt{N}$ times as large as one. And LSQ
# starts at $\delta = 2\,\overline{|w|} / \sqrt{q_\text{high}}$, so that a step is about
# $\sqrt{q_\text{high}} / 2$ times smaller than a weight. Relative to its own size it would move about
# $\sqrt{N q_\text{high}}$ times as fast; LSQ divides its gradient by that. In code: the same value, with
# a smaller gradient.


# %%
def slowed(step, numbers, high):
    """The gradient of the step, divided by the root of N times the largest integer."""
    share = (numbers * high) ** -0.5
    return step * share + (step - step * share).detach()


# %% [markdown]
# With it, ours is the package's, gradients of weights and of the step included:

# %%
theirs = quant.LearnedStep(3, weight, weight.numel())
step = theirs.step.detach().clone().requires_grad_()
made = learned(weight, slowed(step, weight.numel(), 3), -4, 3)
package = theirs(weight)
torch.testing.assert_close(made, package)
torch.testing.assert_close(
    torch.autograd.grad(made, (weight, step), upstream),
    torch.autograd.grad(package, (weight, theirs.step), upstream),
)

# %% [markdown]
# ### One bit
#
# At one bit there are two levels and no zero:
#
# $$
# \hat{w}_i = \alpha \operatorname{sign}(w_i) .
# $$ (eq-binary)
#
# Which $\alpha$ is nearest to the weights of a filter? The error is
# $\sum_i (|w_i| - \alpha)^2$, and the number with the least sum of squared distances is the mean:
# $\alpha$ is the mean of $|w_i|$ {cite:p}`rastegari2016xnor`. Backwards, $\hat{w}_i$ gives its
# gradient to $w_i$, straight through, as long as $|w_i| \le 1$: a weight further out has decided, and
# would drift away from zero for nothing. The package takes one $\alpha$ for each filter:


# %%
def binary(weight):
    """Signs, times the mean absolute weight of the filter; zero counts as positive."""
    alpha = weight.abs().flatten(1).mean(1).view(-1, *[1] * (weight.ndim - 1))
    return torch.where(weight >= 0, alpha, -alpha)


filters = torch.randn(4, 3, 3, 3)
torch.testing.assert_close(quant.binarize(filters), binary(filters))
for factor in (0.9, 1.1):  # any other scale is further away
    other = (filters - factor * binary(filters)).norm()
    assert other > (filters - binary(filters)).norm()

# %% [markdown]
#
# ## On the network
#
# We train for half a minute: the student, one epoch on 6,000 images, with weights and activations
# of four and of three bits; and the control, the same epoch without rounding.

# %%
recipe = Recipe(epochs=1, lr=0.01, average=0.0, batch_size=64)
schemes = {
    "dense": None,
    "4 bits": quant.Scheme(4, 4),
    "3 bits": quant.Scheme(3, 3),
    "3 bits, learned steps": quant.Scheme(3, 3, learned=True),
    "3 bits, fixed steps": quant.Scheme(3, 3, learned=True),
}

# %% [markdown]
# (The steps of the last one begin like those that learn, and then stay as they are.) Before the epoch,
# and after it:

# %%
before, after, tuned = {}, {}, {}
for name, scheme in schemes.items():
    network = student
    if scheme is not None:
        network = quant.quantize(student, scheme, calibration)
    if "fixed" in name:
        for module in network.modules():
            if isinstance(module, quant.LearnedStep):
                module.requires_grad_(False)
    before[name] = training.evaluate(network, validation)
    tuned[name], _ = training.fit(network, train, recipe, seed=0)
    after[name] = training.evaluate(tuned[name], validation)
for name in schemes:
    print(f"{name:24}{before[name]:6.1f} % -> {after[name]:5.1f} %")

# %% [markdown]
# One short epoch gives back most of what four bits had lost. The dense line tells what the same
# epoch does by itself: what is still missing to it is the price of rounding. With three bits learned
# steps are far ahead. Is it the learning? Steps that begin like them and stay fixed do as well in one
# short epoch. What helps so far is that the first step is small, so that outliers are clipped, of
# weights and of activations. (And it is one step a tensor, where ours has a scale for each channel.)
#
# With real budgets: three epochs on all 55,000 images, from the baselines, on the test set. The dense
# controls have the same training; rows without ± have one seed. One bit is of weights alone, with
# activations of eight.

# %%
records = report.load_records("quantization")
aware = [r for r in records if r.technique in ("quantization-aware training", "dense")]
rows = report.summarize(aware, by=("model", "technique", "settings.variant"))
report.table(rows, ("model", "settings.variant", "accuracy", "bytes"))

# %% [markdown]
# (Two bits of both from min-max ranges are missing: at this rate their weights grow until they are no
# numbers.) What does rounding cost? Image by image, against the same training without rounding, and against
# the network that both began with. The last row is not trained at all: four bits of both by learned rounding
# and percentile ranges, from the lesson before.

# %%
labels = data.load("test").labels


def right(variant):
    """Correct or not, for each seed and test image."""
    return report.load_predictions("quantization", variant) == labels


controls = {
    "baseline": checkpoints.predictions("resnet14") == labels,
    "control": right("dense, three epochs"),
}
price = {}
for variant in (
    "trained, weights 4, activations 4",
    "trained, weights 4, activations 4, learned steps",
    "trained, weights 2",
    "weights 4, activations 4, AdaRound",
):
    for name, other in controls.items():
        price[variant, name] = metrics.paired_bootstrap(other, right(variant))
        print(f"{variant:49} - {name:9}{price[variant, name]}")

# %% [markdown]
# Four bits of weights and activations cost about half a point, with learned steps a tenth less, which these
# intervals cannot tell apart. Two bits of weights, with activations of eight, cost as much: of four bits
# of both, the activations pay a good part. And the network that was *not* trained is not behind the ones that
# were. At four bits three epochs with labels do no better than learned rounding without them. It is with
# fewer bits, where rounding alone breaks down, that training is what is left.
#
# Look at the student, too. With eight bits, trained, it is behind its baseline by half a point; but so is its
# control, which was never rounded. These three epochs at this rate do not suit a network that was trained
# for forty, and int8 *without* training (the lesson before) keeps what it had. Without the
# control we would have blamed the integers.
#
# How many bits does training save? The same network, rounded after training and trained with
# rounding. The axis is that of errors, so that both can be seen:

# %%
one_seed = {r.settings["variant"]: r.accuracy for r in aware if r.seed == 0}
both = "trained, weights {0}, activations {0}"
lines = {"not trained": [rounded["resnet14", b] for b in (8, 4, 3, 2)]}
lines["trained"] = [one_seed[both.format(b)] for b in (8, 4, 3)] + [float("nan")]
steps = [one_seed[f"{both.format(b)}, learned steps"] for b in (4, 3, 2)]
fixed = [one_seed[f"{both.format(b)}, fixed steps"] for b in (3, 2)]

# %% [markdown]
# Steps are learned where levels are few, at four bits and below; or begin alike and stay fixed:

# %%
fig, ax = plt.subplots()
for (label, line), style in zip(lines.items(), ("s--", "o-"), strict=True):
    ax.plot((8, 4, 3, 2), [100 - value for value in line], style, label=label)
ax.plot((4, 3, 2), [100 - s for s in steps], "^-", label="trained, learned steps")
ax.plot((3, 2), [100 - s for s in fixed], "v:", label="trained, fixed steps")
ax.set(xlabel="bits of weights and activations", ylabel="error (%)", yscale="log")
ax.set_yticks((6, 10, 20, 50, 90), labels=("6", "10", "20", "50", "90"))
ax.minorticks_off()
ax.invert_xaxis()
_ = ax.legend()

# %% [markdown]
# (The dashed line is on a thousand validation images, the others on the test set, one seed each: compare
# their shapes, not tenths.) Training moves the cliff from four bits to below two. At three bits the small
# first step is worth more than its learning, and at two its learning is worth nothing that one seed could
# show. And one bit a weight, with activations of eight, is where two bits of both are.
#
# Is 0.02 the right learning rate? On validation images, one seed, two bits are equally good at 0.02 and 0.05, and
# four bits at everything from 0.005 to 0.02: the rate of all fine-tunings in this book will do.
#
# ## Why it works, when it does not
#
# **Without the estimator** no weight learns, only biases do. The same training with plain rounding
# (and without decay, which would shrink the weights):


# %%
class PlainRounding(nn.Module):
    """What PyTorch's round does by itself: gradient zero."""

    def __init__(self, bits):
        super().__init__()
        self.largest = 2 ** (bits - 1) - 1

    def forward(self, weight):
        scale = weight.detach().abs().max() / self.largest
        return torch.round(weight / scale) * scale


# %% [markdown]
# In each layer of the student, then an epoch on a thousand images; the same with the package's
# quantizers, which pass gradients straight through:

# %%
straight = quant.quantize(student, quant.Scheme(4, None), calibration)
stuck = copy.deepcopy(straight)
for module in stuck.modules():
    if isinstance(module, quant.QuantizedLayer):
        module.weight_quantizer = PlainRounding(4)
plain = replace(recipe, weight_decay=0.0)

# %% [markdown]
# How many weights and biases have moved?

# %%
moved = {}
for name, network in (("plain rounding", stuck), ("straight through", straight)):
    trained, _ = training.fit(
        network, train.subset(1000), plain, seed=0, progress=False
    )
    pairs = zip(network.named_parameters(), trained.parameters(), strict=True)
    for (parameter, old), new in pairs:
        key = name, parameter.rpartition(".")[2]
        moved[key] = moved.get(key, 0) + int((old != new).sum())
for (name, kind), count in moved.items():
    print(f"{name:18}{count:7,} numbers of {kind} have moved")

# %% [markdown]
# **Weights that cannot decide.** Near the middle between two levels a weight may jump from one to
# the other and back: at the lower level the gradient says up, at the upper one down. We follow the
# integers of single weights of the three-bit network through some more steps, and count the jumps
# that undo the one before.

# %%
network = tuned["3 bits"]
layer = network.blocks[2].pointwise
optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

# %% [markdown]
# Sixty steps, and the integers after each:

# %%
history = []
for batch in data.batches(train, 64, seed=1, epoch=0):
    optimizer.zero_grad()
    F.cross_entropy(network(batch.images), batch.labels).backward()
    optimizer.step()
    integers, _ = layer.weight_quantizer.integers(layer.layer.weight)
    history.append(integers.flatten())
    if len(history) == 60:
        break
moves = torch.stack(history).diff(dim=0)
back, last = torch.zeros_like(moves[0]), torch.zeros_like(moves[0])
for move in moves:
    back += (move * last < 0).int()
    last = torch.where(move != 0, move, last)
print(f"{100 * (moves != 0).any(0).float().mean():.0f} % of the weights change level,")
print(
    f"{100 * (back > 0).float().mean():.0f} % come back, the busiest {back.max()} times"
)

# %% [markdown]
# (A few of these jumps are those of the scale, which follows the largest weight, and some are the noise
# of batches.) That weights swing between two levels, and that it costs accuracy, is shown by
# {cite:t}`nagel2022overcoming`. A learning rate that falls to zero lets them rest.
#
# **Find the bug.** A colleague measures in batches, and gets another number each time:

# %%
measured = quant.quantize(student, quant.Scheme(4, 4), calibration)
measured.train()
attempts = []
for _ in range(3):
    with torch.no_grad():
        parts = validation.images.split(50)
        z = torch.cat([measured(data.normalize(part)) for part in parts])
    hits = (z.argmax(1) == validation.labels).double().mean()
    attempts.append(100 * hits.item())
print([f"{value:.1f} %" for value in attempts])

# %% [markdown]
# ```{dropdown} What is wrong?
# In training mode the quantizers of activations go on updating their ranges, with the images that
# are to be measured: the test set calibrates the network while it judges it. `training.evaluate`
# switches to evaluation mode, where ranges stay as they are.
# ```
#
# ## What practitioners use
#
# What was trained must be run. The four-bit network, with a quantizer on every tensor, as integers
# and as a QDQ file in ONNX Runtime. Its weights take four bits of the file's eight: the runtime
# computes no convolution of fewer.

# %%
simulated = quant.place_quantizers(tuned["4 bits"], calibration)
integer = quant.IntegerNetwork(simulated)
images = data.normalize(validation.images)

# %% [markdown]
# Written, run, and packed: four bits a weight, eight in the first and the last layer.

# %%
with tempfile.TemporaryDirectory() as folder:
    path = quant.to_qdq_onnx(simulated, images[:1], Path(folder) / "a.onnx", True)
    logits = latency.onnxruntime(path, images)()
    packed = Path(folder) / "packed.safetensors"
    quant.save_quantized(tuned["4 bits"], packed)
    sizes = path.stat().st_size, packed.stat().st_size
agree = (logits.argmax(1) == integer(images).argmax(1)).float().mean()
print(
    f"{100 * agree:.1f} % of the answers agree; {sizes[0]:,} bytes, packed {sizes[1]:,}"
)

# %% [markdown]
# PyTorch's library for the same is torchao: its PT2E flow inserts fake quantizers as ours do, and
# lowers the network to a backend; the lesson before has its row of eight bits. And a network that is not ours, on images of noise of three
# brightnesses, just to see that the loss falls: torchvision's MobileNetV3, whose gates multiply
# whole channels and whose activation, hard swish, is a ReLU with rounded corners. (Training it from
# new weights needs its batch norms, so we do not fold them.)

# %%
foreign = torchvision.models.mobilenet_v3_small(weights=None, num_classes=3).eval()
noise = torch.randint(0, 256, (48, 3, 48, 48), dtype=torch.uint8)
noise //= 1 + torch.arange(48, dtype=torch.uint8).view(-1, 1, 1, 1) % 3  # dark, darker
toy = data.Split("toy", noise, torch.arange(48) % 3)
foreign = quant.quantize(foreign, quant.Scheme(4, 4), noise)
gentle = Recipe(epochs=12, batch_size=8, lr=0.05, average=0.0, augmentation=None)
_, course = training.fit(foreign, toy, gentle, seed=0, progress=False)
print([f"{value:.2f}" for value in course.loss])

# %% [markdown]
# ```{admonition} What changes at ImageNet scale
# :class: note
# Training is long, and starts from the trained network as here. {cite:t}`esser2020learned` report
# ResNet-18 with 4-bit weights and activations at 71.1 %, of 70.5 % for the trained original; with
# 3 bits at 70.2 %, with 2 at 67.6 %, after 90 epochs. One bit a weight costs
# {cite:t}`rastegari2016xnor` nothing on AlexNet and about 8.5 points on ResNet-18.
# ```
#
# ## Paper and us
#
# | | paper reports | we measured |
# |---|---|---|
# | {cite:t}`esser2020learned`, ResNet-18, 4 and 2 bits | 71.1 %, 67.6 % (70.5 % in floating point) | ResNet-14: the table above |
# | {cite:t}`rastegari2016xnor`, ResNet-18, binary weights | 60.8 % (69.3 % in floating point) | the row of one bit |
#
# The claims of the text:

# %% tags=["claims"]
assert 0.3 < rounded["resnet14", 8] - rounded["resnet14", 4] < 2.5
assert rounded["student", 4] < rounded["student", 8] * 2 / 3
assert max(rounded[name, 2] for name in ("resnet14", "student")) < 25
assert after["4 bits"] > before["4 bits"] + 20 and after["dense"] - after["4 bits"] < 10
assert abs(after["3 bits, learned steps"] - after["3 bits, fixed steps"]) < 3
assert after["3 bits, learned steps"] > after["3 bits"] + 10 > before["3 bits"] + 20
assert moved["plain rounding", "weight"] == 0 < moved["plain rounding", "bias"]
assert moved["straight through", "weight"] > 50_000
assert attempts[0] != attempts[1], "the test set has calibrated the network"
assert (back > 0).float().mean() > 0.01
assert agree > 0.97 and sizes[1] < 0.7 * sizes[0]
assert min(course.loss) < course.loss[0] - 0.05

# %% [markdown]
# And those about the records:

# %% tags=["claims"]
four, two = "trained, weights 4, activations 4", "trained, weights 2"
costs = {v: -price[v, "control"].difference for v, name in price if name == "control"}
assert 0.3 < costs[four] < 0.8 and abs(costs[four] - costs[two]) < 0.2
assert 0 < costs[four] - costs[f"{four}, learned steps"] < 0.3
assert costs["weights 4, activations 4, AdaRound"] < costs[four]
assert abs(price[four, "control"].difference - price[four, "baseline"].difference) < 0.2

# %% [markdown]
# Of one seed:

# %% tags=["claims"]
at_three = [one_seed[f"{both.format(3)}{kind}"] for kind in ("", ", fixed steps")]
assert at_three[0] + 0.5 < at_three[1] < steps[1] < at_three[1] + 0.5
assert abs(fixed[1] - steps[2]) < 0.3 and rounded["resnet14", 3] < 85
one_bit = one_seed["trained, weights 1, activations 8"]
assert abs(one_bit - steps[2]) < 0.4 and steps[2] > 91.5
alone = one_seed["student dense, three epochs"]
assert abs(alone - one_seed["student trained, weights 8, activations 8"]) < 0.2
assert 0.3 < checkpoints.entry("student").test_accuracy - alone < 0.8

# %% [markdown]
# ## Your turn
#
# The gradient of the step, {eq}`eq-lsq`, for one number, rounding straight through. Clip before you
# round, and think of both ends of the range. Replace the `...` and run the cell.


# %%
def step_gradient(x, step, low, high):
    """d x̂ / d δ, a number."""
    return ...


few_bits.step_gradient(step_gradient)

# %% [markdown]
# ## Summary
#
# Rounding has no gradient, so we lend it one: straight through, inside the range. Then a network
# learns to live with few bits, as long as its real weights are kept until training ends. A small first
# step, which clips outliers, matters most where levels are few; it can be learned as well.
# At four bits training does no better here than learned rounding; at three and two it keeps a network that
# rounding alone would ruin. Judge it against the same training without rounding.
#
# ## Check yourself
#
# ```{exercise}
# :label: ex-aware-zero
# Why not keep only the rounded weights, and add the gradient step to them?
# ```
#
# ```{solution} ex-aware-zero
# :class: dropdown
# A step of the optimizer is much smaller than $\delta / 2$. Rounded at once it would vanish, every
# time. The real weight adds up many small steps until they reach the next level.
# ```
#
# ```{exercise}
# :label: ex-aware-clip
# What would go wrong if the gradient were 1 outside the range, too?
# ```
#
# ```{solution} ex-aware-clip
# :class: dropdown
# A clipped weight would go on moving outwards without any effect on the output, and would need as
# many steps to come back. With gradient 0 it stays where it is; decay, or a larger step, brings it
# back. (With
# a range that follows the largest weight, nothing is clipped, and the question does not arise.)
# ```
#
# ```{exercise}
# :label: ex-aware-alpha
# In {eq}`eq-binary` $\alpha$ depends on the weights, too, and straight through we have left that
# out. Let $g_j$ be the gradient of $\hat{w}_j$. What would the chain rule through $\alpha$ add to the
# gradient of $w_i$, of $n$ weights in the filter?
# ```
#
# ```{solution} ex-aware-alpha
# :class: dropdown
# $\partial \alpha / \partial w_i = \operatorname{sign}(w_i) / n$, and the loss moves with
# $\alpha$ by $\sum_j g_j \operatorname{sign}(w_j)$. Their product is added: the same for all weights
# of the filter, up to their sign. It makes the whole filter larger or smaller, which a batch norm
# behind it undoes; no weight changes sides by it alone.
# ```
#
# ```{exercise}
# :label: ex-aware-control
# A paper reports a four-bit network that is *better* than its original, after 90 epochs. What
# control is missing?
# ```
#
# ```{solution} ex-aware-control
# :class: dropdown
# The original, trained 90 more epochs with the same recipe. Rounding is noise, and noise can act
# as a regularizer; but more training alone may gain as much.
# ```
#
# ## Where next
#
# - [Assignment: quantization](../../assignments/release/quantization/quantization.ipynb): scales that are shifts, an average of integers, a network in 30 kB, and a compression that is not one.
# - [Next lesson](weight-sharing.ipynb): shared values, short words, and a file of 70 kB.
# - {cite:t}`bengio2013estimating`: the estimator, and others that were tried.
# - {cite:t}`esser2020learned`: learned steps, with the details of the gradient's scale.
