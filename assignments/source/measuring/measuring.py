# %% [markdown]
# # Assignment: measuring
#
# Whatever is made small or fast has to be measured, and a wrong measurement is worse than none.
# You count what a convolution costs, say how many test images a comparison needs, halve a file,
# choose among candidates from a table, and mend a stopwatch that shows whatever one likes.
#
# | task | what | points |
# |---|---|---|
# | 1 | the cost of a convolution, from its settings | 3 |
# | 2 | images needed to see a difference | 2 |
# | 3 | half the bytes, the same answers | 3 |
# | 4 | which network goes into the app? | 2 |
# | 5 | find the bug: twenty times as fast | 4 |
# | 6 | open question | 3 |
#
# **After it you can** predict parameters and MACs without running a network, plan a comparison,
# and time two networks on a machine that is not quiet.
#
# **You need** the lessons of chapter 1: [cost](../../../chapters/01-measuring/cost.ipynb),
# [latency](../../../chapters/01-measuring/latency.ipynb) and
# [accuracy](../../../chapters/01-measuring/accuracy.ipynb).
#
# **Effort** two hours; the notebook runs in half a minute. Write only where it says
# `your turn`. The check below a task says what is wrong; when it is graded, more cases are tried.

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
import time
from statistics import median

import torch
from safetensors.torch import save_file

from slimcnn import checkpoints
from slimcnn.checks import plain
from slimcnn.checks.assignments import measuring as checks

# %% tags=["parameters"]
KILOBYTES = 1_450  # task 3: the file may have so many kB (1 kB = 1,000 bytes)
ACCURACY = 93.8  # task 3: and must still reach so many percent on the validation images
MOST_LOST = 0.5  # task 4: the candidate may lose so many points, at the interval's end
# Task 4: name, test images that only the old network gets right, that only the new one does,
# latency in ms (lower quartile, median, upper quartile), CPU time / wall time.
CANDIDATES = [
    ["old", 0, 0, 3.90, 4.00, 4.10, 1.0],
    ["A", 60, 45, 2.30, 2.40, 2.60, 1.9],
    ["B", 240, 120, 1.10, 1.15, 1.20, 1.0],
    ["C", 70, 62, 3.20, 3.95, 4.80, 1.0],
    ["D", 95, 81, 2.70, 2.80, 2.95, 1.0],
    ["E", 40, 38, 3.40, 3.50, 3.60, 1.0],
]

# %% [markdown]
# ## 1 The cost of a convolution
#
# A convolution has $C_\text{in}$ input and $C_\text{out}$ output channels, a kernel of
# $K_h \times K_w$, and the same stride $s$, padding $p$ and dilation $d$ in both directions. With
# $g$ groups, a filter sees $C_\text{in}/g$ of the channels. Its input is $H \times W$. Then
#
# $$
# H' = \left\lfloor \frac{H + 2p - d\,(K_h - 1) - 1}{s} \right\rfloor + 1 ,
# $$
#
# and likewise for $W'$; it has $C_\text{out} \cdot (C_\text{in}/g) \cdot K_h K_w$ weights,
# perhaps $C_\text{out}$ biases, and each weight is multiplied once for each of the
# $H' \cdot W'$ output pixels. A bias costs no multiplication.
#
# Example: 32 → 64 channels, $3 \times 3$, stride 2, padding 1, on $28 \times 28$, with bias: the
# output is $14 \times 14$, there are $18{,}432 + 64 = 18{,}496$ parameters and
# $18{,}432 \cdot 196 = 3{,}612{,}672$ MACs.
#
# Write `conv_cost`. It gives the pair (parameters, MACs) as whole numbers, for one image; compute
# them by hand: the package's counters are closed here. (Lesson *cost*, "From scratch".)


