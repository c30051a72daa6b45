# ---
# jupyter:
#   slimcnn:
#     timing: true
# ---

# %% [markdown]
# # Integers
#
# A weight takes 32 bits, and so does every number between two layers. Would eight do, and could
# the whole network be computed with whole numbers? This lesson changes two numbers of ResNet-14:
# its bytes, to a quarter, and its latency.
#
# **You will**
#
# - map real numbers to integers and back with a scale and a zero point, by pencil and for each
#   channel;
# - say what a bit is worth in decibels, and when it pays to cut off the largest values;
# - fold batch norms into the layers before them;
# - compute a whole network with integers alone, and prove that the sums of its layers are those of
#   ONNX Runtime, bit by bit.
#
# **You need** [What a network costs](../01-measuring/cost.ipynb),
# [Latency](../01-measuring/latency.ipynb) and [Accuracy](../01-measuring/accuracy.ipynb).
# Symbols are on the [notation page](../../book/notation.md).
#
# **Time** 45 minutes to read, about a minute to run on a CPU.

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
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
import torchvision
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization as industrial

from slimcnn import (
    checkpoints,
    data,
    export,
    latency,
    metrics,
    plotting,
    report,
    training,
)
from slimcnn import quantization as quant
from slimcnn.checks import integer_arithmetic
from slimcnn.provenance import cpu_name

plotting.use_style()
_ = torch.manual_seed(0)

# %% [markdown]
# ## Measure first

# %%
report.table(report.load_records("baselines"))

# %% [markdown]
# The weights and activations behind this table are **float32**: a sign, 8 bits of exponent, 23 bits of fraction. Two
# 16-bit formats are common. **float16** has 5 bits of exponent and 10 of fraction; **bfloat16**
# keeps the 8 bits of exponent, so its range, and has 7 of fraction. Both halve a file by a
# cast. What do they cost? On a thousand validation images, with the weights cast:

# %%
model = checkpoints.load("resnet14")
validation = data.load("validation").subset(1000)
calibration = data.load("train").subset(500).images


def accuracy(network):
    """Percent right of a thousand validation images."""
    return training.evaluate(network, validation)


# %% [markdown]
# Each parameter is rounded to the 16-bit format, and stored as float32 again:

# %%
accuracies = {"float32": accuracy(model)}
for kind in (torch.float16, torch.bfloat16):
    rounded = {k: v.to(kind).to(v.dtype) for k, v in model.state_dict().items()}
    cast = checkpoints.load("resnet14")
    cast.load_state_dict(rounded)
    accuracies[str(kind).removeprefix("torch.")] = accuracy(cast)
print({name: f"{found:.1f} %" for name, found in accuracies.items()})

# %% [markdown]
# Next to nothing: weights of 16 bits are free. Can we go to eight, and to *integers*, which the
# smallest processors can compute with? An integer has no exponent. All numbers of a tensor, or of
# one of its channels, must share one.
#
# ## The idea
#
# Put evenly spaced **levels** under the real axis, up to $2^{n_\text{bits}}$ of them, and store for
# each number which level is nearest {cite:p}`jacob2018quantization`:
#
# $$
# q = \operatorname{clamp}\!\left(\operatorname{round}\!\left(\frac{x}{\delta}\right)
#     + \zeta,\; q_\text{low},\; q_\text{high}\right),
# \qquad
# \hat{x} = \delta\,(q - \zeta) .
# $$ (eq-affine)
#
# The **scale** $\delta$ is the distance between two levels, and the **zero point** $\zeta$ is
# the integer that stands for 0. It must be an integer: zeros are everywhere in a network,
# behind each ReLU and in all padding, and they should cost no error at all.
#
# Two cases are in use. **Asymmetric** (affine): the levels cover the range that occurs, from
# $x_\text{min} \le 0$ to $x_\text{max} \ge 0$, moved by less than half a step so that 0 is one of
# them. **Symmetric**: $\zeta = 0$, and the levels reach as far to the left as to the right.
#
# $$
# \begin{aligned}
# \text{asymmetric:}\quad & \delta = \frac{x_\text{max} - x_\text{min}}{2^{n_\text{bits}} - 1},
#   & \zeta &= q_\text{low} - \operatorname{round}(x_\text{min} / \delta) \\
# \text{symmetric:}\quad & \delta = \frac{\max |x|}{2^{n_\text{bits} - 1} - 1},
#   & \zeta &= 0
# \end{aligned}
# $$ (eq-scales)
#
# With three bits, for numbers from −0.5 to 2:

# %%
x = torch.linspace(-2.3, 2.3, 600)
low, high = torch.tensor(-0.5), torch.tensor(2.0)
quantizers = {
    "asymmetric": quant.affine_quantizer(low, high, bits=3),
    "symmetric": quant.symmetric_quantizer(high, bits=3),
}

# %% [markdown]
# What each makes of a number:

