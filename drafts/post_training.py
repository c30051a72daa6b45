# %% [markdown]
# # Fewer bits, without training
#
# Eight bits were free. How far down can we go with the weights as they are, and what can be
# mended without a label? This lesson changes the accuracy of a network of four and three bits:
# it brings the student back from chance.
#
# **You will**
#
# - say from how many bits on a network suffers, and why depthwise layers suffer first;
# - make the ranges of neighboring layers even, without changing what they compute;
# - take the mean error of a layer out of it again;
# - learn for each weight whether to round it up or down;
# - spend a budget of bytes on the layers that need them most.
#
# **You need** [Integers](integers.ipynb). Symbols are on the
# [notation page](../../book/notation.md).
#
# **Time** 40 minutes to read, about a minute to run on a CPU.

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
    package = f"slimcnn[onnx] @ git+{REPOSITORY}@v0.1.0"
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.check_call([*pip, *kept, package])

# %% tags=["imports"]
import copy
import tempfile
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
import torchvision
from onnxruntime import quantization as industrial

from slimcnn import checkpoints, data, export, latency, plotting, report, training
from slimcnn import quantization as quant
from slimcnn.checks import few_bits

plotting.use_style()
_ = torch.manual_seed(0)

# %% [markdown]
# ## Measure first
#
# Where does harm begin? We round the weights of all layers to 8 down to 2 bits, with one scale a
# tensor and with one a channel, and leave activations as they are. It takes some minutes, so the
# accuracies, on the 5,000 validation images, come from stored records.

# %%
screen = report.load_records("quantization-screen")


def screened(model, variant):
    """Accuracy of one variant, percent of the validation images."""
    found = [r for r in screen if (r.model, r.settings["variant"]) == (model, variant)]
    assert len(found) == 1, f"there is no record of {model}, {variant}"
    return found[0].accuracy


bits = (8, 6, 5, 4, 3, 2)
fig, axes = plt.subplots(1, 2, sharey=True, figsize=(6.8, 3.2))
for ax, name in zip(axes, ("resnet14", "student"), strict=True):
    for scales, marker in (("per channel", "o"), ("per tensor", "s")):
        line = [screened(name, f"weights {b}, {scales}, min-max") for b in bits]
        ax.plot(bits, line, marker=marker, label=scales)
    ax.set(title=name, xlabel="bits of a weight", xticks=bits)
    ax.invert_xaxis()
axes[0].set_ylabel("accuracy (%), validation")
_ = axes[1].legend()

# %% [markdown]
# Down to five bits ResNet-14 hardly notices. The student falls earlier, and with one scale a
# tensor it falls off a cliff: at four bits half of its accuracy is gone, at three it guesses.
# With two bits, three levels, nothing is left of either.
#
# One thing looks like a mistake: with a scale a channel ResNet-14 is *better* at three bits than
# at four. Which layer is it? The first one has 288 weights, nine a filter, and each of them sees
# every image. With eight bits for it and for the last layer, the order is as it should be:

# %%
resnet = quant.fold_batch_norm(checkpoints.load("resnet14"))
validation = data.load("validation").subset(1000)
calibration = data.load("train").subset(300).images
ordered = {}
for b in (5, 4, 3):
    for ends in (None, 8):
        plan = quant.Scheme(b, None, ends=ends)
        network = quant.quantize(resnet, plan, calibration[:1])
        ordered[b, ends] = training.evaluate(network, validation)
    everywhere, spared = ordered[b, None], ordered[b, 8]
    print(f"{b} bits: {everywhere:.1f} % everywhere, {spared:.1f} % with 8 at the ends")

# %% [markdown]
# Nine rounding errors are few numbers, and few numbers are a matter of luck; all other layers
# stand three bits easily. That is why recipes leave the first and the last layer at eight bits:
# it costs next to no bytes.
#
# ## The idea
#
# Rounding adds an error to each weight. Three ideas, from cheap to dear: make the error smaller
# by making ranges even; take out what the error does *on average*; choose the errors so that
# they cancel.
#
# ### Even ranges
#
# The largest weight of a tensor decides the step for all its channels. In the student's
# depthwise layers the channels' ranges differ a lot:

