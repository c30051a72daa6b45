# %% [markdown]
# # Patterns of zeros
#
# Zeros that a processor can use must not lie just anywhere. How much accuracy does each
# restriction cost, and what does it buy in bytes and in time? This lesson fills one table,
# pattern by pattern.
#
# **You will**
#
# - build masks of vectors, blocks, kernels, and N:M groups, and prove that the
#   N:M mask is the best of its kind;
# - permute the channels of a network so that a pattern hurts less, without changing what
#   the network computes;
# - measure the zeros that ReLU makes by itself;
# - train a network that is sparse from its first step, with connections that move;
# - compare all patterns by accuracy kept, size and run time.
#
# **You need** [What zeros are worth](formats.ipynb),
# [Pruning single weights](../02-pruning/magnitude.ipynb) and
# [Pruning channels](../02-pruning/structured.ipynb). Symbols are on the
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
    package = f"slimcnn[lessons] @ git+{REPOSITORY}@v0.1.0"
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.check_call([*pip, *kept, package])

# %% tags=["imports"]
from itertools import combinations, pairwise

import matplotlib.pyplot as plt
import torch
import torchvision
from torch import nn

from slimcnn import (
    checkpoints,
    data,
    latency,
    masking,
    metrics,
    models,
    plotting,
    pruning,
    report,
    sparsity,
    training,
)
from slimcnn.checks import sparse_patterns
from slimcnn.sparsity.kernels import matmul_kernels

plotting.use_style()
_ = torch.manual_seed(0)

# %% [markdown]
# ## Measure first
#
# ResNet-14 and what it does on 500 validation images, before and after three quarters of
# its weights are set to zero one by one, wherever the small ones happen to be. Nothing is
# fine-tuned yet, but the batch norms are measured anew.

# %%
dense = checkpoints.load("resnet14")
validation, train = data.load("validation").subset(500), data.load("train")
scores = {n: s for n, s in pruning.magnitude(dense).items() if s.shape[1] > 1}


def accuracy(masks, model=dense):
    """Percent on validation under these masks, batch norms measured anew."""
    masked = masking.finalize(masking.apply_masks(model, masks))
    return training.evaluate(
        pruning.recalibrate(masked, train.images[:1000]), validation
    )


print(f"dense {training.evaluate(dense, validation):.1f} %")
print(f"75 % zeros anywhere {accuracy(pruning.layerwise_masks(scores, 0.75)):.1f} %")

# %% [markdown]
# The stem is left out, since its filters have a single input channel and nothing to choose
# from.
#
# ## The idea
#
# A mask is a choice. "The 25 largest of 100 numbers" can fall in
# $\binom{100}{25} \approx 2.4 \cdot 10^{23}$ ways; "one of every four" in
# $4^{25} \approx 1.1 \cdot 10^{15}$; "25 numbers in a row, starting at a multiple of 25" in
# four. Fewer choices keep less of what matters, and need fewer bits to write down and
# fewer decisions to execute. Ordered from freedom to regularity:
#
# | pattern | what stays or goes as one | what can use it |
# |---|---|---|
# | element | one weight | formats with an index for each number |
# | N:M | N of M neighbors stay | sparse tensor cores (2:4) {cite:p}`mishra2021accelerating` |
# | vector | $v$ neighbors in a filter | vector registers |
# | block | a $b \times b$ tile of the matrix | BSR kernels |
# | kernel | the $k \times k$ numbers of a channel pair | convolution by channel pairs |
# | filter | all that makes a channel | any dense kernel: chapter 2 |
#
# With masks $\mathbf{M}$ of the allowed set $\mathcal{P}$ and scores $\mathbf{q}$ we want
#
# $$
# \max_{\mathbf{M} \in \mathcal{P}} \; \sum_i M_i\, q_i .
# $$ (eq-pattern)
#
# In every pattern above the choices are made in units that share no weight, so no search is
# needed. Blocks, kernels and filters: rank the units by their sums, and keep as many as are wanted.
# (Units at an edge may be smaller. By sums they would go first, whatever is in them, so there we
# rank by means, and depart from {eq}`eq-pattern`.) N:M: keep the N largest of each group. Why is that best? Take any other mask. In some
# group it keeps a weight and drops a larger one; exchanging the two keeps more and breaks no
# rule; and when no exchange is left, it is this mask.
#
# ## By hand
#
# Eight weights of a filter. Keep half, as single elements, as 2:4, as vectors of two.