# %% task="conv_cost"
def conv_cost(c_in, c_out, kernel, stride, padding, dilation, groups, bias, size):
    """(Parameters, MACs); kernel and size are pairs (height, width), bias is True or False."""
    ### BEGIN SOLUTION
    rows, columns = (
        (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1
        for n, k in zip(size, kernel, strict=True)
    )
    weights = c_out * (c_in // groups) * kernel[0] * kernel[1]
    return weights + (c_out if bias else 0), weights * rows * columns
    ### END SOLUTION


# %% test="conv_cost" points=3
checks.conv_cost(conv_cost).require()
### BEGIN HIDDEN TESTS
checks.conv_cost(conv_cost, seed=SECRET).require()
### END HIDDEN TESTS

# %% [markdown]
# ## 2 How many images?
#
# Two networks answer the same $N$ test images. On each image the difference is $+1$ (only the
# second is right), $-1$ (only the first is), or $0$. Its mean is the difference of the accuracies
# $\delta$, as a share; it is not zero on a share $d$ of the images. So its square has the mean $d$,
# its variance is $d - \delta^2$, and the 95 % interval of the mean reaches
#
# $$
# h(N) = z \sqrt{\frac{d - \delta^2}{N}}, \qquad z = 1.96
# $$
#
# to each side. The difference is seen if the interval excludes zero: $h(N) \le \delta$.
#
# Example: half a point ($\delta = 0.005$), with 6 % of the images on which exactly one is right,
# needs $1.96^2 \cdot (0.06 - 0.000025) / 0.000025 = 9{,}215.998$, so 9,216 images: nearly the whole
# test set of this book, for half a point.
#
# Write `images_needed`: the least whole $N \ge 1$ with $h(N) \le \delta$, where $\delta$ comes in
# **points** (0.5 for half a point). (Lesson *accuracy*, "Comparing two networks".)


# %% task="images_needed"
def images_needed(points, disagreement, z=1.96):
    """Least number of images with which a difference of so many points is seen."""
    ### BEGIN SOLUTION
    delta = points / 100
    exact = z**2 * (disagreement - delta**2) / delta**2
    return max(1, int(-(-exact // 1)))
    ### END SOLUTION


# %% test="images_needed" points=2
checks.images_needed(images_needed).require()
### BEGIN HIDDEN TESTS
checks.images_needed(images_needed, seed=SECRET).require()
### END HIDDEN TESTS

# %% [markdown]
# ## 3 Half the bytes
#
# A file of weights is a header and numbers. ResNet-14 has 0.70 million of them, four bytes each:

# %%
model = checkpoints.load("resnet14")
print(f"{sum(t.nbytes for t in model.state_dict().values()) / 1000:,.1f} kB of numbers")

# %% [markdown]
# Write `save_small(path)`: it saves the state of ResNet-14 as a safetensors file of at most
# `KILOBYTES` kB, under the same names and with the same shapes. The check loads the file into a
# new ResNet-14, in float32 again, and asks for `ACCURACY` percent on the validation images; when it
# is graded, half a point less on the test images. `tensor.to(dtype)` makes a copy in another type;
# `torch.finfo(dtype)` says what a type can hold. (Lesson *cost*, "Bytes on disk".)


# %% task="save_small"
def save_small(path):
    """Save the weights and buffers of ResNet-14 in fewer bytes."""
    ### BEGIN SOLUTION
    state = checkpoints.load("resnet14").state_dict()
    half = {
        name: tensor.to(torch.float16) if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }
    save_file(half, path)
    ### END SOLUTION


# %% test="save_small" points=3
print(checks.small_file(save_small, KILOBYTES, ACCURACY).require())
### BEGIN HIDDEN TESTS
checks.small_file(save_small, KILOBYTES, ACCURACY - 0.5, "test").require()
### END HIDDEN TESTS

# %% [markdown]
# ## 4 Which network goes into the app?
#
# The networks in `CANDIDATES` answered the same 10,000 test images and were timed beside the old
# one, all of them declared to use **one thread**.

# %%
print("      only old  only new   latency (ms): quartiles     CPU/wall")
for name, lost, won, low, middle, high, cpu in CANDIDATES:
    print(f"{name:5}{lost:9}{won:10}{low:11.2f}{middle:8.2f}{high:8.2f}{cpu:12.1f}")

# %% [markdown]
# The product may take a candidate if
#
# - its time is a measurement of what was declared;
# - it is faster than the old network by more than the spread: its upper quartile lies below the
#   old one's lower quartile;
# - it loses no more than `MOST_LOST` points, also at the bad end of the 95 % interval of the paired
#   difference. With $a$ images that only the old network gets right and $b$ that only the new one
#   does, the loss ends at $(a - b + 1.96 \sqrt{a + b}) / 100$ points, for 10,000 images.
#
# Of those that remain, it takes the one with the lowest median. Which?


# %% task="choice"
choice = "?"  # your turn: a name from the table
### BEGIN SOLUTION
old, *new = CANDIDATES
ends = {r[0]: (r[1] - r[2] + 1.96 * (r[1] + r[2]) ** 0.5) / 100 for r in new}
measured = [r for r in new if r[6] < 1.2 and r[5] < old[3]]
kept = [r for r in measured if ends[r[0]] <= MOST_LOST]
choice = min(kept, key=lambda r: r[4])[0]
### END SOLUTION


# %% test="choice" points=2
names, choice = [row[0] for row in CANDIDATES], plain(choice)
assert choice in names, f"choice is {choice!r}; it must be one of {names}"
### BEGIN HIDDEN TESTS
before, *others = CANDIDATES


def fits(row):
    loss = (row[1] - row[2] + 1.96 * (row[1] + row[2]) ** 0.5) / 100
    return row[6] < 1.2 and row[5] < before[3] and loss <= MOST_LOST


fastest = min(filter(fits, others), key=lambda row: row[4])
chosen = {row[0]: row for row in others}.get(choice, before)
assert fits(chosen), f"{choice} fails one of the three conditions"
assert choice == fastest[0], f"{choice} passes; another that passes is faster"
### END HIDDEN TESTS

# %% [markdown]
# ## 5 Find the bug: twenty times as fast
#
# An article announces that its small network is twenty times as fast. This is how it was timed,
# in essence:


# %%
def announced(run_old, run_new, clock=time.perf_counter):
    """How many times as fast the new network is."""
    start = clock()
    run_old()
    old = clock() - start
    start = clock()
    run_new()
    return old / (clock() - start)


# %% [markdown]
# To see what such a stopwatch shows we need to know the truth. A `Laboratory` is a machine in
# simulated time: two networks that take as long as we say, first runs that are slow, a processor
# that gets hot and slower, and other programs now and then. `clock()` gives its seconds, `run(0)`
# and `run(1)` let a network answer, and `runs` holds these two as functions without arguments. Here
# both networks take the same 2 ms, and the new one has been tried out before:

# %%
machine = checks.Laboratory((2.0, 2.0), seed=0, cold=30, drift=0.01, noise=0.1)
for _ in range(5):
    machine.run(1)
ratio = announced(*machine.runs, machine.clock)
print(f"{ratio:.1f} times as fast, announced")

# %% [markdown]
# Write `compare`, with the same arguments, so that it gives the ratio of the undisturbed times
# (old / new, a float) on every such machine. You may let each network run a few hundred times.
# (Lesson *latency*, "From scratch".)


# %% task="compare"
def compare(run_old, run_new, clock=time.perf_counter):
    """How many times as fast the new network is, on a machine that is not quiet."""
    ### BEGIN SOLUTION
    for _ in range(20):
        run_old()
        run_new()
    ratios = []
    for _ in range(200):
        times = []
        for run in (run_old, run_new):
            start = clock()
            run()
            times.append(clock() - start)
        ratios.append(times[0] / times[1])
    return median(ratios)
    ### END SOLUTION


# %% test="compare" points=4
checks.compare(compare).require()
### BEGIN HIDDEN TESTS
checks.compare(compare, seed=SECRET).require()
### END HIDDEN TESTS

# %% [markdown]
# ## 6 Open question
#
# A colleague writes: "Our pruned network has 60 % fewer MACs, so it is 2.5 times as fast. Accuracy
# went from 93.9 % to 94.1 % on our 500 test images." In at most 150 words: which of the three claims
# (MACs, speed, accuracy) do you believe, what is missing from each, and what would you measure?
#
# | points | what the answer does |
# |---|---|
# | 1 | doubts the speed or the accuracy, with a reason |
# | 2 | both: MACs are not time; 0.2 points of 500 images are one image |
# | 3 | and says how to measure each: what is interleaved, with which runtime and threads, which quartiles; how many images or which paired interval |

# %% [markdown] open="claims" points=3
# The MACs can be counted, so I believe them if the count is of the network that ships and not of
# masks in a dense one. Speed does not follow: thin layers and memory-bound ones do not get faster
# with their MACs. I would export both networks to the runtime of the product and time them in one
# process, interleaved, one thread, after a warm-up, and report medians with quartiles. Accuracy:
# 0.2 points of 500 are a single image; the interval of each number is about two points to each
# side. I would compare image by image on all the test images there are: with 3 % of the images on
# which one of the two is right, 0.2 points need almost thirty thousand. Until then I would say
# "not measurably worse", if the paired interval allows even that.
