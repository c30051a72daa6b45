# %% [markdown]
# # What a network costs
#
# Where are the parameters of a network, where is its arithmetic, and how many bytes does
# it take in memory and on disk? This lesson changes no number: it writes down the first
# row of the table that every later chapter tries to improve.
#
# **You will**
#
# - count the parameters and multiply–accumulates of a convolution with a pencil, and
#   check your counts against PyTorch's;
# - say which layers of ResNet-14 hold its parameters and which do its arithmetic;
# - tell apart the bytes of the weights, of the activations at their peak, and of the file;
# - read a roofline, and say which layers would gain from fewer operations.
#
# **You need** Python, PyTorch, and a convolutional network that you once trained. Symbols
# are on the [notation page](../../book/notation.md), terms in the
# [glossary](../../book/glossary.md).
#
# **Time** 35 minutes to read, under a minute to run on a CPU.

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
import gzip
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from slimcnn import checkpoints, latency, metrics, plotting, report
from slimcnn.checks import measuring

plotting.use_style()
_ = torch.manual_seed(0)

# %% [markdown]
# ## Measure first
#
# The book compresses one network: **ResNet-14**, a small residual network
# {cite:p}`he2016deep` for the 28×28 gray images of Fashion-MNIST
# {cite:p}`xiao2017fashion`. Its fourteen layers with weights are
#
# | part | convolutions | channels | output |
# |---|---|---|---|
# | `conv`, the stem | one 3×3, stride 2 | 1 → 32 | 14×14 |
# | `stage1` | two blocks of two 3×3 | 32 | 14×14 |
# | `stage2` | two blocks of two 3×3, the first with stride 2 | 32 → 64 | 7×7 |
# | `stage3` | two blocks of two 3×3, the first with stride 2 | 64 → 128 | 4×4 |
# | `fc`, after a mean over all positions | one linear layer | 128 → 10 | |
#
# A block adds its input to its output; where the shape changes, a 1×1 convolution on this
# **shortcut** makes them fit (these two are not counted among the fourteen). Each
# convolution is followed by a batch norm. The book's **student**, built from
# depthwise-separable convolutions {cite:p}`howard2017mobilenets` (a kernel of its own for
# each channel, then a 1×1 convolution that mixes the channels), is the small network that
# one would train instead. Both were trained beforehand; the records of those runs come
# with the book. We load them before we do anything else, since a saving only means
# something beside the number it started from.

# %%
baselines = report.load_records("baselines")
report.table(baselines)

# %% [markdown]
# Every row has an accuracy on the test images and four costs: parameters, non-zeros,
# MACs, bytes. By the end of this lesson you can compute each of the four yourself. (What
# an accuracy is worth is the subject of the [accuracy lesson](accuracy.ipynb); the
# [latency lesson](latency.ipynb) adds the milliseconds.)
#
# ## The idea
#
# A convolution with $C_\text{in}$ input channels, $C_\text{out}$ output channels and a
# $k_h \times k_w$ kernel slides one small weight tensor over the whole image. That
# single fact separates the two costs that people mix up:
#
# - a **parameter** is stored once, however large the image;
# - a **multiply–accumulate** (MAC: one multiplication and one addition) happens once for
#   every weight *at every output position*.
#
# With $g$ groups (each output channel sees $C_\text{in}/g$ input channels), a bias, and
# an output of $H_\text{out} \times W_\text{out}$ positions, the counts are
#
# $$
# P = C_\text{out}\,\frac{C_\text{in}}{g}\,k_h k_w + C_\text{out},
# \qquad
# M = C_\text{out}\,\frac{C_\text{in}}{g}\,k_h k_w \; H_\text{out} W_\text{out}.
# $$ (eq-macs)
#
# Stride and dilation appear in $M$ through the output size alone, and padding counts as
# if the zeros were multiplied (that is what dense kernels do). The bias is an addition
# for each output; like pooling, batch norm and ReLU it is left out of $M$. One MAC is two
# floating-point operations, so "FLOPs" in a paper may mean $M$ or $2M$: always ask which.
#
# ## By hand
#
# Take a convolution from 2 to 3 channels with a 3×3 kernel and padding 1 on a 4×4 image.
# It has $3 \cdot 2 \cdot 9 = 54$ weights, and its output has 16 positions, so
# {eq}`eq-macs` says $54 \cdot 16 = 864$ MACs. To be sure, we write the convolution as the
# loops that it is, and count each multiplication.