# %% tags=["nbval-check-output"]
weight = torch.tensor([[7.0, 6.0, 5.0, 1.0, 2.0, 1.0, 4.0, 0.0]])
for name, mask in (
    ("element", pruning.mask_of(weight, 0.5)),
    ("2:4", sparsity.nm_mask(weight, 2, 4)),
    ("vector of 2", sparsity.block_mask(weight, (1, 2), 0.5)),
):
    print(f"{name:12}{mask.int().tolist()[0]}  keeps {(weight * mask).sum():.0f} of 26")

# %% [markdown]
# The free choice keeps 22 of 26. 2:4 must drop the 5, third in its group, and keeps the 2
# from the weaker group instead: 19. The vectors keep 7 + 6 and 5 + 1: 19, too.
#
# ## From scratch
#
# An N:M mask is a reshape and a sort.


# %%
def nm_mask(scores, n, m):
    """Keep the n largest of every m neighbors along the last dimension."""
    groups = scores.unflatten(-1, (-1, m))
    best = groups.topk(n, dim=-1).indices
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, best, True)
    return mask.flatten(-2)


# %% [markdown]
# For one group we can also try all $\binom{M}{N}$ masks. And the equality cell: the package
# groups *input channels*, dimension 1 of a convolution's weight, since sparse kernels store
# weights with the channels last. (In vectors and blocks, "neighbors" are columns of the matrix
# that the format stores: positions of the kernel.)

# %%
for n, m in ((2, 4), (1, 4), (3, 8)):
    group = torch.rand(m)
    best = max(group[list(chosen)].sum() for chosen in combinations(range(m), n))
    assert torch.isclose((group * nm_mask(group, n, m)).sum(), best)
layer = scores["stage2.1.conv1.weight"]  # (64, 64, 3, 3)
mine = nm_mask(layer.movedim(1, -1), 2, 4).movedim(-1, 1)
torch.testing.assert_close(mine, sparsity.nm_mask(layer, 2, 4))

# %% [markdown]
# ## On the network
#
# Every pattern at 75 % zeros in every layer (filters are chapter 2's business; 2:4, with its
# 50 %, comes below). First the raw damage, before any fine-tuning:

# %%
patterns = {
    "element": lambda s: pruning.mask_of(s, 0.75),
    "1:4": lambda s: sparsity.nm_mask(s, 1, 4),
    "vector 1x4": lambda s: sparsity.block_mask(s, (1, 4), 0.75),
    "block 4x4": lambda s: sparsity.block_mask(s, (4, 4), 0.75),
    "kernel": lambda s: sparsity.kernel_mask(s, 0.75),
}
masks = {p: {n: make(s) for n, s in scores.items()} for p, make in patterns.items()}

# %% [markdown]
# Beside the accuracy: how much of the sum of magnitudes stays.

# %%
total = sum(s.sum() for s in scores.values())
raw = {}
for name, found in masks.items():
    kept = sum((scores[n] * mask).sum() for n, mask in found.items()) / total
    raw[name] = accuracy(found), 100 * kept.item()
    print(
        f"{name:12} keeps {raw[name][1]:.1f} % of the magnitude: {raw[name][0]:.1f} %"
    )

# %% [markdown]
# The larger the units, the less magnitude is kept, and the accuracy follows.
# 1:4 keeps clearly less magnitude than the free choice, and loses hardly more accuracy: a group of
# four neighbors mostly contains one of the larger weights. A 4×4 block rarely contains *only* large ones.
# Most of this damage can be mended, as the next but one section shows.
#
# ### Permuting channels
#
# N:M has a flaw that can be mended for free. It matters who the neighbors are: four
# important channels side by side lose two of them, though other groups would have had
# room. But the order of channels is arbitrary! Permute the outputs of one layer and the
# inputs of the next in the same way, and the network computes the same
# {cite:p}`pool2021channel`. Dependency groups of chapter 2 say which tensors have to be
# permuted together.