# %%
student = quant.fold_batch_norm(checkpoints.load("student"))
block = student.blocks[0]
ranges = block.depthwise.weight.detach().abs().amax((1, 2, 3))
fig, ax = plt.subplots(figsize=(6, 2.6))
ax.bar(range(len(ranges)), ranges.sort(descending=True).values)
ax.axhline(float(ranges.max()) / 7, color="black", label="one step at 4 bits")
ax.set(xlabel="channel, sorted", ylabel="largest weight")
ax.legend()
lost = float((ranges < ranges.max() / 14).float().mean())
plt.show()
print(f"{100 * lost:.0f} % of the channels are rounded to zero altogether")

# %% [markdown]
# Channels whose largest weight is less than half a step vanish. But a channel's range is not a
# property of what the network computes! With a ReLU between two layers, $\operatorname{ReLU}(s
# x) = s \operatorname{ReLU}(x)$ for every $s > 0$. So we may divide channel $i$ of the first layer
# by $s_i$ and multiply what the second layer does with it by $s_i$; the outputs stay the same.
# If its ranges in the two layers are $r_i$ and $r'_i$, then
#
# $$
# s_i = \sqrt{r_i / r'_i}
# \quad\text{makes both}\quad \sqrt{r_i\, r'_i} .
# $$ (eq-equalize)
#
# That is **cross-layer equalization** {cite:p}`nagel2019datafree`.
#
# ## By hand
#
# Two channels, ranges 4 and 1 in the first layer, 1 and 4 in the second. By
# {eq}`eq-equalize` $s = (2, 1/2)$, and all four ranges become 2. With 3 bits the step of each
# tensor falls from $4/3$ to $2/3$: a bit is won, for nothing.

# %% tags=["nbval-check-output"]
first = torch.tensor([[4.0, 1.0], [1.0, -0.5]])  # (hidden, in)
second = torch.tensor([[1.0, 4.0]])  # (out, hidden)
s = (first.abs().amax(1) / second.abs().amax(0)).sqrt()
print(s.tolist(), (first / s[:, None]).tolist(), (second * s).tolist())
x = torch.tensor([[0.3, 0.7]])
before = F.relu(x @ first.T) @ second.T
assert torch.allclose(F.relu(x @ (first / s[:, None]).T) @ (second * s).T, before)

# %% [markdown]
# ## From scratch
#
# In a convolution, channel $i$ is the first dimension of the first weight and the second
# dimension of the second one. A bias belongs to the first layer and is divided, too. For a
# pointwise layer and the depthwise layer after it (whose weight has one input channel for each
# filter, so that $i$ is its first dimension):


# %%
def equalize_pair(pointwise, depthwise):
    """Changes both layers; returns the scales, (channels,)."""
    r = pointwise.weight.abs().amax((1, 2, 3))
    r_next = depthwise.weight.abs().amax((1, 2, 3))
    s = (r / r_next).sqrt()
    pointwise.weight.data /= s.view(-1, 1, 1, 1)
    pointwise.bias.data /= s
    depthwise.weight.data *= s.view(-1, 1, 1, 1)
    return s


# %% [markdown]
# `equalize` finds the pairs of a network, whatever it is, and goes over them until nothing
# changes any more. On two layers alone, once is enough, and both must agree:

# %%
pointwise, depthwise = student.blocks[0].pointwise, student.blocks[1].depthwise
pair = torch.nn.Sequential(pointwise, torch.nn.ReLU(), depthwise)
package = quant.equalize(pair)
mine = copy.deepcopy(pair)
equalize_pair(mine[0], mine[2])
torch.testing.assert_close(mine[0].weight, package[0].weight)
torch.testing.assert_close(mine[0].bias, package[0].bias)
torch.testing.assert_close(mine[2].weight, package[2].weight)

# %% [markdown]
# ### What is too much on average
#
# A rounded weight is $\mathbf{W} + \boldsymbol{\varepsilon}$, and the layer's output is off by
# $\boldsymbol{\varepsilon} * \mathbf{X}$. The errors of a filter are as often positive as
# negative, but inputs are not: behind a ReLU none is negative. So the output is off *on average*,
#
# $$
# \operatorname{E}[\hat{y}] - \operatorname{E}[y] = \textstyle\sum \varepsilon\,
# \operatorname{E}[x] ,
# $$ (eq-bias-error)
#
# a number for each output channel. Subtract it from the bias: **bias correction**. The means
# come from calibration images, layer after layer, so that each correction sees what those before
# it have left.
# On the student's first depthwise layer, rounded to three bits:

# %%
rounded = quant.quantize(student, quant.Scheme(3, None, ends=None), calibration)
corrected = quant.correct_bias(rounded, student, calibration)
images = data.normalize(calibration)


def mean_output(network):
    """Of each channel of the first depthwise layer."""
    with torch.no_grad():
        x = network.relu(network.bn(network.conv(images)))
        return network.blocks[0].depthwise(x).mean((0, 2, 3))


off = {
    name: (mean_output(n) - mean_output(student)).abs().mean().item()
    for name, n in (("rounded", rounded), ("corrected", corrected))
}
print(f"means are off by {off['rounded']:.4f}, corrected by {off['corrected']:.4f}")

# %% [markdown]
# What do both remedies bring, with one scale a tensor? From the records:

# %%
plans = {
    "nearest": "min-max",
    "equalized": "equalized",
    "bias corrected": "bias corrected",
    "both": "equalized and bias corrected",
}
mended = {}
for name in ("resnet14", "student"):
    print(f"{name:17}" + "".join(f"{b:>6} bits" for b in bits[:5]))
    for label, variant in plans.items():
        for b in bits:
            mended[name, label, b] = screened(
                name, f"weights {b}, per tensor, {variant}"
            )
        row = "".join(f"{mended[name, label, b]:11.2f}" for b in bits[:5])
        print(f"  {label:15}{row}")

# %% [markdown]
# The student at four bits, from less than half to nearly all of its accuracy, and not a single
# gradient was computed. At five bits the mended student with *one* scale a tensor is as good as
# with a scale a channel. ResNet-14 gains less: its sums of branches leave only the pairs inside
# the blocks to equalize. At two bits nothing helps. Three levels are too few to choose from.
#
# ### Up or down?
#
# Rounding to the nearest integer is best for each weight alone. Is it best for the sum? Take two
# weights of 0.4 (in steps), and inputs that are always equal. The sum is $0.8\,x$. Nearest gives
# 0 and 0, so a sum of 0; up and down gives 1 and 0, so a sum of $x$, which is four times nearer.
# Errors of inputs that go together should cancel.
#
# **AdaRound** {cite:p}`nagel2020adaround` learns, for each weight, an $h$ from 0 (down) to 1 (up).
# For one layer, with inputs $\hat{\mathbf{X}}$ from calibration images as the layers before it
# give them:
#
# $$
# \min_{\mathbf{h}} \;\bigl\lVert \mathbf{W} * \mathbf{X} - \hat{\mathbf{W}} * \hat{\mathbf{X}}
# \bigr\rVert^2 + \lambda \sum \bigl(1 - |2h - 1|^\beta\bigr) ,
# \qquad \hat{\mathbf{W}} = \delta\,\bigl(\lfloor \mathbf{W} / \delta \rfloor + \mathbf{h}\bigr) .
# $$ (eq-adaround)
#
# The second term is zero only where each $h$ is 0 or 1. With a large $\beta$ it is flat in the
# middle, and $h$ moves freely; $\beta$ falls, and drives it to one of the ends.

# %%
h = torch.linspace(0, 1, 201)
fig, ax = plt.subplots(figsize=(4.5, 2.6))
for beta in (20, 8, 4, 2):
    ax.plot(h, 1 - (2 * h - 1).abs() ** beta, label=f"β = {beta}")
ax.set(xlabel="h", ylabel="what it costs")
_ = ax.legend()

# %% [markdown]
# Does it find the best rounding? With six weights we can try all $2^6$. Their inputs are the same
# number plus a little noise, so that errors should cancel.

# %%
generator = torch.Generator().manual_seed(0)
base = torch.randint(60, 200, (256, 1, 1, 1), generator=generator)
noise = torch.randint(-20, 21, (256, 1, 1, 6), generator=generator)
pixels = (base + noise).to(torch.uint8)
small = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 1, bias=False))
small[1].weight.data = torch.rand(1, 6, generator=generator) - 0.3
rounded = quant.quantize(small, quant.Scheme(3, None, ends=None), pixels)
learned = quant.ada_round(rounded, small, pixels, iterations=1500)

# %% [markdown]
# The oracle, and the errors of both:

