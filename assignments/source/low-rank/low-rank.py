# %% [markdown]
# # Assignment: low-rank factorization
#
# Two thin layers for one: you choose the rank by energy and save the mean of the outputs, count
# where two layers stop being cheaper, bring ResNet-14 under a budget, choose among networks without
# looking where you should not, and repair a compression that changed nothing.
#
# | task | what | points |
# |---|---|---|
# | 1 | two factors by energy, and a bias that keeps the mean | 3 |
# | 2 | break-even in MACs, of the spatial scheme | 3 |
# | 3 | ResNet-14 under a budget | 4 |
# | 4 | which network, and which accuracy? | 2 |
# | 5 | find the bug: nothing lost at rank 4 | 4 |
# | 6 | open question | 3 |
#
# **After it you can** factorize a layer and a network by your own code, say before building it what
# it will cost, recover what it loses, and report a choice honestly.
#
# **You need** the lessons of chapter 5:
# [matrices](../../../chapters/05-low-rank/matrices.ipynb) and
# [tensors](../../../chapters/05-low-rank/tensors.ipynb).
#
# **Effort** two to three hours; the notebook runs in half a minute. Write only where it says
# `your turn`. The check below a task says what is wrong; when it is graded, more cases are tried.
# In tasks 1, 2 and 5 the package's factorizations are closed, in task 2 its counting of MACs, too;
# `torch.linalg.svd` is open.

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

import torch
from torch import nn

from slimcnn import checkpoints, data, lowrank, metrics, pruning, report, training
from slimcnn.checks import plain
from slimcnn.checks.assignments import low_rank as checks
from slimcnn.training import Recipe

_ = torch.manual_seed(0)

# %% tags=["parameters"]
KILOBYTES = 620  # task 3: the file may have so many kB (1 kB = 1,000 bytes)
MACS = 22  # task 3: the network may have so many percent of ResNet-14's MACs
ACCURACY = 91.0  # task 3: and must reach so many percent on the validation images
MOST_KILOBYTES = 1_250  # task 4: the product takes no larger file
MOST_MS = 0.42  # task 4: and no network that takes longer, in milliseconds
# Task 4: what can be had.
CANDIDATES = [
    "spatial 50",
    "spatial 35",
    "channel 50",
    "input 50",
    "Tucker-2 50",
    "CP 50",
]

# %% [markdown]
# ## 1 Two factors, and a bias that keeps the mean
#
# A linear layer $\mathbf{y} = \mathbf{W}\mathbf{x} + \mathbf{b}$ has the singular values
# $\sigma_1 \ge \sigma_2 \ge \dots$. Its **energy** is the sum of their squares. Take the smallest
# rank that keeps at least a given share $\eta$ of it, and share the singular values between both
# factors:
#
# $$
# r = \min \Bigl\{ k : \sum_{i \le k} \sigma_i^2 \ge \eta \sum_i \sigma_i^2 \Bigr\},
# \qquad
# \mathbf{L} = \mathbf{U}_r \operatorname{diag}(\sqrt{\sigma_1}, \dots, \sqrt{\sigma_r}),
# \quad
# \mathbf{R} = \operatorname{diag}(\sqrt{\sigma_1}, \dots, \sqrt{\sigma_r})\, \mathbf{V}_r^\top .
# $$
#
# What was dropped had a mean: for inputs of mean $\bar{\mathbf{x}}$, the outputs of
# $\mathbf{L}\mathbf{R}\mathbf{x} + \mathbf{b}$ have another mean than before. A new bias mends that
# for nothing:
#
# $$
# \mathbf{b}' = \mathbf{b} + (\mathbf{W} - \mathbf{L}\mathbf{R})\, \bar{\mathbf{x}} .
# $$
#
# Example: $\mathbf{W} = \operatorname{diag}(4, 2)$, $\mathbf{b} = (0, 0)$,
# $\bar{\mathbf{x}} = (1, 3)$. The energy is $16 + 4$, and rank 1 keeps 0.8 of it. For $\eta = 0.75$
# the rank is 1, $\mathbf{L} = (2, 0)^\top$, $\mathbf{R} = (2, 0)$ (or both negative), and
# $\mathbf{b}' = (0, 6)$. For $\eta = 0.85$ the rank is 2 and the bias stays.
#
# Write `thin`. The check compares the product and the sizes of the factors, so signs are yours.
# (Lesson *matrices*, "From scratch".)