# %%
groups = pruning.find_groups(dense, (1, 1, 28, 28))
orders = {}
for group in groups:
    readers = [
        scores[m.tensor] for m in group.of_role("consumer") if m.tensor in scores
    ]
    rows = torch.cat(
        [r.movedim(1, 0).flatten(1) for r in readers], 1
    )  # (channels, rest)
    orders[group.name] = sparsity.channel_permutation(rows.T, 2, 4, sweeps=1)
permuted = pruning.permute_channels(dense, groups, orders)

# %% [markdown]
# Same function, better neighbors:

# %%
images = data.normalize(validation.images[:100])
with torch.no_grad():
    torch.testing.assert_close(
        permuted.eval()(images), dense(images), atol=1e-3, rtol=1e-3
    )
kept = {}
for name, model in (("given order", dense), ("permuted", permuted)):
    found = {n: s for n, s in pruning.magnitude(model).items() if s.shape[1] > 1}
    two_four = {n: sparsity.nm_mask(s, 2, 4) for n, s in found.items()}
    kept[name] = 100 * sum((s * two_four[n]).sum() for n, s in found.items()) / total
    print(f"2:4, {name:12} keeps {kept[name]:.2f} %: {accuracy(two_four, model):.1f} %")

# %% [markdown]
# The search exchanges pairs of channels as long as that keeps more (`sweeps=1`: at most as many
# exchanges as there are channels). On ResNet-14 there is little to win: one order has to serve all filters and all
# kernel positions of a reader, and their wishes differ.
#
# ### Fine-tuned
#
# The records: each pattern fine-tuned for six epochs from the baseline, as in chapter 2,
# measured on the test set. Bytes are those of the encoded file, block patterns in BSR.

# %%
records = [
    r for r in report.load_records("sparsity") if r.technique == "sparsity pattern"
]
control = [
    r
    for r in report.load_records("pruning")
    if r.settings["variant"] == "dense control"
]
by = ("model", "technique", "settings.variant")
columns = ["settings.variant", "accuracy", "nonzeros", "bytes"]
report.table(report.summarize([*control, *records], by=by), columns=columns)

# %% [markdown]
# 2:4 has three seeds, so we can say what it costs against the dense control, image by image:

# %%
labels = data.load("test").labels
dense_right = report.load_predictions("pruning", "dense control") == labels
two_four_right = report.load_predictions("sparsity", "2:4") == labels
cost_of_24 = metrics.paired_bootstrap(dense_right, two_four_right)
print(f"2:4 - dense control: {cost_of_24}")

# %% [markdown]
# And the run time? We take one layer of stage 2 as a matrix product, with the masks of
# each pattern, and time the kernels of the last lesson, those for blocks with blocks of the
# pattern's shape. For each pattern, the best sparse kernel against the dense one:

# %%
layer, patches = "stage2.1.conv1.weight", torch.randn(576, 49)
blocks = {"vector 1x4": (1, 4), "kernel": (1, 9)}
for name, found in masks.items():
    weight = (dense.get_parameter(layer).detach() * found[layer]).flatten(1)
    with latency.thread_limit(1):  # for the conversion; `measure` sets its own
        kernels = matmul_kernels(weight, patches, blocks.get(name, (4, 4)))
    times = {k: t.median for k, t in latency.measure(kernels, rounds=30).items()}
    best = min((t, k) for k, t in times.items() if k != "dense")
    print(f"{name:12}{times['dense'] / best[0]:.2f} times as fast ({best[1]})")

# %% [markdown]
# The same for the whole network: `scripts/measure_patterns.py` ran all convolutions as matrix
# products, each with the fastest of its kernels, dense among them where it wins. Accuracy on
# the test set (fine-tuned; the dense row is the baseline), size and time side by side:

# %%
side_by_side = report.load_records("patterns-latency")
report.table(side_by_side, columns=[*columns, "latency"])

# %% [markdown]
# All rows take the same time, because in every layer and for every pattern the dense kernel
# won: at 75 % zeros, in products of this size, no sparse kernel of this CPU pays. In *bytes*
# all patterns save three quarters or, with 2:4, a half, and nearly the same at the same number
# of zeros. So what
# decides here is the accuracy, and there the free choices lead: single elements, 1:4 and 2:4
# stay within a quarter of a point of the dense control; vectors, kernels and blocks lose half
# a point to one.
# Coarser patterns are bought for kernels that can use them. Before you pay with accuracy, time
# the kernel that you have.
#
# ### Zeros that nobody made
#
# ReLU sets every negative activation to zero. How many are there?