# %%
weight, inputs = small[1].weight.detach(), data.normalize(pixels).flatten(1)
delta = rounded[1].weight_quantizer.quantizer(weight).scale


def error(w):
    """Mean square error of what the layer computes."""
    return float(F.linear(inputs, w - weight).square().mean())


below = torch.floor(weight / delta)
ups = [torch.tensor([up]) for up in product((0.0, 1.0), repeat=6)]
tried = sorted(error((below + up).clamp(-3, 3) * delta) for up in ups)
nearest = error(rounded[1].weight_quantizer(weight))
found = error(learned[1].weight_quantizer(weight))
print(f"nearest {nearest:.5f}, learned {found:.5f}, best of all {tried[0]:.5f}")

# %% [markdown]
# ## On the network
#
# The student at three bits, a scale a channel, the first and the last layer with eight as usual.
# Few iterations on few images; the records below take ten times as many.

# %%
scheme = quant.Scheme(3, 8)
network = quant.quantize(student, scheme, calibration)
corrected = quant.correct_bias(network, student, calibration)
adarounded = quant.ada_round(network, student, calibration, iterations=150)
three = {"nearest": network, "bias corrected": corrected, "AdaRound": adarounded}
at_three = {name: training.evaluate(n, validation) for name, n in three.items()}
print({name: f"{value:.1f} %" for name, value in at_three.items()})

# %% [markdown]
# ### Bits where they help
#
# Layers differ in how much they suffer. `damages` rounds one layer at a time and looks at the
# loss; with the bytes of each choice that is the knapsack problem of chapter 5: one option for
# each layer, the least damage, within a budget. The budget: what four bits everywhere would take.

# %%
split = data.load("validation").subset(400)
damages = quant.damages(student, split, (8, 6, 4, 3, 2))
budget = sum(quant.weight_bytes(student.get_submodule(n), 4) for n in damages)
chosen = quant.allocate_bits(student, damages, budget)
uniform = {name: 4 for name in damages}
print(f"{'layer':22}{'weights':>8}{'bits':>6}{'loss, 4 bits':>14}")
for name, b in chosen.items():
    count = student.get_submodule(name).weight.numel()
    print(f"{name:22}{count:8,}{b:6}{damages[name][4]:14.4f}")

# %% [markdown]
# The first layers get the most bits: they have few weights, so bits are cheap there, and rounding
# them does the most damage. The large layers at the end get the fewest. The same bytes, spent evenly and spent by damage:

# %%
spent = {}
for name, plan in (("4 bits everywhere", uniform), ("by damage", chosen)):
    mixed = quant.quantize(student, quant.Scheme(plan, None), calibration[:1])
    size = sum(quant.weight_bytes(student.get_submodule(n), b) for n, b in plan.items())
    spent[name] = training.evaluate(mixed, validation)
    print(f"{name:20}{size:7,} bytes {spent[name]:6.1f} %")

# %% [markdown]
# ## Why it works, when it does not
#
# **How many images?** Ranges come from calibration images. How many does it take? Activations of 4
# and of 8 bits, ranges by min-max, weights untouched (16 bits):

# %%
counts, needed = (1, 4, 16, 64, 256), {}
for b in (8, 4):
    for count in counts:
        few = quant.quantize(resnet, quant.Scheme(16, b), calibration[:count])
        needed[b, count] = training.evaluate(few, validation)
    row = ", ".join(f"{count}: {needed[b, count]:.1f} %" for count in counts)
    print(f"{b} bits, images {row}")

# %% [markdown]
# A surprise: at eight bits a single image is enough. It has thousands of activations in each
# layer, and what lies outside of their range is rare. At four bits more images even *hurt*: more
# images have more outliers, min-max stretches to hold them, and the step grows for all. That is an
# argument for clipping, not for few images. Whatever their number, they are *training* images.
# Calibrating on the images that measure the accuracy would choose ranges that fit just these.
#
# **A method that sees a spike.** By the records, KL ranges cost ten points at eight bits, where
# everything else is free:

# %%
for method in ("min-max", "percentile", "mse", "kl"):
    print(f"{method:12}{screened('resnet14', f'activations 8, {method}'):6.2f} %")
images = data.normalize(calibration)
low, high = quant.kl_range(images)
print(f"images from {images.min():.2f} to {images.max():.2f}, KL range to {high:.2f}")

