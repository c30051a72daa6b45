# %% [markdown]
# # Assignment: sparsity
#
# A zero is worth something only if it is stored for less than it costs, and if somebody skips it. You
# write a format with two maps, derive from which sparsity it pays, choose kernels in a pattern,
# bring ResNet-14 into a file of your format, take a speed-up apart, and count the bytes that a report forgot.
#
# | task | what | points |
# |---|---|---|
# | 1 | a bitmask of two levels, as bytes | 3 |
# | 2 | its break-even sparsity | 2 |
# | 3 | N of M kernels, in a given order of channels | 3 |
# | 4 | ResNet-14 in a file of your format | 4 |
# | 5 | how much faster, like for like? | 2 |
# | 6 | find the bug: thirteen times smaller | 3 |
# | 7 | open question | 3 |
#
# **After it you can** design a sparse format and say when it pays, build a structured mask, write a sparse network
# to a file that is smaller for real, and question a sparse speed-up.
#
# **You need** the lessons of chapter 3: [formats](../../../chapters/03-sparsity/formats.ipynb) and
# [patterns](../../../chapters/03-sparsity/patterns.ipynb).
#
# **Effort** two to three hours; the notebook runs in half a minute. Write only where it says
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
import numpy as np
import torch
from safetensors.torch import save_file

from slimcnn import checkpoints, data, pruning
from slimcnn.checks import plain
from slimcnn.checks.assignments import sparsity as checks

# %% tags=["parameters"]
BLOCK = 16  # task 4: numbers that share a bit of the first map, a multiple of 8
KILOBYTES = 500  # task 4: the file may have so many kB (1 kB = 1,000 bytes)
ACCURACY = 91.7  # task 4: and must reach so many percent on the validation images
CLAIMED = "2:4"  # task 5: the pattern that is announced
MOST_LOST = 0.5  # task 5: the product may lose so many points
# Task 5: pattern, compiled or not, points lost, milliseconds.
TIMES = [
    ["dense", "no", 0.0, 8.10],
    ["dense", "yes", 0.0, 4.30],
    ["2:4", "yes", 0.2, 3.91],
    ["1:4", "yes", 0.6, 3.35],
    ["kernels 50 %", "no", 0.4, 6.20],
    ["4×4 blocks 75 %", "yes", 0.9, 2.80],
    ["channels 50 %", "yes", 0.5, 2.45],
]

# %% [markdown]
# ## 1 A bitmask of two levels
#
# In a very sparse tensor most of a bitmask is zero, too. So we cut the numbers into blocks of $b$, a multiple of
# 8; the last block is filled up with zeros. Three parts follow each other, without gaps:
#
# 1. a **map of blocks**: one bit a block, 1 if any of its numbers is not zero;
# 2. a **map of numbers**: for each block that has a 1, in order, $b$ bits, 1 where the number is not zero;
# 3. the **values**: the non-zero numbers in order, each as four bytes (float32, the lowest byte first).
#
# Bits fill bytes from the highest to the lowest, and the first map is filled up with zero bits to a whole byte
# (`numpy.packbits` does both). A zero with a minus sign is a zero.
#
# Example: twenty numbers, $b = 8$. All are zero but number 9, a 5, number 12, a −1, and number 16, a 2 (we count
# from 0). The first block is empty, so the map of blocks is `01100000`; the maps of the second and the third block
# are `01001000` and `10000000`; twelve bytes of values follow. Fifteen bytes in all, instead of 80.
#
# Write `encode`; it gives `bytes` (of no numbers: no bytes). (Lesson *formats*, "From scratch".)


# %% task="encode"
def encode(values, block):
    """Bytes of a float32 tensor (n,), with blocks of so many numbers."""
    ### BEGIN SOLUTION
    numbers = values.numpy()
    padded = np.pad(numbers, (0, -len(numbers) % block)).reshape(-1, block)
    filled = padded[(padded != 0).any(1)]
    maps = [np.packbits((padded != 0).any(1)), np.packbits(filled != 0)]
    stored = filled[filled != 0].astype("<f4")
    return b"".join(part.tobytes() for part in (*maps, stored))
    ### END SOLUTION


# %% test="encode" points=3
checks.encode(encode).require()
### BEGIN HIDDEN TESTS
checks.encode(encode, seed=SECRET).require()
### END HIDDEN TESTS

# %% [markdown]
# ## 2 From which sparsity does it pay?
#
# Let every number be zero with probability $s$, independent of the others. A bitmask of one level has one
# bit for each number; the values take the same room in both formats. Two levels have $1/b$ bits a number in the first
# map, and in the second $b$ bits for each block that is not empty.
#
# Write `break_even`: the sparsity $s$, from 0 to 1, at which both formats need equally many bits, as a closed form of
# $b$ (which need be no multiple of 8 here). How probable is it that a block is empty?
#
# Example: for $b = 2$ it is $s = 0.7071$. (Lesson *formats*, "The idea".)


# %% task="break_even"
def break_even(block):
    """The share of zeros from which two levels are smaller than one."""
    ### BEGIN SOLUTION
    return block ** (-1 / block)
    ### END SOLUTION