# %%
fig, axes = plt.subplots(1, 2, sharey=True, figsize=(6.8, 3))
for ax, (name, quantizer) in zip(axes, quantizers.items(), strict=True):
    ax.plot(x, x, color="black", linewidth=0.8)
    ax.plot(x, quantizer(x))
    ax.axvspan(low, high, alpha=0.15)
    ax.set(title=f"{name}, zero point {int(quantizer.zero_point)}", xlabel="x")
_ = axes[0].set_ylabel("x after rounding")

# %% [markdown]
# The stairs are the levels, the shaded range is where our numbers are. On the left all eight
# levels are used; on the right two lie where no number is, so that the steps are wider. (An
# eighth is lost altogether: symmetric integers run from −3 to 3, so that −x has the negative
# integer of x.) Why symmetric at all? Without a zero point the sums of a layer are simpler, as
# we shall see. The usual choice is symmetric for weights, which lie around zero anyway, and
# asymmetric for activations, which after a ReLU are never negative.
#
# ## By hand
#
# Four weights, symmetric, three bits: the largest is 1.5, the largest integer 3, so
# $\delta = 0.5$. Divide, round, multiply back: −1.5 is −3 and comes back as −1.5; 0.2 is 0.4,
# so 0, and is lost; 0.6 is 1.2, so 1, and comes back as 0.5; 1.0 is 2. And a pixel's range from
# −1.0 to 4.1 with eight bits: $\delta = 5.1 / 255 = 0.02$, and 0 lies 50 levels above the
# bottom, so $\zeta = 50$.

# %% tags=["nbval-check-output"]
weights = torch.tensor([-1.5, 0.2, 0.6, 1.0])
by_hand = quant.symmetric_quantizer(weights.abs().max(), bits=3)
print(by_hand.quantize(weights).tolist(), by_hand(weights).tolist())
pixels = quant.affine_quantizer(torch.tensor(-1.0), torch.tensor(4.1), bits=8)
print(f"scale {pixels.scale:.3f}, zero point {pixels.zero_point}")
assert by_hand.quantize(weights).tolist() == [-3, 0, 1, 2]
assert int(pixels.zero_point) == 50

# %% [markdown]
# ## From scratch
#
# Equation {eq}`eq-affine` is two lines of code, and a range gives the scale.


# %%
def quantize(x, scale, zero_point, low, high):
    """Real numbers -> integers."""
    return (torch.round(x / scale) + zero_point).clamp(low, high).int()


def dequantize(q, scale, zero_point):
    """Integers -> the real numbers of their levels."""
    return scale * (q - zero_point)


# %% [markdown]
# For a weight, symmetric:


# %%
def symmetric(weight, bits):
    """Scale and integers of a weight, one scale for all."""
    largest = 2 ** (bits - 1) - 1
    scale = weight.abs().max() / largest
    return scale, quantize(weight, scale, 0, -largest, largest)


# %% [markdown]
# A scale **for each channel** costs four bytes a filter, and lets a filter of small weights have
# small steps. The maximum is taken for each filter, and the scales are lined up with them:


# %%
def symmetric_channels(weight, bits):
    """The same with a scale for each output channel, (out,)."""
    largest = 2 ** (bits - 1) - 1
    scale = weight.abs().amax((1, 2, 3)) / largest
    along = scale.view(-1, 1, 1, 1)
    return scale, quantize(weight, along, 0, -largest, largest)


# %% [markdown]
# The equality cell: `symmetric_quantizer`, and PyTorch's own operation.

# %%
weight = model.stage2[0].conv1.weight.detach()  # (64, 32, 3, 3)
scale, integers = symmetric(weight, 8)
mine = dequantize(integers, scale, 0)
torch.testing.assert_close(
    mine, quant.symmetric_quantizer(weight.abs().max(), 8)(weight)
)
theirs = torch.fake_quantize_per_tensor_affine(weight, float(scale), 0, -127, 127)
torch.testing.assert_close(mine, theirs)

# %% [markdown]
# And with a scale for each channel:

# %%
scales, integers = symmetric_channels(weight, 8)
package = quant.symmetric_quantizer(weight.abs().amax((1, 2, 3)), 8, axis=0)
assert torch.equal(integers, package.quantize(weight))

# %% [markdown]
# ### What a bit is worth
#
# Where nothing is clipped, rounding is off by at most half a step, and by any amount up to that
# equally often. The mean square of such an error is
# $\frac{1}{\delta} \int_{-\delta/2}^{\delta/2} e^2\, de = \delta^2 / 12$. One bit more halves
# $\delta$, so it divides the error's power by four. In decibels, ten times the base-10
# logarithm of a ratio of powers, that is $10 \log_{10} 4 = 6.02$. The
# **signal-to-quantization-noise ratio** compares the error with the numbers themselves:
#
# $$
# \text{SQNR} = 10 \log_{10} \frac{\sum x^2}{\sum (x - \hat{x})^2}
# \quad\text{grows by about } 6.02\text{ dB with each bit.}
# $$ (eq-sqnr)
#
# Is it so? We round one layer of ResNet-14 and one depthwise layer of the student to 2 to 16
# bits, with one scale and with a scale for each channel.