# %%
zeros = sparsity.activation_sparsity(dense, validation.images)
fig, ax = plt.subplots(figsize=(6.4, 3))
ax.barh(list(zeros), [100 * share for share in zeros.values()])
ax.invert_yaxis()
_ = ax.set(xlabel="zeros after ReLU (%)")

# %% [markdown]
# About half of all activations, up to three quarters in some layers, without any pruning. They change with each image, so no
# format can be prepared in advance; hardware that skips zero operands can use them
# {cite:p}`han2016eie`, a CPU's dense kernel cannot.
#
# ## Why it works, when it does not
#
# **Sparse from the start.** If a sparse network is what we want, why train a dense one
# first? A random mask that never moves is only as good as the draw. RigL lets the mask move {cite:p}`evci2020rigging`: every hundred steps it drops
# the smallest weights and grows as many where the *gradient* is largest in size, though the
# weight is zero. One such step by hand:

# %% tags=["nbval-check-output"]
mask = torch.tensor([True, True, True, False, False])
weight = torch.tensor([0.5, -0.1, 0.9, 0.0, 0.0])
gradient = torch.tensor([0.0, 0.1, 0.0, 0.2, -0.8])
print(sparsity.drop_and_grow(mask, weight, gradient, share=1 / 3).tolist())

# %% [markdown]
# The weight −0.1 went, and the last one came, whose gradient is largest. How many zeros should
# each layer have? Small layers keep a larger share of their weights, by the **ERK** rule
# (Erdős–Rényi kernel, {cite:t}`evci2020rigging`): density proportional to
# $(C_\text{in} + C_\text{out} + k_h + k_w) / (C_\text{in}\, C_\text{out}\, k_h k_w)$, without the
# kernel's sides in a linear layer. A layer that would get more than it has stays dense, and the
# others share what it could not use.

# %% tags=["nbval-check-output"]
shapes = {name: tuple(score.shape) for name, score in scores.items()}
erk = sparsity.erk_sparsities(shapes, 0.9)
for name in ("stage1.0.conv1.weight", "stage3.1.conv2.weight", "fc.weight"):
    print(f"{name:24}{100 * erk[name]:5.1f} % zeros")

# %% [markdown]
# In training it is a function that `fit` calls before each step, as gradual pruning was. One short epoch from random masks: the zeros
# stay as many, and some of them have moved.

# %%
with training.seeded(0):
    network = models.build("resnet14")
random_scores = pruning.random(network, None, torch.Generator().manual_seed(0))
shapes = {name: tuple(score.shape) for name, score in random_scores.items()}
first_masks = pruning.layerwise_masks(
    random_scores, sparsity.erk_sparsities(shapes, 0.9)
)
moving = sparsity.DropAndGrow(every=10, until=30)
recipe = training.Recipe(epochs=1, lr=0.05, average=0.0)
trained, _ = training.fit(
    masking.apply_masks(network, first_masks),
    train.subset(8_000),
    recipe,
    seed=0,
    before_step=moving,
    progress=False,
)
last_masks = masking.masks_of(trained)
moved = sum(int((first_masks[n] & ~m).sum()) for n, m in last_masks.items())
print(f"zeros {pruning.sparsity_of(first_masks):.4f}", end=" -> ")
print(f"{pruning.sparsity_of(last_masks):.4f}; {moved:,} connections have moved")

# %% [markdown]
# The long runs, ten epochs each and one seed, at 90 % zeros, beside a dense network:

# %%
ten = {r.settings["variant"]: r.accuracy for r in report.load_records("sparsity")}
for name in ("dense", "RigL", "fixed mask"):
    print(f"{name:12}{ten[f'{name}, ten epochs']:.2f} %")

# %% [markdown]
# Both sparse networks end a point below the dense one, and RigL no better than the mask that
# never moved: one seed and ten epochs decide nothing by a tenth of a point, and RigL was made
# for long trainings.
#
# ### Find the bug
#
# This happened to us. Blocks of 4×4 were ranked by the *sum* of their magnitudes, and the
# network, fine-tuned like all others, ended far behind single kernels. The record is still
# there. How often does that network name each class of the 10,000 test images, of which every
# class has 1,000?