# %% test="break_even" points=2
checks.break_even(break_even).require()
### BEGIN HIDDEN TESTS
checks.break_even(break_even, seed=SECRET).require()
### END HIDDEN TESTS

# %% [markdown]
# ## 3 N of M kernels
#
# Somebody builds a processor that skips whole $K_h \times K_w$ kernels, and wants a pattern: among $M$ input
# channels that follow each other, each filter keeps exactly $N$ kernels. The channels may be put into another order first, the
# same for all filters; then a group is $M$ places of that order. Of a tensor of scores
# $q_{o,c,i,j} \ge 0$ count the sums over the kernels; in each group of each filter the $N$ largest stay, of equal
# sums those that come first in the order.
#
# `order` has the channel at each place: place $p$ holds the channel `order[p]`. The mask is for the layer as it is,
# channels in their own places.
#
# Example: one filter, four channels with the sums 4, 3, 2, 1, one of two stays. In the order (0, 1, 2, 3) channels 0 and 2
# stay; in the order (0, 2, 1, 3) the groups are {0, 2} and {1, 3}, and channels 0 and 1 stay.
#
# Write `kernels_of`. The number of channels is a multiple of $M$. (Lesson *patterns*, "From scratch".)


# %% task="kernels_of"
def kernels_of(scores, n, m, order):
    """Scores (C_out, C_in, K_h, K_w) -> mask of that shape, True for kernels that stay."""
    ### BEGIN SOLUTION
    sums = scores.sum((2, 3))[:, order]
    groups = sums.unflatten(1, (-1, m))
    ranked = groups.argsort(dim=2, descending=True, stable=True)
    kept = torch.zeros_like(groups, dtype=torch.bool)
    kept = kept.scatter(2, ranked[..., :n], True).flatten(1)
    mask = torch.empty_like(kept)
    mask[:, order] = kept
    return mask[:, :, None, None].expand_as(scores)
    ### END SOLUTION


# %% test="kernels_of" points=3
checks.kernels_of(kernels_of).require()
### BEGIN HIDDEN TESTS
checks.kernels_of(kernels_of, seed=SECRET).require()
### END HIDDEN TESTS

# %% [markdown]
# ## 4 ResNet-14 in a file of your format
#
# Write `compress(path)`: it makes ResNet-14 sparse and saves it with `save_file(tensors, path)`. The file has a tensor
# for every name of the network's `state_dict()`: those of more than one dimension (the weights of convolutions and of
# the linear layer) flattened and encoded by your `encode` with `BLOCK`, as a uint8 tensor; all others as they are.
#
# The file may have `KILOBYTES` kB. The check decodes it into a new ResNet-14 and asks for `ACCURACY` percent on the validation
# images; when it is graded, half a point less on the test images. The whole package is open to you. Think about:
#
# - How many weights may stay, if each takes four bytes and a part of the maps? Which ones, over all layers together?
# - Where zeros are scattered, the second map is nearly whole. `BLOCK` is what it is.
# - The channels of a sparse network have other means and variances. `pruning.recalibrate` measures the batch norms anew; it needs
#   training images and no labels.
#
# Nothing has to be trained: the reference takes some seconds and reaches a point more than is asked.
# (Lessons *formats* and *single weights*.)


# %% task="compress"
def compress(path):
    """Save a sparse ResNet-14, its weights encoded."""
    ### BEGIN SOLUTION
    model = checkpoints.load("resnet14")
    scores = pruning.magnitude(model)
    count = sum(score.numel() for score in scores.values())
    # Without indices: what is not encoded, and the second map as if no block were empty.
    kept = (1000 * KILOBYTES - 30_000 - count / 8) / 4 / count
    masks = pruning.global_masks(scores, 1 - kept)
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)
    model = pruning.recalibrate(model, data.load("train").images[:2_000])
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tensor.ndim > 1:
            coded = bytearray(encode(tensor.flatten(), BLOCK))
            tensor = torch.frombuffer(coded, dtype=torch.uint8)
        tensors[name] = tensor
    save_file(tensors, path)
    ### END SOLUTION


# %% test="compress" points=4
print(checks.small_file(compress, BLOCK, KILOBYTES, ACCURACY).require())
### BEGIN HIDDEN TESTS
checks.measured(BLOCK, KILOBYTES, ACCURACY - 0.5, "test").require()
### END HIDDEN TESTS

# %% [markdown]
# ## 5 How much faster, like for like?
#
# A vendor announces "up to twice as fast" for the pattern `CLAIMED`. These are all its measurements, medians of interleaved
# runs, on one machine. A network that was *compiled* is one whose operations were fused beforehand, which speeds up any network:

# %%
print("pattern           compiled  points lost      ms")
for name, compiled, lost, ms in TIMES:
    print(f"{name:18}{compiled:>8}{lost:13.1f}{ms:8.2f}")

# %% [markdown]
# Fill in the dictionary `findings`:
#
# - `"speedup"`: how many times as fast `CLAIMED` is as the dense network, compared like for like, to two decimals;
# - `"ship"`: the pattern with the largest speed-up, like for like, among those that lose at most `MOST_LOST` points.
#
# (Lesson *patterns*, "What practitioners use".)