# %%
student = quant.fold_batch_norm(checkpoints.load("student"))
folded = quant.fold_batch_norm(model)  # what that is: below
layers = {
    "ordinary": folded.stage2[0].conv1.weight.detach(),
    "depthwise": student.blocks[1].depthwise.weight.detach(),
}
ways = {"one scale": None, "a scale a channel": 0}

# %% [markdown]
# The ratio of each layer, each way, for all numbers of bits:

# %%
bits, ratios = range(2, 17), {}
for name, w in layers.items():
    for way, axis in ways.items():
        largest = w.abs().max() if axis is None else w.abs().amax((1, 2, 3))
        made = [quant.symmetric_quantizer(largest, b, axis)(w) for b in bits]
        ratios[name, way] = [quant.sqnr(w, rounded) for rounded in made]

# %% [markdown]
# In the figure the dashed line has the right slope; its height means nothing.

# %%
fig, axes = plt.subplots(1, 2, sharey=True, figsize=(6.8, 3))
for ax, name in zip(axes, layers, strict=True):
    for way in ways:
        ax.plot(bits, ratios[name, way], marker=".", label=way)
    slope = [6.02 * b - 10 for b in bits]
    ax.plot(bits, slope, "k--", linewidth=0.8, label="6.02 dB a bit")
    ax.set(title=name, xlabel="bits")
axes[0].set_ylabel("SQNR (dB)")
_ = axes[1].legend()

# %% [markdown]
# Straight lines, as steep as the dashed one. Below five bits they are steeper, since the symmetric
# levels more than double with a bit: three, seven, fifteen. With two bits and one scale next to
# nothing is left: nearly all weights are nearest to zero. A scale for each channel lifts the line: by less than a bit in the ordinary layer, by more than a
# bit in the depthwise one, whose channels of nine weights differ a lot in size. The lesson after
# this one shows what becomes of it at few bits.
#
# ### Which range?
#
# The largest value decides the step of all others. If it is an outlier, it may be better to
# clip it: some values then have a large error, and all the rest a smaller one. Four ways to
# choose a range are in use:
#
# - **min-max**: nothing is clipped;
# - **percentile**: the outermost 0.1 % are;
# - **MSE**: try many ranges, and take the one with the least mean square error;
# - **KL**: try many, and take the one whose histogram $Q$, after rounding, is nearest to the
#   original one $P$ in Kullback–Leibler divergence, $\sum P \log (P / Q)$, which is 0 only where
#   both are equal {cite:p}`migacz2017inference`.
#
# Ranges of activations are found by running the network on some *training* images, never on
# those that will judge it. That is **calibration**. What the last block gives:

# %%
with torch.no_grad():
    features = model.relu(model.bn(model.conv(data.normalize(calibration))))
    features = model.stage3(model.stage2(model.stage1(features)))

# %% [markdown]
# Their ranges, for 8 and for 4 bits:

# %%
ranges = {
    "min-max": lambda x, b: quant.min_max_range(x),
    "percentile": lambda x, b: quant.percentile_range(x, 99.9),
    "MSE": lambda x, b: quant.mse_range(x, b, symmetric=False),
    "KL": quant.kl_range,
}
found = {(name, b): find(features, b) for name, find in ranges.items() for b in (8, 4)}

# %% [markdown]
# The histogram shows the values that are not zero, with the upper end of each range at 4 bits.

# %%
fig, ax = plt.subplots()
ax.hist(features[features > 0].flatten().numpy(), bins=100, color="lightgray")
for (name, b), (_, top) in found.items():
    if b == 4:
        color = f"C{list(ranges).index(name)}"
        ax.axvline(float(top), color=color, label=f"{name}: {top:.2f}")
ax.set(xlabel="activation", ylabel="how often", yscale="log")
_ = ax.legend()

# %% [markdown]
# And how well each does:

# %%
clipped = {}
for (name, b), limits in found.items():
    clipped[name, b] = quant.sqnr(
        features, quant.affine_quantizer(*limits, b)(features)
    )
for b in (8, 4):
    row = ", ".join(f"{name} {clipped[name, b]:.1f} dB" for name in ranges)
    print(f"{b} bits: {row}")