# %% tags=["nbval-check-output"]
image, weight = torch.randn(2, 4, 4), torch.randn(3, 2, 3, 3)
padded = nn.functional.pad(image, (1, 1, 1, 1))  # (2, 6, 6)
output, macs = torch.zeros(3, 4, 4), 0
for o in range(3):
    for y in range(4):
        for x in range(4):
            products = weight[o] * padded[:, y : y + 3, x : x + 3]  # (2, 3, 3)
            output[o, y, x] = products.sum()
            macs += products.numel()
print(f"weights {weight.numel()}, MACs {macs}")

# %% [markdown]
# The loops must compute what PyTorch computes, or we counted something else:

# %%
torch.testing.assert_close(output, nn.functional.conv2d(image, weight, padding=1))
assert (weight.numel(), macs) == (54, 864)

# %% [markdown]
# ## From scratch
#
# For one convolution, {eq}`eq-macs` is a line of code. Groups need no special case: a
# grouped convolution's weight is already $C_\text{in}/g$ channels deep.


# %%
def conv_macs(conv, output):
    """MACs of one convolution for one image, from its weight and its output."""
    positions = output.shape[2] * output.shape[3]
    return conv.weight.numel() * positions  # weight: (out, in / groups, kh, kw)


# %% [markdown]
# A network is a list of such layers. We only need the size of each layer's output, and
# PyTorch tells it to a *forward hook*: a function that is called with every module, its
# inputs and its output while an example image runs through the network.


# %%
def count_macs(model, example):
    """MACs of all convolutions and linear layers of `model` for one image."""
    counts = {}

    def hook(name):
        def count(module, inputs, output):
            if isinstance(module, nn.Conv2d):
                counts[name] = conv_macs(module, output)
            if isinstance(module, nn.Linear):
                counts[name] = module.weight.numel()

        return count

    handles = [m.register_forward_hook(hook(n)) for n, m in model.named_modules()]
    with torch.inference_mode():
        model.eval()(example)
    for handle in handles:
        handle.remove()
    return counts


# %% [markdown]
# We load the two trained networks of the book and a blank image of the right size.

# %%
image = torch.zeros(1, 1, 28, 28)
networks = {
    "ResNet-14": checkpoints.load("resnet14"),
    "student": checkpoints.load("student"),
}

# %% [markdown]
# Now the equality check. The package's counter handles more layers (one and three
# dimensions, transposed convolutions, functional calls), and `FlopCounterMode` is
# PyTorch's own, which counts FLOPs. On both networks all three agree to the last MAC:

# %% tags=["nbval-check-output"]
for name, model in networks.items():
    mine = sum(count_macs(model, image).values())
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(image)
    assert mine == metrics.count_macs(model, image) == counter.get_total_flops() / 2
    print(f"{name}: {metrics.count_parameters(model):,} parameters, {mine:,} MACs")

# %% [markdown]
# The parameters need a second look. No convolution here has a bias (the $C_\text{out}$ in
# {eq}`eq-macs`), since the batch norm behind it adds one anyway, and a batch norm has two
# parameters a channel: a scale and a shift.

# %% tags=["nbval-check-output"]
counted = {"convolutions": 0, "linear layer": 0, "batch norms": 0}
for module in networks["ResNet-14"].modules():
    if isinstance(module, nn.Conv2d):
        counted["convolutions"] += module.weight.numel()
    if isinstance(module, nn.Linear):
        counted["linear layer"] += module.weight.numel() + module.out_features
    if isinstance(module, nn.BatchNorm2d):
        counted["batch norms"] += 2 * module.num_features
print(" + ".join(f"{n:,} ({name})" for name, n in counted.items()))
assert sum(counted.values()) == metrics.count_parameters(networks["ResNet-14"])

# %% [markdown]
# ## On the network
#
# Where do they sit? `metrics.layer_costs` gives one row for each layer, with its name;
# the first part of the name tells the stage.


# %%
def share_by_part(field):
    """Share of each part of ResNet-14 in one cost, in percent."""
    layers = metrics.layer_costs(networks["ResNet-14"], image)
    total, shares = sum(getattr(c, field) for c in layers), {}
    for c in layers:
        part = c.name.split(".")[0]
        shares[part] = shares.get(part, 0) + 100 * getattr(c, field) / total
    return shares


# %% [markdown]
# `conv` is the stem, `fc` the last, linear layer.