# %% task="thin"
def thin(weight, bias, mean, share):
    """(m, n), (m,), (n,), eta -> left (m, r), right (r, n), bias (m,)."""
    ### BEGIN SOLUTION
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    kept = s.square().cumsum(0)
    rank = int((kept < share * kept[-1]).sum()) + 1
    root = s[:rank].sqrt()
    left, right = u[:, :rank] * root, root[:, None] * vh[:rank]
    return left, right, bias + weight @ mean - left @ (right @ mean)
    ### END SOLUTION


# %% test="thin" points=3
print(checks.thin(thin).require())
### BEGIN HIDDEN TESTS
checks.thin(thin, seed=SECRET).require()
### END HIDDEN TESTS

# %% [markdown]
# ## 2 Where two layers stop being cheaper
#
# The lesson counts weights. A battery knows MACs, and in a layer with a stride these are even at
# another rank. The spatial scheme first convolves with $k_h \times 1$, from $C_\text{in}$ to $r$
# channels, and strides and pads *downwards* only; then with $1 \times k_w$, from $r$ to
# $C_\text{out}$ channels, and strides and pads *sideways*. An input of
# $H_\text{in} \times W_\text{in}$ becomes an output of $H_\text{out} \times W_\text{out}$,
#
# $$
# H_\text{out} = \left\lfloor \frac{H_\text{in} + 2 p_h - k_h}{s} \right\rfloor + 1 ,
# \qquad
# W_\text{out} = \left\lfloor \frac{W_\text{in} + 2 p_w - k_w}{s} \right\rfloor + 1 ,
# $$
#
# and each weight of a layer is multiplied once for each position of *that layer's* output.
#
# Example: 32 → 64 channels, 3×3, stride 2, padding 1, on 14×14. The convolution has
# $18{,}432 \cdot 49 = 903{,}168$ MACs. The first of the two layers makes maps of 7×14, the second
# of 7×7: $r\,(32 \cdot 3 \cdot 98 + 64 \cdot 3 \cdot 49) = 18{,}816\, r$. At rank 48 both are
# equal, so 47 is the largest rank with fewer MACs; in weights it would be 63.
#
# Write `break_even`: the largest whole $r$ at which the two layers have **fewer** MACs than the
# one, and 0 if there is none. (Lesson *matrices*, "When do two layers cost less than one?" and the
# table of the three schemes.)


# %% task="break_even"
def break_even(c_in, c_out, kernel, stride, padding, size):
    """A whole number; kernel, padding and size are pairs (height, width)."""
    ### BEGIN SOLUTION
    h, w = (
        (n + 2 * p - k) // stride + 1
        for n, p, k in zip(size, padding, kernel, strict=True)
    )
    whole = c_in * c_out * kernel[0] * kernel[1] * h * w
    of_one_rank = c_in * kernel[0] * h * size[1] + c_out * kernel[1] * h * w
    return (whole - 1) // of_one_rank
    ### END SOLUTION


# %% test="break_even" points=3
print(checks.break_even(break_even).require())
### BEGIN HIDDEN TESTS
checks.break_even(break_even, seed=SECRET).require()
### END HIDDEN TESTS

# %% [markdown]
# ## 3 ResNet-14 under a budget
#
# This is the network, and this is what happens if its 3×3 kernels (without the stem's) keep three
# tenths of their weights and nothing else is done:

# %%
dense = checkpoints.load("resnet14")
train, judges = data.load("train").subset(6_000), data.load("validation")
crude = lowrank.factorize(
    dense,
    {
        name: lowrank.Choice("channel", lowrank.rank_at(layer, "channel", 0.3))
        for name, layer in lowrank.candidates(dense, ("channel",)).items()
        if layer.kernel_size == (3, 3) and name != "conv"
    },
)

# %% [markdown]
# What is left of it:

# %%
share = 100 * metrics.count_macs(crude) / metrics.count_macs(dense)
print(f"{training.evaluate(dense, judges):.1f} % on validation", end=" -> ")
print(f"{training.evaluate(crude, judges):.1f} % at {share:.0f} % of the MACs")

# %% [markdown]
# Write `slim(path)`: it saves a factorized ResNet-14 by `lowrank.save_factorized(network, path)`.
# The file may have `KILOBYTES` kB, the network `MACS` percent of the dense one's MACs, and it must
# reach `ACCURACY` percent on the validation images; when it is graded, one point less on the test
# images. Train, if you do, on `train`. On one core 20 seconds are enough; after 60 the task is
# stopped. (`ACCURACY` is about a point below what our own solution reaches.) Here the package is
# open.
#
# Three things decide: which scheme, at which rank in which layer; the batch norms, which were
# measured for another network; and a short training, at a small rate, since the network knows
# something already. (Lessons *matrices*, "On the network", and *tensors*, "Sixteen ranks".)