# %% [markdown]
# At eight bits there is next to nothing to gain: there are enough levels for outliers, too.
# Cutting off a fixed share, as the percentile does, even loses: the error of the few that are
# clipped is far larger than that of all others together. At four bits every way of clipping is
# clearly better than min-max. With each bit less the rounding error grows fourfold, and the error of
# what a given range clips stays what it is, so fewer levels make clipping pay. MSE and KL find that
# balance themselves, and nearly the same one. (A trap of KL: zeros must be
# left out of its histogram. After a ReLU they are more than half of all values, and a range that
# does well on them alone would win.)
#
# ### Folding batch norm
#
# Before we count in integers, one layer can go. In evaluation mode a batch norm makes of a
# channel $y$ the channel $\gamma (y - \mu) / \sqrt{\nu + \epsilon} + \beta$: a number times $y$,
# and a number. ($\epsilon$ is a tiny constant against division by zero.) A convolution is linear,
# so that both numbers can go into it. Each filter of $\mathbf{W}$ is multiplied by its channel's
# factor, and for a convolution without bias
#
# $$
# \mathbf{W}' = \frac{\boldsymbol{\gamma}}{\sqrt{\boldsymbol{\nu} + \epsilon}} \,\mathbf{W},
# \qquad
# \mathbf{b}' = \boldsymbol{\beta}
#   - \frac{\boldsymbol{\gamma}\,\boldsymbol{\mu}}{\sqrt{\boldsymbol{\nu} + \epsilon}} .
# $$ (eq-fold)


# %%
def fold(conv, bn):
    """One 3×3 convolution for a convolution without bias and a batch norm."""
    factor = bn.weight / (bn.running_var + bn.eps).sqrt()  # (out,)
    folded = torch.nn.Conv2d(
        conv.in_channels, conv.out_channels, 3, conv.stride, conv.padding
    )
    folded.weight.data = conv.weight * factor.view(-1, 1, 1, 1)
    folded.bias.data = bn.bias - factor * bn.running_mean
    return folded


# %% [markdown]
# `fold_batch_norm` does so wherever a batch norm alone reads what a layer gives, in any network: it
# watches one forward pass to see where that is.

# %% tags=["nbval-check-output"]
one = fold(model.conv, model.bn)
torch.testing.assert_close(one.weight, folded.conv.weight)
torch.testing.assert_close(one.bias, folded.conv.bias)
images = data.normalize(validation.images)
with torch.no_grad():
    torch.testing.assert_close(folded(images), model(images), rtol=1e-3, atol=1e-4)