# %% tags=["nbval-check-output"]
parameters, macs = share_by_part("parameters"), share_by_part("macs")
for part in ("conv", "stage1", "stage2", "stage3", "fc"):
    print(f"{part:8}{parameters[part]:6.1f} % of the parameters", end="")
    print(f"{macs[part]:6.1f} % of the MACs")

# %% [markdown]
# Two different networks, it seems. Three quarters of the parameters are in the last
# stage; each of the three stages does about a third of the arithmetic. The figure shows
# the single layers.

# %%
layers = [c for c in metrics.layer_costs(networks["ResNet-14"], image) if c.macs]
fig, ax = plt.subplots(figsize=(6.4, 4.2))
for shift, field in ((-0.2, "parameters"), (0.2, "macs")):
    total = sum(getattr(c, field) for c in layers)
    share = [100 * getattr(c, field) / total for c in layers]
    rows = [row + shift for row in range(len(layers))]
    ax.barh(rows, share, 0.4, label=field.replace("macs", "MACs"))
ax.set(xlabel="share of the network (%)", yticks=range(len(layers)))
ax.set_yticklabels([c.name for c in layers])
ax.invert_yaxis()
_ = ax.legend()

# %% [markdown]
# The stem halves the image's sides to 14 pixels; stages 2 and 3 halve them again (to 7,
# then 4) and double the channels. Three to four times fewer positions meet four times more
# weights, so the MACs of a 3×3 layer stay nearly the same while its parameters grow
# fourfold. This is the usual shape of a CNN, and it decides what a technique can win:
# the weights that a smaller *file* can do without are mostly in stage 3, while a lighter
# stage 1 saves a third of the *arithmetic* and almost no bytes.
#
# ### Activations
#
# Weights are not the only memory. Each layer writes an output, its **activation**, and
# keeps it until its last reader is done. The **peak** is the largest sum of activations
# that are alive at one moment. In a residual block three tensors meet: the block's input
# waits for the addition while the convolutions read one tensor and write another. In
# stage 1 each has $32 \cdot 14 \cdot 14$ values of 4 bytes, so the peak by pencil is
# $3 \cdot 25{,}088 = 75{,}264$ bytes.

# %% tags=["nbval-check-output"]
one = 32 * 14 * 14 * 4  # bytes of one stage-1 activation
peak = metrics.peak_activation_bytes(networks["ResNet-14"], image)
weights = 4 * metrics.count_parameters(networks["ResNet-14"])
print(f"peak {peak:,} bytes = {peak / one:.2f} stage-1 activations")
print(f"weights {weights:,} bytes, {weights / peak:.0f} times the peak")

# %% [markdown]
# For one small image the weights dominate. Activations grow with the batch and with the
# image's area, weights do not: on a phone's photograph the two come close, as we see
# below. In training, every activation is kept for the backward pass, so the sum counts
# instead of the peak.
#
# ### Bytes on disk
#
# A parameter in float32 takes four bytes, so the file should take four times the
# parameters, and a little for names, shapes and batch-norm statistics. We never trust
# that: we write the file and ask the file system.