# %% task="findings"
findings = {"speedup": 0.0, "ship": "?"}  # your turn
### BEGIN SOLUTION
dense = {compiled: ms for name, compiled, _, ms in TIMES if name == "dense"}
sparse = [row for row in TIMES if row[0] != "dense"]
ratios = {name: dense[compiled] / ms for name, compiled, _, ms in sparse}
allowed = [name for name, _, lost, _ in sparse if lost <= MOST_LOST]
findings = {
    "speedup": round(ratios[CLAIMED], 2),
    "ship": max(allowed, key=ratios.get),
}
### END SOLUTION


# %% test="findings" points=2
findings = plain(findings)
assert set(findings) == {"speedup", "ship"}, "two keys, as above"
assert isinstance(findings["speedup"], (int, float)), "speedup is a number"
names = sorted({row[0] for row in TIMES} - {"dense"})
assert findings["ship"] in names, f"ship is one of {names}"
### BEGIN HIDDEN TESTS
base = {row[1]: row[3] for row in TIMES if row[0] == "dense"}
faster = {row[0]: base[row[1]] / row[3] for row in TIMES if row[0] != "dense"}
right = faster[CLAIMED]
assert abs(findings["speedup"] - right) < 0.0101, (
    "speedup: which dense network is alike?"
)
fits = [row[0] for row in TIMES if row[0] != "dense" and row[2] <= MOST_LOST]
assert findings["ship"] == max(fits, key=faster.get), (
    "ship: like for like, and the points"
)
### END HIDDEN TESTS

# %% [markdown]
# ## 6 Find the bug: thirteen times smaller
#
# A post announces a network thirteen times smaller. Its code:


# %%
def announced(state, masks, value_bytes):
    """How many times smaller the sparse file is."""
    before = sum(4 * tensor.numel() for tensor in state.values())
    after = sum(value_bytes * int(mask.sum()) for mask in masks.values())
    return before / after


# %%
model = checkpoints.load("resnet14")
masks = pruning.global_masks(pruning.magnitude(model), 0.85)
state = {name: p.detach() for name, p in model.named_parameters()}
print(f"{announced(state, masks, 2):.1f} times smaller")

# %% [markdown]
# It has counted less than a file holds, and compared unlike things. Write `times_smaller`, with the same arguments:
# bytes of the dense network over bytes of the sparse one, both with `value_bytes` bytes for each number that is stored, and
#
# - tensors that have no mask are whole in both files;
# - a masked tensor holds its non-zero numbers where the mask is True (a number may be zero by itself), and a bitmask, one bit for each number of
#   the tensor, filled up to a whole byte;
# - a masked tensor that would be smaller dense than with its bitmask is stored dense.
#
# (Lesson *formats*, "On the network".)


# %% task="times_smaller"
def times_smaller(state, masks, value_bytes):
    """Bytes before over bytes after; state and masks are dictionaries of tensors."""
    ### BEGIN SOLUTION
    before = after = 0
    for name, tensor in state.items():
        dense = value_bytes * tensor.numel()
        before += dense
        if name in masks:
            stored = int(((tensor != 0) & masks[name]).sum())
            dense = min(dense, value_bytes * stored + -(-tensor.numel() // 8))
        after += dense
    return before / after
    ### END SOLUTION


# %% test="times_smaller" points=3
checks.times_smaller(times_smaller).require()
print(f"{times_smaller(state, masks, 2):.1f} times smaller, all counted")
### BEGIN HIDDEN TESTS
checks.times_smaller(times_smaller, seed=SECRET).require()
### END HIDDEN TESTS

# %% [markdown]
# ## 7 Open question
#
# A start-up sells a runtime for 4×4 blocks: "At 75 % zeros your network is four times smaller and three times as fast, with
# the accuracy of any other sparse network." Your network runs on a phone's CPU. In at most 150 words: which of the three
# claims can be true, what limits each, and what would you measure before you buy?
#
# | points | what the answer does |
# |---|---|
# | 1 | questions one claim with a reason: blocks cost more accuracy than single weights; indices, norms and biases take bytes; a kernel must use the blocks |
# | 2 | two of them, each with the size or the direction of the effect |
# | 3 | all three, and a fair comparison: same layers, compiled alike, one thread, interleaved; single weights and fewer channels at the same bytes or time as controls, over seeds |

# %% [markdown] open="blocks" points=3
# Size: nearly. Three quarters of the weights go, and an index for each block of sixteen is cheap; batch norms, biases and
# the header stay, so a little less than four times. Speed: possible only in layers whose kernels skip blocks and that wait
# for arithmetic; maps, pooling and layers bound by memory stay, and four times fewer products is the most. I would time the
# dense network and theirs in the same runtime, compiled alike, one thread, interleaved, on my phone, and also a network with half of
# the channels, which any runtime runs fast. Accuracy: blocks choose less freely. In the lesson, after the same training, blocks kept less than
# single weights at the same share of zeros. I would compare both after equal fine-tuning, three seeds, image by image. If pruned
# channels are as accurate in the same time, I need no new runtime.