# %% tags=["nbval-check-output"]
named = report.load_predictions("sparsity", "block 4x4 by sums 75")[0]
counts = torch.bincount(named, minlength=10).tolist()
for name, count in zip(data.CLASSES, counts, strict=True):
    print(f"{name:12}{count:6}")

# %% [markdown]
# Where would you look? The classifier is a matrix of 10 × 128, and ten is no multiple of four:

# %% tags=["nbval-check-output"]
classifier = scores["fc.weight"]
padded = nn.functional.pad(classifier, (0, 0, 0, 2))
sums = padded.unflatten(0, (3, 4)).unflatten(2, (32, 4)).sum((1, 3))
left = pruning.mask_of(sums, 0.75).sum(1).tolist()
print("blocks left in rows 0-3, 4-7, 8-9, by sums: ", left)
means = sparsity.block_mask(classifier, (4, 4), 0.75)
print("blocks left in rows 0-3, 4-7, 8-9, by means:", means[::4, ::4].sum(1).tolist())

# %% [markdown]
# The last two classes share blocks of two rows, whose sums are half as large for being half as
# tall. All of them went, and with them every weight of *Bag* and *Ankle boot*. What is left
# of these two are biases, and the larger one takes all images that fit nowhere else. Nothing
# crashed, and the accuracy looked like an honest "blocks are too coarse". What gave it away was
# the row beside it.
#
# ## What practitioners use
#
# `torch.ao.pruning` has a sparsifier for 2:4 that scores by the norm of blocks. On a
# linear layer it must find our mask:

# %%
linear = nn.Sequential(nn.Linear(64, 32))
sparsifier = torch.ao.pruning.WeightNormSparsifier(
    sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2
)
sparsifier.prepare(linear, [{"tensor_fqn": "0.weight"}])
sparsifier.step()
theirs = linear[0].parametrizations.weight[0].mask.bool()
original = linear[0].parametrizations.weight.original.detach()
same = torch.equal(theirs, sparsity.nm_mask(original.abs(), 2, 4))
print(f"the same mask: {same}")

# %% [markdown]
# PyTorch can *run* 2:4 on NVIDIA GPUs with sparse tensor cores only. Where you read "up to
# 2×", look whether both networks were compiled: compare like with like.
#
# A network that is not ours, torchvision's ResNet-18: how much of its magnitude does each
# N:M pattern keep? (Random weights, as at the start of a training.)

# %% tags=["nbval-check-output"]
foreign = pruning.magnitude(torchvision.models.resnet18(weights=None))
whole = sum(s.sum() for s in foreign.values())
for n, m in ((1, 2), (2, 4), (4, 8), (8, 16)):
    kept_there = sum((s * sparsity.nm_mask(s, n, m)).sum() for s in foreign.values())
    print(f"{n}:{m:<3} keeps {100 * kept_there / whole:.0f} %")

# %% [markdown]
# The larger M at the same N/M, the more freedom, the more is kept, and the more hardware
# it takes to find the N in the M.
#
# ```{admonition} What changes at ImageNet scale
# :class: note
# {cite:t}`mishra2021accelerating` report 2:4 without loss of accuracy for a wide range of
# networks, after retraining as long as the first training. Permutations matter most for small,
# parameter-efficient networks {cite:p}`pool2021channel`.
# ```
#
# ## Paper and us
#
# | | reports | we measured |
# |---|---|---|
# | {cite:t}`mishra2021accelerating`, 2:4 | accuracy of the dense network | the rows 2:4 of the table |
# | {cite:t}`evci2020rigging`, RigL | better than the fixed masks it was compared with | no difference after ten epochs, one seed |
#
# The claims of the text:

# %% tags=["claims"]
order = ("element", "1:4", "vector 1x4", "kernel", "block 4x4")
for more, less in pairwise(order):
    assert raw[more][1] > raw[less][1], "larger units keep less magnitude"
    assert raw[more][0] > raw[less][0], "and less accuracy"