# %% task="slim"
def slim(path):
    """Save a factorized ResNet-14 that keeps the budget."""
    ### BEGIN SOLUTION
    made = {}
    for name, layer in lowrank.candidates(dense, ("spatial",)).items():
        if layer.kernel_size == (3, 3) and name != "conv":
            rank = lowrank.rank_at(layer, "spatial", MACS / 100 - 0.02)
            made[name] = lowrank.Choice("spatial", rank)
    small = pruning.recalibrate(lowrank.factorize(dense, made), train.images[:1000])
    recipe = Recipe(epochs=1, batch_size=64, lr=0.005, average=0.0, augmentation=None)
    tuned, _ = training.fit(small, train, recipe, seed=0, progress=False)
    lowrank.save_factorized(tuned, path)
    ### END SOLUTION


# %% test="slim" points=4
print(checks.slim(slim, KILOBYTES, MACS, ACCURACY).require())
### BEGIN HIDDEN TESTS
checks.saved("slim.safetensors", KILOBYTES, MACS, ACCURACY - 1, "test").require()
### END HIDDEN TESTS

# %% [markdown]
# ## 4 Which network, and which accuracy?
#
# The long runs of the lesson, six epochs of fine-tuning, seed 0. The number in a name is the
# percentage of MACs; times are medians in ONNX Runtime, one thread, all in the same rounds.

# %%
records = {
    r.settings["variant"]: r for r in report.load_records("lowrank") if r.seed == 0
}
times = {r.settings["variant"]: r for r in report.load_records("lowrank-latency")}
print(f"{'':24}{'kB':>6}{'ms':>8}  validation      test")
for name in CANDIDATES:
    r, ms = records[name], times[name].latency.median_ms
    judged = r.settings["validation_accuracy"]
    print(f"{name:24}{r.bytes / 1000:6,.0f}{ms:8.3f}{judged:10.2f} %", end="")
    print(f"{r.accuracy:8.2f} %")

# %% [markdown]
# The product takes a file of at most `MOST_KILOBYTES` kB and a network that needs at most `MOST_MS`
# milliseconds; of these it takes the one that is most accurate. Which do you choose, and which
# accuracy do you report for it, to two digits? Mind which images may choose, and which have to be new.
# (Lesson *tensors*, "Sixteen ranks".)


# %% task="choice"
choice = ("?", 0.0)  # your turn: a name, and the accuracy to report, in percent
### BEGIN SOLUTION
fitting = [
    row
    for row in CANDIDATES
    if records[row].bytes <= 1000 * MOST_KILOBYTES
    and times[row].latency.median_ms <= MOST_MS
]
best = max(fitting, key=lambda row: records[row].settings["validation_accuracy"])
choice = (best, round(records[best].accuracy, 2))
### END SOLUTION


# %% test="choice" points=2
name, accuracy = plain(choice)
assert name in CANDIDATES, f"{name!r} is not one of {CANDIDATES}"
assert type(accuracy) in (int, float), f"{accuracy!r} is not an accuracy in percent"
### BEGIN HIDDEN TESTS
from slimcnn import report

rows = {r.settings["variant"]: r for r in report.load_records("lowrank") if r.seed == 0}
timed = {r.settings["variant"]: r for r in report.load_records("lowrank-latency")}
small = [n for n in CANDIDATES if rows[n].bytes <= 1000 * MOST_KILOBYTES]
fast = [n for n in small if timed[n].latency.median_ms <= MOST_MS]
assert name in fast, f"{name} does not keep both limits"
best = max(fast, key=lambda n: rows[n].settings["validation_accuracy"])
assert name == best, f"{name} is not the one that the validation images choose"
assert abs(accuracy - rows[best].accuracy) < 0.0051, (
    f"{accuracy} is not {name}'s accuracy, to two digits, on images that chose nothing"
)
### END HIDDEN TESTS

# %% [markdown]
# ## 5 Find the bug: nothing lost at rank 4
#
# A tutorial compresses networks "to rank 4 in every layer, without any loss". Its function:


# %%
def announced(network, rank):
    """Replace each convolution by two: to `rank` channels, then 1×1."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            matrix = layer.weight.data.flatten(1)
            u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
            left, right = u[:, :rank] * s[:rank], s[:rank, None] * vh[:rank]
            first = nn.Conv2d(layer.in_channels, rank, layer.kernel_size)
            first.weight.data = right.unflatten(1, layer.weight.shape[1:])
            second = nn.Conv2d(rank, layer.out_channels, 1)
            second.weight.data = left[:, :, None, None]
            layer = nn.Sequential(first, second)
    return network


# %% [markdown]
# And what it reports:

# %%
few = judges.subset(500)
print(f"dense:   {training.evaluate(dense, few):.1f} %")
for rank in (16, 4):
    made = announced(dense, rank)
    print(f"rank {rank:2}: {training.evaluate(made, few):.1f} %")

# %% [markdown]
# Every layer at rank 4, and not one image lost: too good. Once the first bug is mended, you will
# meet more. Write `compress`, with the same arguments:
#
# - it returns a **new** network; the one that was given stays as it was;
# - each `nn.Conv2d` without groups becomes two: the layer's kernel to $r$ channels, with its
#   stride, padding and dilation; then 1×1, with its bias if it has one. With a filter in each row,
#   the kernel is approximated by the best matrix of rank $r$;
# - a layer for which the two would not have fewer weights (biases apart) stays as it is, and so
#   does a convolution with groups.
#
# The check tries small networks, some of whose layers are nested; it compares outputs and counts
# parameters and MACs. `network.named_modules()`, `network.get_submodule(name)` and
# `setattr(parent, child_name, layer)` are of use. Do not replace while you walk through the
# modules, or you will factorize your own factors. (Lesson *matrices*, "A convolution is a matrix,
# three times" and "Find the bug".)


# %% task="compress"
def compress(network, rank):
    """A new network with each convolution in two, where that saves weights."""
    ### BEGIN SOLUTION
    network = copy.deepcopy(network)
    for name, layer in list(network.named_modules()):
        if not isinstance(layer, nn.Conv2d) or layer.groups > 1:
            continue
        matrix = layer.weight.data.flatten(1)
        r = min(rank, *matrix.shape)
        if r * sum(matrix.shape) >= matrix.numel():
            continue
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        first = copy.deepcopy(layer)  # its stride, padding and dilation
        first.out_channels, first.bias = r, None
        right = s[:r, None] * vh[:r]
        first.weight = nn.Parameter(right.unflatten(1, layer.weight.shape[1:]))
        second = nn.Conv2d(r, layer.out_channels, 1, bias=False)
        second.weight, second.bias = nn.Parameter(u[:, :r, None, None]), layer.bias
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, nn.Sequential(first, second))
    return network
    ### END SOLUTION


# %% test="compress" points=4
print(checks.compress(compress).require())
### BEGIN HIDDEN TESTS
checks.compress(compress, seed=SECRET).require()
### END HIDDEN TESTS

# %% [markdown]
# ## 6 Open question
#
# A colleague wants to speed up a network of 1×1 convolutions on a phone, and writes: "I keep 95 %
# of the energy of each layer. The ranks come out at 60 to 80 % of full rank, most layers are
# square. Since little energy is lost, little accuracy will be; and two thin layers are faster than
# a thick one." In at most 200 words: what is wrong with this plan, and what would you do in its
# place?
#
# | points | what the answer does |
# |---|---|
# | 1 | names one flaw with a reason: ranks above break-even, energy is not accuracy, or MACs are not time |
# | 2 | two of them, each with what would show it (a count, a measured loss, a clock) |
# | 3 | all three, and a plan: ranks under a budget by what validation loses, fine-tuning, time in the phone's runtime, beside a control (pruned channels at the same cost) |

# %% [markdown] open="advice" points=3
# First, a square matrix saves weights only below half of its rank. At 60 to 80 % the two layers
# have 1.2 to 1.6 times the weights and MACs of the one. Counting before building shows it.
#
# Second, the energy of a kernel says little of what the network loses: in the lesson a layer that
# lost fewer squares did more harm than another. I would factorize one layer at a time at several
# ranks, measure the loss on validation images, and divide a budget of MACs so that the sum of these
# damages is smallest. Then I would measure the batch norms anew and fine-tune.
#
# Third, MACs are not time. A layer becomes two calls with a map between them, and odd ranks fill no
# register; in the lesson half of the MACs made it a fifth faster at best, and CP took longer
# than the dense network. So I would take multiples of eight, and time the dense network and the
# factorized one in the same rounds, in the phone's runtime. As a control: channels pruned to the
# same MACs, fine-tuned as long. In the lesson that was as accurate and faster.