norms = sum(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
print(f"{norms} batch norms left, {metrics.count_parameters(folded):,} parameters")

# %% [markdown]
# ### A layer of whole numbers
#
# Put {eq}`eq-affine` into a sum of products. With symmetric weights, for one output channel:
#
# $$
# \sum w x \approx \delta_w \delta_x \sum q_w \,(q_x - \zeta_x) .
# $$ (eq-integer-sum)
#
# The sum has integers only. (A zero point of the weights would add a second sum, $-\zeta_w \sum
# (q_x - \zeta_x)$, to be computed anew for every patch. That is why weights are symmetric.) A
# product is at most $255 \cdot 127 < 2^{15}$, and the largest layer adds up $128 \cdot 9 < 2^{11}$
# of them: an **accumulator** of 32 bits, `int32`, holds the sum exactly. A bias is an integer of the
# same kind, $\operatorname{round}(b / (\delta_w \delta_x))$. In PyTorch we cut out the patches and
# multiply integers:


# %%
def integer_conv(q_x, zero_point, q_weight, stride=1):
    """(B, in, H, W), (out, in, 3, 3) integers -> (B, out, H', W') int64, padding 1."""
    x = F.pad(q_x.long() - zero_point, (1, 1, 1, 1))  # real 0 is 0 now
    patches = x.unfold(2, 3, stride).unfold(3, 3, stride)  # (B, in, H', W', 3, 3)
    return torch.einsum("bchwij,ocij->bohw", patches, q_weight.long())


# %% [markdown]
# ONNX has this operation, too: `ConvInteger` takes uint8 inputs, their zero point, and int8
# weights, and gives int32 sums. A graph of this one node:


# %%
def conv_integer(q_x, zero_point, q_weight, stride=1, padding=1):
    """The same sums, by ONNX Runtime."""
    options = {"pads": [padding] * 4, "strides": [stride] * 2}
    node = helper.make_node("ConvInteger", ["x", "w", "z"], ["y"], **options)
    constants = {"w": q_weight.numpy().astype(np.int8), "z": np.uint8(zero_point)}
    graph = helper.make_graph(
        [node],
        "sums",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, None)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opset = [helper.make_opsetid("", 13)]
    proto = helper.make_model(graph, opset_imports=opset, ir_version=8)
    exact = onnxruntime.SessionOptions()
    exact.add_session_config_entry("session.x64quantprecision", "1")  # see below
    session = onnxruntime.InferenceSession(proto.SerializeToString(), exact)
    return torch.from_numpy(session.run(None, {"x": q_x.numpy().astype(np.uint8)})[0])


# %% [markdown]
# Equal means equal here: integers have no rounding error.

# %% tags=["nbval-check-output"]
pixel = quant.affine_quantizer(*quant.min_max_range(data.normalize(calibration)), 8)
q_x = pixel.quantize(images[:20])
_, q_w = symmetric_channels(folded.conv.weight.detach(), 8)
sums = integer_conv(q_x, pixel.zero_point, q_w, stride=2)
assert torch.equal(sums, conv_integer(q_x, pixel.zero_point, q_w, stride=2).long())
print(f"{sums.numel():,} sums, all equal")

# %% [markdown]
# ### From sums to eight bits again
#
# The next layer wants uint8. A sum $a$ stands for $\delta_w \delta_x\, a$, and shall become
# the nearest multiple of $\delta_y$. The factor between both is a real number $\kappa$, which we
# write with integers, too:
#
# $$
# q_y = \operatorname{clamp}\bigl(\operatorname{round}(\kappa a) + \zeta_y\bigr),
# \qquad
# \kappa = \frac{\delta_w \delta_x}{\delta_y} \approx \frac{m}{2^n},
# $$ (eq-requantize)
#
# with $m$ a whole number below $2^{31}$ and as large as that allows. Dividing by $2^n$ is a
# shift by $n$ bits, and adding $2^{n-1}$ before it makes it round to the nearest. So
# **requantization** is a product, an addition and a shift. By hand: $\kappa = 0.3$ with an $m$ of
# four bits would be $m = 10$, $n = 5$, since $10 / 32 = 0.3125$. A sum of 100 gives
# $(1000 + 16) \gg 5 = 31$, where the exact $\kappa$ gives 30; with 31 bits they agree.

# %% tags=["nbval-check-output"]
multiplier, shift = quant.fixed_point(torch.tensor([0.3], dtype=torch.float64))
m, n = int(multiplier), int(shift)
print(f"m = {m}, n = {n}, m / 2^n = {m / 2**n:.12f}")
assert (100 * 10 + 16) >> 5 == 31 and (100 * m + (1 << (n - 1))) >> n == 30

# %% [markdown]
# A ReLU after the layer needs no work: where the range of what is stored begins at 0, $\zeta_y$
# is 0, and the clamp has done it. Where two branches are added, each comes with a scale of its
# own; $(m_1 a_1 + m_2 a_2 + 2^{n-1}) \gg n$, with a common $n$ and without their zero points, brings
# both to the scale of their sum. An average is a sum
# whose $\kappa$ is divided by the number of addends, and the largest of some numbers is the largest
# of their integers.
#
# ## On the network
#
# Three calls make the network of integers. `quantize` puts a quantizer at each layer's weight
# and input, its ranges from the calibration images. `place_quantizers` puts one on all other
# tensors that are stored: the branches that are added up, and what is pooled. And
# `IntegerNetwork` computes it as above, integers from the first layer to the last. A fourth call
# writes the network for ONNX Runtime in **QDQ** form (quantize, dequantize): weights are int8,
# biases int32, and around each operation stand nodes that quantize and dequantize. The runtime
# recognizes the pattern, and computes the operation with integers.

# %%
scheme = quant.Scheme(weight_bits=8, activation_bits=8)
simulated = quant.place_quantizers(
    quant.quantize(folded, scheme, calibration), calibration
)
integer = quant.IntegerNetwork(simulated)
folder = tempfile.TemporaryDirectory()
files = Path(folder.name) / "int8.onnx", Path(folder.name) / "fp32.onnx"
path = quant.to_qdq_onnx(simulated, images[:1], files[0], dynamic_batch=True)
plain = export.to_onnx(model, images[:1], files[1], dynamic_batch=True)

# %% [markdown]
# `steps` gives all integers on the way. First our own arithmetic: the first layer, put together
# from the pieces above, must store what the network stores.

# %%
steps = integer.steps(images[:20])
first = simulated.conv
q_weight, scale = first.weight_quantizer.integers(first.layer.weight)
stored = simulated.tensor_quantizers.after_relu.quantizer()
pixel = simulated.tensor_quantizers.after_x.quantizer()

# %% [markdown]
# The unit of the sums, the bias in that unit, and the factor to what is stored:

# %%
unit = scale.double() * pixel.scale.double()  # of the sums, (out,)
q_bias = torch.round(first.layer.bias.double() / unit).long()
multiplier, shift = quant.fixed_point((unit / stored.scale.double()).unsqueeze(-1))

# %% [markdown]
# Sum, requantize, clamp:

# %%
sums = integer_conv(steps["x_quantized"], pixel.zero_point, q_weight, stride=2)
sums = sums + q_bias.view(-1, 1, 1)
m, n = multiplier.view(-1, 1, 1), shift.view(-1, 1, 1)
made = ((sums * m + (1 << (n - 1))) >> n) + stored.zero_point
assert torch.equal(made.clamp(0, 255).int(), steps["relu_quantized"])

# %% [markdown]
# Then the sums of *all* convolutions, bias included, against the runtime's. The graph of the
# network says which quantizer each of them reads:


# %%
def convolutions(network):
    """(name, layer, name of its input, quantizer of its input) of each convolution."""
    for node in network.graph.nodes:
        if node.op == "call_module":
            module = network.get_submodule(node.target)
            if isinstance(getattr(module, "layer", None), torch.nn.Conv2d):
                source = node.args[0]
                reads = network.get_submodule(source.target).quantizer()
                yield node.name, module, source.name, reads


# %% [markdown]
# Each of them is computed by ONNX Runtime from the same integers:

# %% tags=["nbval-check-output"]
equal = 0
for name, module, source, reads in convolutions(simulated):
    layer = module.layer
    q_weight, scale = module.weight_quantizer.integers(layer.weight)
    unit = scale.double() * reads.scale.double()
    q_bias = torch.round(layer.bias.double() / unit).int().view(-1, 1, 1)
    geometry = layer.stride[0], layer.padding[0]
    theirs = conv_integer(steps[source], reads.zero_point, q_weight, *geometry)
    assert torch.equal(theirs + q_bias, steps[name]), name
    equal += 1
print(f"{equal} convolutions: every sum is equal")

# %% [markdown]
# Three ways to compute the quantized network, beside the original, on a thousand validation
# images:

# %%
runtime = latency.onnxruntime(path, images)
logits = {
    "float32": training.predict(model, validation.images),
    "simulated": training.predict(simulated, validation.images),
    "integers": training.predict(integer, validation.images),
    "ONNX Runtime, int8": runtime(),
}

# %% [markdown]
# How many are right, and how many are as the runtime says?

# %%
reference, right, same = logits["ONNX Runtime, int8"].argmax(1), {}, {}
for name, z in logits.items():
    right[name] = 100 * (z.argmax(1) == validation.labels).float().mean()
    same[name] = 100 * (z.argmax(1) == reference).float().mean()
    print(f"{name:20}{right[name]:6.1f} % right, {same[name]:5.1f} % as ONNX Runtime")

# %% [markdown]
# The integers and the runtime agree on every image or nearly so. (Not in every bit: the runtime
# requantizes with a float32 factor and rounds halves to even, we shift and round them up.) And eight
# bits cost no more than an image or two. What did they bring?

# %%
runs = {"float32": plain, "int8": path}
runs = {name: latency.onnxruntime(file, images[:1]) for name, file in runs.items()}
times = latency.measure(runs, rounds=60)

# %% [markdown]
# Bytes and milliseconds:

# %%
size = {"float32": plain.stat().st_size, "int8": path.stat().st_size}
for name, took in times.items():
    print(f"{name:8}{size[name]:10,} bytes  {took} ms")
ratio = times["float32"].median / times["int8"].median
smaller = size["float32"] / size["int8"]
print(f"{smaller:.2f} times smaller, {ratio:.2f} times faster on {cpu_name()}")

# %% [markdown]
# The file is nearly four times smaller: scales, biases and the graph keep it from being exactly
# four. How much faster depends on the processor and on the runtime. It needs instructions that multiply four or
# more pairs of 8-bit integers and add the products into 32 bits in one go: VNNI on Intel's and
# AMD's, `dotprod` on ARM's.
#
# ## Why it works, when it does not
#
# **An addition that is too narrow.** Older x86 processors have an instruction that multiplies
# uint8 by int8 and adds *two* products in **16** bits. $2 \cdot 255 \cdot 127 = 64{,}770$, and
# 16 bits end at 32,767: the sum is clamped there, silently. We do the same to our first layer. (It
# multiplies $q_x$ itself; $\sum q_w (q_x - \zeta) = \sum q_w q_x - \zeta \sum q_w$, and the second
# part is subtracted afterwards.)


# %%
def saturating(q_x, zero_point, q_weight, stride):
    """The sums if neighboring products were added in 16 bits."""
    x = F.pad(q_x.long(), (1, 1, 1, 1), value=int(zero_point))
    patches = x.unfold(2, 3, stride).unfold(3, 3, stride)  # (B, 1, H', W', 3, 3)
    products = patches.flatten(4).unsqueeze(1) * q_weight.flatten(2)[:, :, None, None]
    products = F.pad(products, (0, 1))  # nine are five pairs
    pairs = products.unflatten(-1, (-1, 2)).sum(-1).clamp(-32768, 32767)
    correction = int(zero_point) * q_weight.sum((1, 2, 3)).view(1, -1, 1, 1)
    return pairs.sum((2, 5)) - correction


# %% [markdown]
# The first layer's inputs and weights again, added up both ways:

# %%
q_x, (q_w, _) = (
    steps["x_quantized"],
    first.weight_quantizer.integers(first.layer.weight),
)
narrow = saturating(q_x, pixel.zero_point, q_w, stride=2)
right_sums = integer_conv(q_x, pixel.zero_point, q_w, stride=2)
wrong = 100 * (narrow != right_sums).float().mean()
print(f"{wrong:.1f} % of the first layer's sums are wrong")

# %% [markdown]
# The remedies: weights of 7 bits; other instructions, which ONNX Runtime takes if it is told
# `session.x64quantprecision` (our `latency.onnxruntime` tries one large product and does so if it comes out
# wrong: where VNNI adds four products in 32 bits, the setting changes no sum and costs half the speed). If an int8 network is worse on one machine than on another,
# look here first.
#
# **Find the bug.** Somebody quantizes by a cast, and finds chance:

# %%
cast = checkpoints.load("resnet14")
for parameter in cast.parameters():
    parameter.data = parameter.data.to(torch.int8).float()
answers = training.predict(cast, validation.images).argmax(1).unique().tolist()
print(f"{accuracy(cast):.1f} %, answers {answers}")

# %% [markdown]
# ```{dropdown} What is wrong?
# There is no scale. A cast cuts off what comes after the point, and nearly all weights lie
# between −1 and 1: they become zero, and the network gives all images the same answer, which is
# right for one class of ten. Divide by $\delta$ first, round, and multiply the sums by it in the
# end.
# ```
#
# ## What practitioners use
#
# ONNX Runtime has a quantizer of its own. It takes the float file, runs it on calibration
# images, and writes QDQ. The same network, the same images, min-max:


# %%
class Reader(industrial.CalibrationDataReader):
    """Hands out calibration images, a hundred at a time."""

    def __init__(self, images):
        self.batches = iter(data.normalize(images).split(100))

    def get_next(self):
        batch = next(self.batches, None)
        return None if batch is None else {"input": batch.numpy()}


theirs = Path(folder.name) / "theirs.onnx"
kinds = {"activation_type": industrial.QuantType.QUInt8}
kinds |= {"weight_type": industrial.QuantType.QInt8, "per_channel": True}
with export.silence():
    industrial.quantize_static(plain, theirs, Reader(calibration), **kinds)

# %% [markdown]
# Beside ours, in one table:

# %%
rival = latency.onnxruntime(theirs, images)()
files = {
    "ours": (path, logits["ONNX Runtime, int8"]),
    "ONNX Runtime's": (theirs, rival),
}
correct = {}
for name, (file, z) in files.items():
    correct[name] = 100 * float((z.argmax(1) == validation.labels).float().mean())
    print(f"{name:15}{correct[name]:6.1f} % right {file.stat().st_size:9,} bytes")
kept = 100 * float((rival.argmax(1) == reference).float().mean())
print(f"{kept:.1f} % of the answers are the same")

# %% [markdown]
# Two quantizers that share no code come to nearly the same answers. For PyTorch there is torchao,
# whose PT2E flow ("PyTorch 2 export") quantizes exported graphs, and NNCF for OpenVINO.
#
# And a network that is not ours: torchvision's ResNet-18 with random weights, on small RGB
# images of noise. The same calls, and integers against the runtime:

# %%
foreign = torchvision.models.resnet18(weights=None, num_classes=10).eval()
noise = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8)
foreign_folded = quant.fold_batch_norm(foreign, (1, 3, 64, 64))
foreign_int8 = quant.place_quantizers(
    quant.quantize(foreign_folded, scheme, noise), noise
)
x = data.normalize(noise)