# %%
def file_sizes(model):
    """Bytes of the safetensors file, and of the same file after gzip."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        checkpoints.save_weights(model, path)
        return path.stat().st_size, len(gzip.compress(path.read_bytes()))


# %% [markdown]
# Will a general-purpose compressor make it smaller? We try gzip in passing.

# %%
size, zipped = file_sizes(networks["ResNet-14"])
print(f"4 bytes x parameters {weights / 1e3:9.1f} kB")
print(f"the file             {size / 1e3:9.1f} kB")
print(f"the file, gzipped    {zipped / 1e3:9.1f} kB")

# %% [markdown]
# Trained float32 weights hardly compress: the low bits of a float are noise to gzip.
#
# ## Why it works, when it does not
#
# The counts above are exact, and still they mislead. Three experiments.
#
# **Zeros are not savings.** We set the smaller half of every weight tensor to zero, as
# [pruning](../../book/index.md) will do more carefully. Then we count again.

# %%
sparse = checkpoints.load("resnet14")
with torch.no_grad():
    for weight in sparse.parameters():
        if weight.ndim > 1:
            weight *= weight.abs() > weight.abs().median()

# %% [markdown]
# Before and after:

# %%
sparse_size, sparse_zipped = file_sizes(sparse)
print(f"file, bytes     {size:,} -> {sparse_size:,}")
print(f"gzipped, bytes  {zipped:,} -> {sparse_zipped:,}")
for count in (metrics.count_nonzeros, metrics.count_macs):
    before, after = count(networks["ResNet-14"]), count(sparse)
    print(f"{count.__name__:16}{before:,} -> {after:,}")

# %% [markdown]
# Half of the weights are gone, the file has the same size to the byte, and the dense
# kernels multiply the zeros as before. Gzip does find the zeros, but a network has to be
# unpacked before it can run, and then it is as large as ever. A zero is worth something
# to a format that leaves it out *and* a kernel that skips it; chapter 3 builds both.
#
# **Fewer MACs are not less time in proportion.** The student needs a small part of ResNet-14's MACs.
# We time both, one image at a time on one thread, with the method of the next lesson.

# %%
timed = latency.measure(
    {name: latency.eager(model, image) for name, model in networks.items()}
)
count = {name: metrics.count_macs(model) for name, model in networks.items()}
fewer = count["ResNet-14"] / count["student"]
faster = timed["ResNet-14"].median / timed["student"].median
print(f"{fewer:.1f} times fewer MACs, {faster:.1f} times faster")

# %% [markdown]
# The time falls much less than the arithmetic. To see why, we put each layer on a
# **roofline** {cite:p}`williams2009roofline`. A layer must bring its input and weights
# from memory and take its output back; it cannot be faster than the processor multiplies,
# nor faster than these bytes move. With the **arithmetic intensity** $I$, the MACs per
# byte moved, the speed is bounded by
#
# $$
# \text{MAC/s} \le \min\left(\text{peak},\; I \cdot \text{bandwidth}\right),
# \qquad
# I = \frac{M}{\text{bytes moved}} .
# $$ (eq-roofline)
#
# Drawn over $I$ with both axes logarithmic, this bound is a roof: a slant, where the bytes
# are the limit, up to a bend at $I = \text{peak} / \text{bandwidth}$, then flat, where the
# MACs are. The two ceilings of the machine we measure as well: a large matrix product for
# the peak, a large copy for the bandwidth (it reads and writes each byte once).

# %%
a, big = torch.randn(768, 768), torch.randn(16_000_000)
target = torch.empty_like(big)
machine = latency.measure(
    {"matmul": lambda: a @ a, "copy": lambda: target.copy_(big)}, rounds=20, warmup=3
)
peak_rate = 768**3 / machine["matmul"].median / 1e6  # MACs per ms / 1e6 = GMAC/s
bandwidth = 2 * 4 * big.numel() / machine["copy"].median / 1e6  # bytes per ms: GB/s
bend = peak_rate / bandwidth
print(f"peak {peak_rate:.0f} GMAC/s, bandwidth {bandwidth:.0f} GB/s, one thread")
print(f"the roof bends at {bend:.1f} MACs per byte")

# %% [markdown]
# Then every convolution by itself. A hook notes the input that each one gets.


# %%
def convolutions(name):
    """Each convolution of a network with its input and output, for one image."""
    model, found = checkpoints.load(name), []

    def note(module, inputs, output):
        found.append((module, inputs[0], output))

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    with torch.no_grad():
        model(image)
    return found


# %% [markdown]
# The depthwise convolutions of the student get a color of their own.

# %%
pairs = convolutions("student")
groups = {
    "ResNet-14": convolutions("resnet14"),
    "student, stem and 1×1": [c for c in pairs if c[0].groups == 1],
    "student, depthwise": [c for c in pairs if c[0].groups > 1],
}

# %% [markdown]
# All of them are timed in the same rounds, and {eq}`eq-roofline` gives each a place. We
# count each tensor once, as if it came from main memory. With them runs a convolution of a
# single number: the price of a call.

# %%
layers = [(group, *layer) for group, found in groups.items() for layer in found]
calls = {i: latency.eager(conv, x) for i, (_, conv, x, _) in enumerate(layers)}
calls["call"] = latency.eager(nn.Conv2d(1, 1, 1, bias=False), torch.randn(1, 1, 1, 1))
timed = latency.measure(calls, rounds=30)
points = {group: [] for group in groups}
for i, (group, conv, x, y) in enumerate(layers):
    moved = 4 * (x.numel() + conv.weight.numel() + y.numel())  # bytes
    done = metrics.count_macs(conv, x)
    points[group].append((done / moved, done / timed[i].median / 1e6))

# %% [markdown]
# The black line is the roof:

# %%
fig, ax = plt.subplots()
reach = torch.logspace(-1, 2, 50)
roof = (reach * bandwidth).clamp(max=peak_rate)
ax.plot(reach, roof, color="black", label="roofline")
for (group, xy), marker in zip(points.items(), "os^", strict=True):
    ax.scatter(*zip(*xy, strict=True), marker=marker, label=group)
ax.set(xscale="log", yscale="log", ylabel="speed (GMAC/s)")
ax.set(xlabel="arithmetic intensity (MACs per byte)")
ax.legend()
plt.show()
depthwise = [
    timed[i].median for i, (g, *_) in enumerate(layers) if g.endswith("depthwise")
]
price, thin = timed["call"].median, float(np.median(depthwise))
print(f"a call {1e3 * price:.0f} µs, a depthwise layer {1e3 * thin:.0f} µs")

# %% [markdown]
# Read it from left to right. The depthwise layers have an intensity of at most about one:
# a value of four bytes is read, and another written, for nine multiplications at most. So
# their roof is the slant. They lie far below even that. Part of their time is the price of the
# call, which eager PyTorch takes before the first multiplication; and a kernel for nine weights
# a channel has little to reuse. Saving MACs there saves next to nothing. ResNet-14's 3×3 layers
# reuse every value many times and run many times faster, and so do the student's 1×1 layers,
# which use each value once for every output channel: there, fewer MACs do mean less time.
# Runtimes of the next lesson remove part of the cost of calls.
#
# **What compression can and cannot buy**, then:
#
# | you save | it shrinks | it does not shrink |
# |---|---|---|
# | weights set to zero | the file, if the format leaves zeros out | dense run time, activations |
# | whole channels | file, MACs, activations, run time | the cost of each call |
# | bits per value | file, memory traffic; time, with integer kernels | MACs |
# | MACs of thin layers | the count | time, where bytes or calls are the limit |
#
# ## What practitioners use
#
# `torch.utils.flop_counter` comes with PyTorch and counts what runs, functional calls
# included. We take a network that is not ours, torchvision's MobileNetV2
# {cite:p}`sandler2018mobilenetv2` on a color image of 224×224, and count it both ways.

# %% tags=["nbval-check-output"]
photo = torch.zeros(1, 3, 224, 224)
foreign = {
    "MobileNetV2": torchvision.models.mobilenet_v2(weights=None).eval(),
    "ResNet-18": torchvision.models.resnet18(weights=None).eval(),
}
for name, network in foreign.items():
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(photo)
    assert metrics.count_macs(network, photo) == counter.get_total_flops() / 2
    macs_m, weights_m = (
        counter.get_total_flops() / 2e6,
        metrics.count_parameters(network),
    )
    print(f"{name:12}{macs_m:6.0f} M MACs, {weights_m / 1e6:.2f} M parameters")

# %% [markdown]
# ResNet-18 is included since its paper counts too. What about memory?

# %% tags=["nbval-check-output"]
for name, network in foreign.items():
    weight_mb = 4 * metrics.count_parameters(network) / 1e6
    peak_mb = metrics.peak_activation_bytes(network, photo) / 1e6
    print(f"{name:12} weights {weight_mb:4.1f} MB, peak activations {peak_mb:4.1f} MB")

# %% [markdown]
# ```{admonition} What changes at ImageNet scale
# :class: note
# The image has 64 times the pixels of ours, and activations grow with it: MobileNetV2's
# peak activation is no longer small beside its weights, and on a microcontroller it, not
# the file, decides whether the network runs. Published counts are for one crop size;
# the same network on a larger image has the same parameters and more MACs.
# ```
#
# ## Paper and us
#
# | network | paper reports | we count |
# |---|---|---|
# | ResNet-18 {cite:p}`he2016deep` | 1.8 billion "FLOPs", meaning multiply–adds | 1,814 M MACs |
# | MobileNetV2 {cite:p}`sandler2018mobilenetv2` | 3.4 M parameters, 300 M multiply–adds | 3.50 M parameters, 301 M MACs |
#
# The papers round, and count multiply–adds as we do, in the convolutions and the linear
# layer. Their word "FLOPs" is the trap:
# PyTorch's counter would print twice the number for the same network.
#
# Each lesson ends its experiments with the claims of the text as assertions. If they run
# on your machine, the text holds there as well.

# %% tags=["claims"]
assert 73 < parameters["stage3"] < 77, "three quarters of the parameters in stage 3"
assert round(metrics.count_macs(foreign["ResNet-18"], photo) / 1e6) == 1814
assert round(metrics.count_macs(foreign["MobileNetV2"], photo) / 1e6) == 301
assert round(metrics.count_parameters(foreign["MobileNetV2"]) / 1e4) == 350
stages = [macs[stage] for stage in ("stage1", "stage2", "stage3")]
assert 28 < min(stages) < max(stages) < 39, "each stage about a third of the MACs"
assert peak == 3 * one, "a residual block keeps three activations"
assert 0.85 < zipped / size < 1, "float32 weights hardly compress"
assert sparse_size == size, "zeros save no byte in a dense file"
assert 0.5 < sparse_zipped / zipped < 0.75, "gzip finds the zeros"
assert faster < fewer, "the time falls less than the arithmetic"
assert max(intensity for intensity, _ in points["student, depthwise"]) < 1.2
fast = sorted(rate for _, rate in points["ResNet-14"])[len(points["ResNet-14"]) // 2]
assert fast > 3 * max(rate for _, rate in points["student, depthwise"])
middle = {group: np.median([rate for _, rate in xy]) for group, xy in points.items()}
assert middle["student, stem and 1×1"] > 5 * middle["student, depthwise"]
assert price > 0.05 * thin, "part of the time is the price of a call"
for reached, rate in points["student, depthwise"]:
    assert rate < 0.7 * min(reached * bandwidth, peak_rate), "far below the roof"

# %% [markdown]
# ## Your turn
#
# Write the MACs of a depthwise $k \times k$ convolution followed by a 1×1 convolution,
# the pair that the student is made of. Both have the same output size. Replace the `...`
# and run the cell; the check tries your function on random layers.


# %%
def separable_macs(c_in, c_out, kernel, height, width):
    return ...


measuring.separable_macs(separable_macs)

# %% [markdown]
# ## Summary
#
# A convolution's parameters depend on its channels and kernel; its MACs depend also on
# how many positions it visits, so the two sit in different layers. Memory has three
# numbers: the weights, the peak of the activations, the file. Zeros, MACs and bytes are
# each worth something only where a format, a kernel or a memory system can use them; the
# roofline says where. The first row of the table is written.
#
# ## Check yourself
#
# ```{exercise}
# :label: ex-cost-double
# You double the channels of every layer of a network and leave the image as it is. By
# what factor do parameters, MACs and activations grow?
# ```
#
# ```{solution} ex-cost-double
# :class: dropdown
# Parameters and MACs of a layer grow with input channels × output channels: about
# fourfold (the first layer, whose input has a fixed depth, and the last, whose outputs are
# the classes, only twofold). Activations grow with the output channels: twofold.
# ```
#
# ```{exercise}
# :label: ex-cost-image
# You feed the same network images of twice the height and width. What grows, and what
# does not?
# ```
#
# ```{solution} ex-cost-image
# :class: dropdown
# MACs of the convolutions and all activations grow fourfold. Parameters and the file
# stay, and so does the linear layer after global pooling.
# ```
#
# ```{exercise}
# :label: ex-cost-claim
# A product page says "our pruned model has 80 % fewer parameters, so it is five times
# faster". Name two measurements that you would ask for.
# ```
#
# ```{solution} ex-cost-claim
# :class: dropdown
# Whether the zeros left the tensors or were only set to zero (the size of the file), and
# the latency of both models in the same runtime on the same device. The MACs would help
# as well: parameters and MACs sit in different layers.
# ```
#
# ```{exercise}
# :label: ex-cost-roof
# On a roofline, a layer lies on the slanted part. A colleague halves its MACs by a clever
# factorization that reads and writes the same bytes. What happens to its time?
# ```
#
# ```{solution} ex-cost-roof
# :class: dropdown
# Nothing: its time is the bytes divided by the bandwidth. Halving the MACs halves its
# intensity and its speed in MAC/s, and the quotient stays.
# ```
#
# ## Where next
#
# - [Assignment: measuring](../../assignments/release/measuring/measuring.ipynb): count costs, plan a comparison, mend a stopwatch.
# - Next lesson: [Latency](latency.ipynb), how to time a network so that the number means
#   something.
# - {cite:t}`williams2009roofline` introduce the roofline in ten readable pages; the
#   figure above is theirs with our layers.
# - {cite:t}`sandler2018mobilenetv2` design a network around the costs of this lesson.