# %% [markdown]
# The background again: more than half of all pixels have one and the same value, and KL, which
# compares histograms, takes care of this spike and clips everything brighter. A rule for
# activations after a ReLU fails on images. Use min-max for the input: its range is known.
#
# **Where equalization stops.** ReLU6 clips at 6, and 6 does not move with $s$: layers beside it
# stay as they are. MobileNetV2 {cite:p}`sandler2018mobilenetv2` has it everywhere. In the paper
# the ReLU6 are replaced by ReLU first. So do we, with torchvision's network and random weights:


# %%
def changed(network):
    """How many weights of convolutions equalization changes."""
    made = quant.equalize(network)
    pairs = zip(network.modules(), made.modules(), strict=True)
    convs = [(a, b) for a, b in pairs if isinstance(a, torch.nn.Conv2d)]
    return sum(not torch.equal(a.weight, b.weight) for a, b in convs), len(convs)


mobilenet = torchvision.models.mobilenet_v2(weights=None, num_classes=10).eval()
folded = quant.fold_batch_norm(mobilenet, (1, 3, 64, 64))
with_six = changed(folded)
for module in list(folded.modules()):
    for name, child in module.named_children():
        if isinstance(child, torch.nn.ReLU6):
            setattr(module, name, torch.nn.ReLU())
without_six = changed(folded)
print(f"{with_six[0]} of {with_six[1]} with ReLU6, {without_six[0]} with ReLU")

# %% [markdown]
# ## What practitioners use
#
# ONNX Runtime's static quantizer, from the lesson before, at eight bits on the student, with one
# scale a tensor and with one a channel:


# %%
class Reader(industrial.CalibrationDataReader):
    """Hands out all calibration images at once."""

    def __init__(self, images):
        self.batches = iter([data.normalize(images)])

    def get_next(self):
        batch = next(self.batches, None)
        return None if batch is None else {"input": batch.numpy()}


theirs = {}
kinds = {"activation_type": industrial.QuantType.QUInt8}
kinds |= {"weight_type": industrial.QuantType.QInt8}
with tempfile.TemporaryDirectory() as folder:
    images = data.normalize(validation.images)
    plain = export.to_onnx(student, images[:1], Path(folder) / "a.onnx", True)
    for per_channel in (True, False):
        path = Path(folder) / "b.onnx"
        reader = Reader(calibration)
        with export.silence():
            industrial.quantize_static(
                plain, path, reader, per_channel=per_channel, **kinds
            )
        logits = latency.onnxruntime(path, images)()
        right = (logits.argmax(1) == validation.labels).float().mean()
        theirs[per_channel] = 100 * float(right)
print(f"a scale a channel {theirs[True]:.1f} %, one scale {theirs[False]:.1f} %")

# %% [markdown]
# The same order as ours at eight bits. Fewer than eight bits it does not offer for convolutions,
# since processors have no instructions for them. Libraries that go lower on servers are torchao
# and NNCF; on CPUs and phones four bits save bytes, and are widened before they are multiplied.
#
# The frozen recipes on the test set, three seeds each:

# %%
records = report.load_records("quantization")
post = [r for r in records if r.technique == "post-training quantization"]
rows = report.summarize(post, by=("model", "technique", "settings.variant"))
report.table(rows)

# %% [markdown]
# ```{admonition} What changes at ImageNet scale
# :class: note
# The same, more sharply. {cite:t}`nagel2019datafree` report MobileNetV2 at 0.1 % with one scale
# a tensor and eight bits, and within a point of floating point after equalization and bias
# correction. {cite:t}`nagel2020adaround` report ResNet-18 with four-bit weights at 24.0 % rounded
# to the nearest and 68.7 % with AdaRound, of 69.7 % in floating point.
# ```
#
# ## Paper and us
#
# | | paper reports | we measured |
# |---|---|---|
# | {cite:t}`nagel2019datafree`, MobileNetV2, 8 bits, one scale a tensor | 0.1 % → 71.2 % (71.7 % in floating point) | the student, 4 bits: the table above |
# | {cite:t}`nagel2020adaround`, ResNet-18, 4-bit weights | 24.0 % → 68.7 % | the student, 3 bits, and the table of recipes |
#
# The claims of the text:

# %% tags=["claims"]
eight = screened("resnet14", "weights 8, per channel, min-max")
for b in (6, 5):
    assert abs(eight - screened("resnet14", f"weights {b}, per channel, min-max")) < 0.3
assert screened("student", "weights 4, per tensor, min-max") < 60
assert screened("student", "weights 3, per tensor, min-max") < 20
assert (
    max(
        screened(m, f"weights 2, per channel, {w}")
        for m in ("resnet14", "student")
        for w in ("min-max", "mse")
    )
    < 20
)
four, three_bits = (
    screened("resnet14", f"weights {b}, per channel, min-max") for b in (4, 3)
)
assert three_bits > four
assert lost > 0.1
assert mended["student", "both", 4] > 91 > 60 > mended["student", "nearest", 4]
assert (
    abs(
        mended["student", "both", 5]
        - screened("student", "weights 5, per channel, min-max")
    )
    < 0.5
)
assert max(mended[m, "both", 2] for m in ("resnet14", "student")) < 20
assert tried[0] <= found <= nearest and nearest > 2 * tried[0]
assert at_three["AdaRound"] > at_three["nearest"] + 3
assert chosen["conv"] > 4 > chosen["blocks.4.pointwise"]
assert spent["by damage"] > spent["4 bits everywhere"] + 1
assert max(needed[8, n] for n in counts) - min(needed[8, n] for n in counts) < 0.6
assert needed[4, 256] < needed[4, 16] - 0.5
assert ordered[4, None] < ordered[3, None] and ordered[4, 8] >= ordered[3, 8] - 0.3
assert ordered[3, 8] > 94 and off["corrected"] < 0.1 * off["rounded"]
assert screened("resnet14", "activations 8, kl") < 85 < 94
assert with_six[0] < without_six[0] / 2
assert theirs[True] >= theirs[False] - 0.3

# %% [markdown]
# ## Your turn
#
# The scales of {eq}`eq-equalize` for two linear layers. Replace the `...` and run the cell.


# %%
def even_scales(first, second):
    """(hidden, in), (out, hidden) -> (hidden,)"""
    return ...


few_bits.even_scales(even_scales)

# %% [markdown]
# ## Summary
#
# ResNet-14 keeps its accuracy with weights of five bits, and suffers below; a depthwise network
# suffers from six bits on if all channels of a tensor share a scale. Much of the harm is of two
# kinds that can be mended without labels: uneven ranges, which equalization removes without
# changing the function, and means that have drifted, which go back into the bias. Rounding to the
# nearest is not the best rounding, and the best one can be learned layer by layer. What is left
# is to spend bits where they help, and to train, which is the next lesson.
#
# ## Check yourself
#
# ```{exercise}
# :label: ex-post-sigmoid
# A network has sigmoids between its layers. Can it be equalized?
# ```
#
# ```{solution} ex-post-sigmoid
# :class: dropdown
# No. $\operatorname{sigmoid}(s x) \neq s \operatorname{sigmoid}(x)$: a factor cannot pass through
# it. A leaky ReLU would do, and so do average and maximum pooling.
# ```
#
# ```{exercise}
# :label: ex-post-bias
# Somebody corrects biases with the mean over the *test* images, "since no label is used". What
# is wrong with the number that follows?
# ```
#
# ```{solution} ex-post-bias
# :class: dropdown
# The network has seen the images that judge it: its means fit exactly these, and others will
# come. A thousand numbers were fitted to the test set, labels or not. Use training images.
# ```
#
# ```{exercise}
# :label: ex-post-bytes
# A depthwise layer of 128 channels has 1,152 weights. What does a scale a channel cost at four
# bits, in percent of the weights' bytes, and in an ordinary 3×3 layer with 128 inputs?
# ```
#
# ```{solution} ex-post-bytes
# :class: dropdown
# 128 scales of 4 bytes are 512 bytes, on $1{,}152 / 2 = 576$ bytes of weights: 89 %. In the
# ordinary layer the weights take 128 times as much: 0.7 %. Where bytes count, equalization and one
# scale can be the better choice for depthwise layers.
# ```
#
# ## Where next
#
# - Next lesson: training with rounding.
# - {cite:t}`nagel2019datafree` and {cite:t}`nagel2020adaround`: both remedies, with derivations.
# - {cite:t}`krishnamoorthi2018quantizing`: what to expect from each choice.