assert raw["element"][0] - raw["1:4"][0] < 5, "1:4 is nearest to the free choice"
assert abs(cost_of_24.difference) <= 0.2, "2:4 costs at most 0.2 points"
assert moved > 0 and abs(pruning.sparsity_of(last_masks) - 0.9) < 1e-3
assert kept["permuted"] >= kept["given order"], "permuting never keeps less"
assert min(zeros.values()) > 0.4, "ReLU makes many zeros"
assert erk["fc.weight"] < erk["stage3.1.conv2.weight"], "small layers stay denser"
assert same
assert left[2] == 0 and counts[8] == 0, "by sums, two classes lose all weights"
assert abs(ten["RigL, ten epochs"] - ten["fixed mask, ten epochs"]) < 0.3
assert ten["RigL, ten epochs"] < ten["dense, ten epochs"] - 0.7
(faulty,) = [
    r for r in report.load_records("sparsity") if r.technique == "planted fault"
]
fine_tuned = {r.settings["variant"]: r.accuracy for r in records if r.seed == 0}
assert fine_tuned["kernel 75"] - faulty.accuracy > 9, "far behind"
order = ("vector 1x4 75", "kernel 75", "block 4x4 75")
whole_control = sum(r.accuracy for r in control) / len(control)
free = min(fine_tuned[name] for name in ("element 75", "1:4", "2:4"))
for more, less in pairwise(order):
    assert free > fine_tuned[more] > fine_tuned[less]
assert whole_control - free < 0.25
assert 0.5 < whole_control - fine_tuned["vector 1x4 75"]
assert whole_control - fine_tuned["block 4x4 75"] < 1.0
assert {r.settings["kernels"] for r in side_by_side} == {"dense"}, "dense kernels win"

# %% [markdown]
# ## Your turn
#
# A mask of whole kernels: of a convolution's scores (O, I, kh, kw) keep the kernels with
# the largest sums, `round(sparsity * O * I)` of them go. Replace the `...` and run the
# cell.


# %%
def kernel_mask(scores, sparsity):
    return ...


sparse_patterns.kernel_mask(kernel_mask)

# %% [markdown]
# ## Summary
#
# A pattern trades choices for regularity. Its best mask is found by sorting, since its
# units share no weights. 2:4 and 1:4 are nearly free in accuracy after fine-tuning; vectors,
# kernels and blocks cost more, and buy time only where a kernel uses them, which none did here.
# ReLU adds zeros of its own that only special hardware uses. Sparse training moves its
# connections by gradients and needs no dense network first.
#
# ## Check yourself
#
# ```{exercise}
# :label: ex-patterns-count
# How many bits does it take, at least, to say which two of four numbers stay? What does
# 2:4 hardware store?
# ```
#
# ```{solution} ex-patterns-count
# :class: dropdown
# There are $\binom{4}{2} = 6$ choices, $\log_2 6 \approx 2.6$ bits. Hardware stores a 2-bit
# position for each of the two: 4 bits for four numbers, one bit each, as a bitmask does.
# ```
#
# ```{exercise}
# :label: ex-patterns-48
# Can a 2:4 mask always be read as a 4:8 mask? And the reverse?
# ```
#
# ```{solution} ex-patterns-48
# :class: dropdown
# Yes: two groups of four with two each make eight with four. Not the reverse: all four may
# lie in one half.
# ```
#
# ```{exercise}
# :label: ex-patterns-residual
# Why can the channels of the sums of a residual stage not be permuted separately for each
# block?
# ```
#
# ```{solution} ex-patterns-residual
# :class: dropdown
# They are added to each other: channel 5 of one must meet channel 5 of the other. All
# blocks of the stage share one order, so the search has one choice for all readers.
# ```
#
# ```{exercise}
# :label: ex-patterns-speed
# A kernel for 2:4 is reported as 1.8 times as fast. The sparse model was compiled, the dense one was not.
# What do you ask for, and what is the most that 2:4 can give?
# ```
#
# ```{solution} ex-patterns-speed
# :class: dropdown
# The dense model, compiled the same way, on the same inputs, interleaved. Half of the multiplications
# are left, so two times is the most, for layers that are bound by arithmetic and not by memory.
# ```
#
# ## Where next
#
# - [Assignment: sparsity](../../assignments/release/sparsity/sparsity.ipynb): a format, a pattern, and the bytes that were forgotten.
# - Chapter 4 teaches a small network with a large one, and comes back to sparse students.
# - {cite:t}`mishra2021accelerating` describe the hardware of 2:4 and the retraining.
# - {cite:t}`evci2020rigging` for sparse training and its cost in FLOPs.