# %% [markdown]
# Its integers against the runtime's:

# %%
z = quant.IntegerNetwork(foreign_int8)(x)
written = quant.to_qdq_onnx(foreign_int8, x, Path(folder.name) / "resnet18.onnx")
difference = (z - latency.onnxruntime(written, x)()).abs().max() / z.abs().max()
print(f"largest difference: {100 * difference:.2f} % of the largest logit")

# %% [markdown]
# A few roundings fell the other way, and eighteen layers of random weights have made them larger.
#
# ```{admonition} What changes at ImageNet scale
# :class: note
# With a scale for each channel, eight bits stay nearly free for most networks
# {cite:p}`krishnamoorthi2018quantizing`; networks of depthwise layers need the care of the next
# lesson {cite:p}`nagel2019datafree`.
# ```
#
# ## Paper and us
#
# | | paper reports | we measured |
# |---|---|---|
# | {cite:t}`jacob2018quantization`, ResNet-50, ImageNet | 76.4 % in floating point, 74.9 % with integers (trained with rounding, one scale a tensor) | the table above, without training, a scale a channel |
# | {cite:t}`krishnamoorthi2018quantizing`, MobileNetV1, ImageNet | with one scale a tensor, post-training 8-bit weights fall to chance; with a scale a channel they do not | [Fewer bits](post-training.ipynb) |
#
# The claims of the text:

# %% tags=["claims"]
assert all(abs(found - accuracies["float32"]) < 0.5 for found in accuracies.values())
for curve in ratios.values():
    assert abs(np.diff(curve)[3:] - 6.02).max() < 1.2, (
        "six decibels a bit from 5 bits on"
    )
    assert np.diff(curve)[1] > 6.5, "steeper below"
for w in layers.values():
    two = quant.symmetric_quantizer(w.abs().max(), 2)(w)
    assert (two == 0).float().mean() > 0.9
lift = {
    n: ratios[n, "a scale a channel"][6] - ratios[n, "one scale"][6] for n in layers
}
assert lift["depthwise"] > 6 > lift["ordinary"] > 0

# %% [markdown]
# Of ranges:

# %% tags=["claims"]
assert max(clipped[n, 8] for n in ranges) - clipped["min-max", 8] < 3
assert clipped["percentile", 8] < clipped["min-max", 8] - 5
assert (
    min(clipped[n, 4] for n in ("percentile", "MSE", "KL")) > clipped["min-max", 4] + 3
)
assert 0.8 < found["MSE", 4][1] / found["KL", 4][1] < 1.25, "nearly the same range"
assert (features == 0).float().mean() > 0.5, "more than half are zeros"

# %% [markdown]
# And those of the whole network:

# %% tags=["claims"]
assert right["float32"] - right["integers"] < 0.6 and same["integers"] > 99.5
assert abs(right["ONNX Runtime, int8"] - right["integers"]) < 0.4
assert norms == 0 and equal == 15
assert 3.5 < smaller < 4
assert wrong > 1, "the narrow sums are wrong"
assert len(answers) == 1
assert kept > 98.5 and abs(correct["ours"] - correct["ONNX Runtime's"]) < 0.8
assert difference < 0.1
folder.cleanup()

# %% [markdown]
# ## Your turn
#
# Requantize one sum, with whole numbers only: multiply, add half, shift, move by the zero
# point, clamp to 0 … 255. Replace the `...` and run the cell.


# %%
def requantize(total, multiplier, shift, zero_point):
    return ...


integer_arithmetic.requantize(requantize)

# %% [markdown]
# ## Summary
#
# A scale and a zero point map real numbers to a few integers; a bit more is worth six decibels.
# With eight bits min-max is enough and clipping can do harm, with four it pays to clip. Batch norms vanish into
# the layers before them, and what is left, convolutions, sums, ReLUs and averages, can be
# computed with integers alone: sums in 32 bits, and between layers a product and a shift. The
# sums are those of ONNX Runtime bit by bit, the file is nearly four times smaller, and the
# accuracy is where it was. How much faster it is, the processor decides.
#
# ## Check yourself
#
# ```{exercise}
# :label: ex-integers-relu
# An activation after a ReLU lies between 0 and 6. Which scale and zero point does it get with 8
# bits, and what would a symmetric quantizer waste?
# ```
#
# ```{solution} ex-integers-relu
# :class: dropdown
# $\delta = 6 / 255$ and $\zeta = 0$. A symmetric one has $\delta = 6 / 127$: half of its
# integers stand for negative numbers, which do not occur. That is one bit, six decibels.
# ```
#
# ```{exercise}
# :label: ex-integers-accumulator
# A linear layer has 25,088 inputs (VGG-16). Do its sums of uint8 × int8 fit 32 bits? And those
# of int16 × int8?
# ```
#
# ```{solution} ex-integers-accumulator
# :class: dropdown
# $25{,}088 \cdot 255 \cdot 127 \approx 8.1 \cdot 10^8$, less than $2^{31} \approx 2.1 \cdot
# 10^9$: they do. With int16 it is $25{,}088 \cdot 32{,}768 \cdot 127 \approx 10^{11}$ in the worst
# case: they do not, and 16-bit activations need a wider accumulator or fewer bits of weights.
# ```
#
# ```{exercise}
# :label: ex-integers-padding
# A runtime pads quantized activations with the integer 0, though their zero point is 73. What
# does the network see?
# ```
#
# ```{solution} ex-integers-padding
# :class: dropdown
# A frame of the real number $-73\,\delta$ around the map, instead of zeros. For our images, of which
# that is the range's lower end, it is black, while the network was trained with a frame of 0, the
# mean gray. Padding must use $\zeta$, and that is one reason why $\zeta$ must be an integer. (Deeper
# layers have $\zeta = 0$ behind a ReLU, and do not notice.)
# ```
#
# ```{exercise}
# :label: ex-integers-scale
# Weights between $-0.3$ and $0.3$ are cast to int8 directly, `weight.to(torch.int8)`. What does the network
# compute, and which accuracy do you expect with ten classes?
# ```
#
# ```{solution} ex-integers-scale
# :class: dropdown
# All weights become 0: nothing was divided by the scale, $0.3 / 127$. The answer is the same for every
# image, so it is right for one class in ten, near 10 %.
# ```
#
# ## Where next
#
# - [Assignment: quantization](../../assignments/release/quantization/quantization.ipynb): scales that are shifts, an average of integers, a network in 30 kB, and a compression that is not one.
# - [Next lesson](post-training.ipynb): fewer bits than eight, without training.
# - {cite:t}`jacob2018quantization`: integer-only arithmetic, and what phones still do.
# - {cite:t}`krishnamoorthi2018quantizing`: a whitepaper with many measurements.
