# %% [markdown]
# # Pruning channels
#
# Half of the arithmetic of ResNet-14, or three quarters: can it go so that an ordinary
# runtime is really faster? This lesson changes parameters, MACs, bytes *and* latency, by removing
# whole filters and building the smaller network for real.
#
# **You will**
#
# - rank filters by norm, gradient, batch-norm scale, and distance to the other filters;
# - derive by hand which tensors must lose a channel together in a residual network, and
#   let a program find it for any network;
# - cut the tensors, and show that the smaller network computes what the masked one did;
# - divide a budget of MACs among the layers by their sensitivity, in multiples of 8 that
#   a runtime likes;
# - judge the result against the two controls: a network trained longer, and a small
#   network trained from scratch.
#
# **You need** [Pruning single weights](magnitude.ipynb) and
# [Latency](../01-measuring/latency.ipynb). Symbols are on the
# [notation page](../../book/notation.md).
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
import copy
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torchvision
from torch import nn

from slimcnn import (
    checkpoints,
    data,
    latency,
    metrics,
    plotting,
    pruning,
    report,
    training,
)
from slimcnn.checks import pruning_channels
from slimcnn.models import ResNet14
from slimcnn.training import Recipe

plotting.use_style()
_ = torch.manual_seed(0)

# %% [markdown]
# ## Measure first
#
# The trained ResNet-14, what it costs, and how fast ONNX Runtime runs it on one thread:

# %%
dense = checkpoints.load("resnet14")
image = torch.zeros(1, 1, 28, 28)
validation = data.load("validation").subset(500)


def accuracy(model):
    return training.evaluate(model, validation)


print(f"{metrics.count_parameters(dense):,} parameters", end=", ")
print(f"{metrics.count_macs(dense):,} MACs, {accuracy(dense):.1f} % on 500 images")

# %% [markdown]
# ## The idea
#
# Scattered zeros need special formats and kernels. A whole **filter** does not: without it
# the layer's weight is a smaller dense tensor, and so is the next layer's, which has one input
# channel less. Dense kernels run both, only with less to do. A layer that keeps the
# shares $a$ of its inputs and $b$ of its outputs keeps
#
# $$
# M' = a\,b\,M ,
# \qquad
# P' = a\,b\,P
# $$ (eq-channel-macs)
#
# of its MACs and weights: with three quarters of all channels left, $9/16$ of the
# arithmetic. (That is for a convolution whose filters read all input channels. In a depthwise
# one $a = b$, and it keeps the share $a$.)
#
# Two questions follow. *Which* filters? And *what else* has to go with them?
#
# ### Which filters
#
# The scores of the last lesson have relatives that give one number to a filter:
#
# - **L1** or **L2 norm** of the filter {cite:p}`li2017pruning`;
# - the **batch-norm scale** $|\gamma|$ of its channel. Network slimming adds
#   $\lambda \sum |\gamma|$ to the loss first, so that scales of useless channels shrink
#   {cite:p}`liu2017learning`;
# - **Taylor**: $(\sum g_i w_i)^2$ over the filter, the squared first-order effect of
#   removing it {cite:p}`molchanov2019importance`;
# - **FPGM** (filter pruning via geometric median): the sum of the distances to all other
#   filters of the layer. The filter with the smallest sum stands in for the *geometric median*,
#   the point with the smallest sum of distances, so the others can stand in for it.
#   FPGM drops what is *replaceable*, not what is small {cite:p}`he2019filter`;
# - **random**, the control.
#
# Network slimming is the only one that touches the training. Its penalty is one more term of the
# loss, and `fit` takes the loss as a function; an epoch with it, and the scales that it leaves,
# come below.
#
# Three filters of two weights each, by four of these scores. Which one goes first?

# %% tags=["nbval-check-output"]
filters = torch.tensor([[3.0, 0.0], [2.0, 2.0], [3.0, 1.0]])
gradients = torch.tensor([[0.1, 0.9], [0.5, -0.5], [-0.1, 0.1]])
by_hand = {
    "L1": filters.abs().sum(1),
    "L2": filters.norm(dim=1),
    "Taylor": (filters * gradients).sum(1) ** 2,
    "FPGM": torch.cdist(filters, filters).sum(1),
}
for name, found in by_hand.items():
    shown = [round(x, 2) for x in found.tolist()]
    print(f"{name:7}{shown}  filter {found.argmin().item()} goes")

# %% [markdown]
# L1 drops the first filter, whose sum is 3; L2 drops the second, whose numbers are spread
# evenly. Taylor drops the second as well, since its two effects on the loss cancel, and FPGM
# the third, which lies between the other two.
#
# ### What goes with them
#
# In a chain of layers, filter $i$ takes along its bias, its entries in the batch norm,
# and input channel $i$ of the next layer. In a residual network that is not enough. The
# block computes $y = F(x) + S(x)$, channel by channel, and if $F$ lost its channel 5, $S$
# has to lose channel 5 as well, and whoever made $x$, if $S$ is the identity. All that is
# tied like this is a **dependency group** {cite:p}`fang2023depgraph`.
#
# ## By hand
#
# Take ResNet-14's first stage and write down who is tied to whom. The stem's output goes
# into block 1, whose shortcut is the identity: so `conv` and `stage1.0.conv2` add up,
# and block 2 adds `stage1.1.conv2` to the same sum. Three convolutions make one group of 32
# channels. Its readers are the first convolutions of blocks 1 and 2, and the two that begin
# stage 2. The *inner* channels of a block, between its two convolutions, are tied to nothing
# else.
#
# By the same reasoning each later stage has one group for its sums, three in all, and the
# six blocks have one inner group each: nine groups. The scores of a tied group must be
# added up over its members; a filter that is small in one of them may be large in another.
# (Each member's scores are divided by their mean first. Otherwise the large sums of 3×3
# filters would drown those of the 1×1 shortcut beside them.)
#
# ## From scratch
#
# How would a program find this out? Give every channel a **label** when it is born, at the
# output of a convolution, and let the labels travel with the numbers. An addition declares
# the labels that meet to be one. A convolution that reads labels notes them, and gives birth
# to new ones. In the end, all that shares a label goes together. A toy network of
# two convolutions and an addition, with labels as strings:


# %%
def tie(groups, a, b):
    """Merge the groups of labels a and b."""
    merged = groups[a] | groups[b]
    for label in merged:
        groups[label] = merged


# %% [markdown]
# Three channels, and the addition of two layers:

# %%
labels = [[f"{layer}:{i}" for i in range(3)] for layer in ("conv1", "conv2")]
groups = {label: {label} for layer in labels for label in layer}
for a, b in zip(*labels, strict=True):  # the addition conv1(x) + conv2(x)
    tie(groups, a, b)

# %% [markdown]
# Channel 1 of both convolutions has become one thing that stays or goes:

# %% tags=["nbval-check-output"]
print(sorted(groups["conv1:1"]))

# %% [markdown]
# `pruning.find_groups` does this with a real forward pass. Each activation has a tensor of
# labels beside it, of the same shape, and whatever the network does to the activation,
# a reshape, a concatenation, a channel shuffle, is done to the labels as well. It needs no
# list of known architectures. An operation that mixes channels in a way that it does not
# know is named, and the network is left alone.

# %% tags=["nbval-check-output"]
groups = pruning.find_groups(dense, image)
for group in groups:
    makers = [m.tensor for m in group.of_role("producer")]
    readers = len(group.of_role("consumer"))
    print(f"{group.name:15}{group.size:4} channels, readers {readers}:", *makers)

# %% [markdown]
# Nine groups, as derived. Now the surgery, for one inner group: filter rows, batch-norm
# entries, and the columns of the next layer.


# %%
def without(block, gone):
    """A residual block without the inner channels in `gone`."""
    block = copy.deepcopy(block)
    keep = [i for i in range(block.conv1.out_channels) if i not in gone]
    for layer, dim, name in (
        (block.conv1, 0, "weight"),
        (block.conv2, 1, "weight"),
        *((block.bn1, 0, n) for n in ("weight", "bias", "running_mean", "running_var")),
    ):
        tensor = getattr(layer, name).data.index_select(dim, torch.tensor(keep))
        is_weight = isinstance(getattr(layer, name), nn.Parameter)
        setattr(layer, name, nn.Parameter(tensor) if is_weight else tensor)
    return block


# %% [markdown]
# Equality cell: our block, the package's `shrink`, and `mask_channels`, which only writes
# zeros, compute the same. Where do the zeros have to be? Not in the filter alone: a batch
# norm makes $\beta - \gamma\mu / \sqrt{\nu + \epsilon}$ of a channel that is zero, a constant
# that the next layer would see. So `mask_channels` sets the filter *and* the channel's
# $\gamma$ and $\beta$ to zero.

# %%
gone = {1, 4, 20}
keep = torch.tensor([i not in gone for i in range(32)])
smaller = pruning.shrink(dense, groups, {"stage1.0.conv1": keep})
masked = pruning.mask_channels(dense, groups, {"stage1.0.conv1": keep})
x = torch.rand(4, 32, 14, 14)
mine = without(dense.stage1[0], gone).eval()
with torch.no_grad():
    torch.testing.assert_close(mine(x), smaller.stage1[0](x))
    torch.testing.assert_close(mine(x), masked.stage1[0](x))

# %% [markdown]
# ## On the network
#
# ### Slimming the scales
#
# What does the L1 penalty do to the scales $\gamma$? A short training with it and one without,
# from the same weights. The strength is 500 times that of the long runs below, so that 20 steps are
# enough to see it:

# %%
short = Recipe(epochs=1, lr=0.02, average=0.0)
train = data.load("train")
scales = {}
for strength in (0.0, 0.05):
    slimmed, _ = training.fit(
        dense,
        train.subset(5_000),
        short,
        seed=0,
        objective=pruning.slimming_objective(strength),
        progress=False,
    )
    found = pruning.batch_norm_scale(slimmed)
    scales[strength] = torch.cat(list(found.values()))
    low, mean, high = (f(scales[strength]).item() for f in (min, torch.mean, max))
    print(f"strength {strength:4}: scales {low:.2f} to {high:.2f}, mean {mean:.2f}")

# %% [markdown]
# The penalty takes the same small amount off all of them with each step. The loss pulls back those
# that it needs; the others go on to zero, until $|\gamma|$ separates the two {cite:p}`liu2017learning`.
#
# ### Half of the MACs, but of which layers?
#
# First a score, here the L1 norm, added up over each group. Then the sensitivity of each
# group: its lowest channels go, all else stays, and we look at the accuracy.

# %%
scores = pruning.group_scores(groups, pruning.filter_l1(dense))
fractions = (0.25, 0.5, 0.75)
scan = pruning.channel_sensitivity(dense, groups, scores, fractions, accuracy)

# %% [markdown]
# A line for each group. Tied groups are drawn solid, inner ones dashed.

# %%
fig, ax = plt.subplots(figsize=(5.6, 3.2))
for index, (name, points) in enumerate(scan.items()):
    tied = len(groups[name].of_role("producer")) > 1
    removed, found = zip(*points, strict=True)
    style = "-" if tied else "--"
    color = plotting.PALETTE[index % len(plotting.PALETTE)]
    ax.plot([100 * r for r in removed], found, style, color=color, label=name)
ax.set(xlabel="channels removed (%)", ylabel="accuracy (%), no fine-tuning")
_ = ax.legend(ncols=2, fontsize=7)

# %% [markdown]
# The tied groups, on which whole stages hang, suffer far more than the inner ones. A
# uniform ratio ignores this. Better: all groups should suffer *alike*. If group $i$ loses
# $d_i(r)$ points of accuracy when the share $r$ of its channels goes, then a **level of
# damage** $d$ tells each group what to give up, the largest $r_i$ with $d_i(r_i) \le d$. A
# higher level leaves fewer MACs, so the lowest level that meets the budget is found by
# bisection. What the last step freed too much is given back, single channels at a time, as
# long as they fit. With two groups whose losses at 25, 50, 75 % are 1, 2, 9 and 3, 8, 30
# points, the level 3 lets the first give up half of its channels and the second a quarter.
#
# `damage_curves` makes the functions $d_i$ from the scan, straight lines between what was
# measured, and `allocate` does the rest. For the uniform plan we say that the damage *is*
# the share removed.

# %%
curves = pruning.damage_curves(scan)
uniform = {group.name: lambda removed: removed for group in groups}
plans = {
    "uniform": pruning.allocate(groups, uniform, budget=0.5),
    "by sensitivity": pruning.allocate(groups, curves, budget=0.5),
    "in eights": pruning.allocate(groups, curves, budget=0.5, round_to=8),
}

# %% [markdown]
# Three plans with half of the MACs. What does each keep, and how accurate is it before any
# training? (Batch-norm statistics are measured anew, as in the last lesson.) The 500 images
# chose two of the plans, so they cannot judge them. They lie in the first half of the
# validation images, and we look at the second.

# %%
whole = data.load("validation")
judges = data.Split("validation[2500:]", whole.images[2500:], whole.labels[2500:])
raw = {}
for name, counts in plans.items():
    keep = pruning.keep_best(groups, scores, counts)
    pruned = pruning.recalibrate(
        pruning.shrink(dense, groups, keep), train.images[:1000]
    )
    raw[name] = training.evaluate(pruned, judges)
    share = metrics.count_macs(pruned) / metrics.count_macs(dense)
    print(
        f"{name:15}{100 * share:5.1f} % of the MACs, {raw[name]:.1f} %",
        *counts.values(),
    )

# %% [markdown]
# ### Save, load, export
#
# The smaller network is an ordinary `ResNet14` with other shapes. Its file holds its
# weights and nothing else; `load_pruned` reads the shapes from the file, so no one needs to
# remember which channels went.

# %%
keep = pruning.keep_best(groups, scores, plans["in eights"])
smaller = pruning.shrink(dense, groups, keep)
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "pruned.safetensors"
    checkpoints.save_weights(smaller, path)
    small_bytes = path.stat().st_size
    again = pruning.load_pruned(ResNet14(), path)
pictures = torch.rand(4, 1, 28, 28)
with torch.no_grad():
    assert torch.equal(again.eval()(pictures), smaller.eval()(pictures))
print(f"file: {metrics.saved_bytes(dense):,} -> {small_bytes:,} bytes")

# %% [markdown]
# ### Faster?
#
# Now the latency, of all three plans and of the dense network, in the same rounds:

# %%
networks = {"dense": dense}
for name, counts in plans.items():
    keep = pruning.keep_best(groups, scores, counts)
    networks[name] = pruning.shrink(dense, groups, keep)
timed = latency.measure(
    {name: latency.onnxruntime(model, image) for name, model in networks.items()},
    rounds=100,
)
for name, found in timed.items():
    print(f"{name:15}{found}  {timed['dense'].median / found.median:.2f} times faster")

# %% [markdown]
# Half of the arithmetic is not half of the time. A processor computes with vector registers
# of 8 or 16 numbers, and kernels that use them well work on that many channels at once. A
# layer of 23 channels is computed as if it had 24, or by a slower kernel. Rounding the counts
# to multiples of 8 costs a few MACs and gains time.
#
# ### Fine-tuning, and the controls
#
# One short epoch, to see that accuracy comes back:

# %%
subset = train.subset(10_000)
tuned, _ = training.fit(networks["in eights"], subset, short, seed=0, progress=False)
print(f"half of the MACs: {accuracy(networks['in eights']):.1f} %", end=" -> ")
print(f"{accuracy(tuned):.1f} % after one short epoch")

# %% [markdown]
# The long runs: six epochs on all images, three seeds for L1 and for Torch-Pruning, one for the
# rest (n = 1 in the table), all on the test set. Channels come in multiples of 8, at a quarter
# of the MACs and in the "longer" runs, of eighteen epochs, in multiples of 16. Beside them the two controls. The **dense control**
# had the same six epochs with nothing removed. **From scratch** (one seed) is the pruned
# architecture with new weights, trained as long as the baseline:
# Liu and colleagues found that such a network often matches the pruned one, in which case
# pruning has found an architecture, not weights {cite:p}`liu2019rethinking`.

# %%
kinds = ("channel pruning", "from scratch", "Torch-Pruning", "dense")
records = [r for r in report.load_records("pruning") if r.technique in kinds]
by = ("model", "technique", "settings.variant")
rows = report.summarize(records, by=by)
columns = ["settings.variant", "accuracy", "parameters", "macs", "bytes"]
report.table(rows, columns=columns)

# %% [markdown]
# The figure that every chapter ends with, of all that has three seeds:

# %%
three = [row for row in rows if len(row.seeds) == 3]
report.tradeoff(three, cost="macs", label=lambda row: row.settings["variant"])

# %% [markdown]
# And the differences with their intervals, over images and seeds, pruned network minus the
# other: negative means lost. First against the baseline and the dense control:

# %%
labels = data.load("test").labels


def right(variant):
    """Correct or not, for each seed and test image."""
    return report.load_predictions("pruning", variant) == labels


# %% [markdown]
# Against the baseline, and against the dense network that was trained as long:

# %%
others = {"baseline": checkpoints.predictions("resnet14") == labels}
others["dense control"] = right("dense control")
change = {}
for budget in (50, 35, 25):
    for name, other in others.items():
        change[budget, name] = metrics.paired_bootstrap(
            other, right(f"channels L1 {budget}")
        )
        print(f"{budget} % of the MACs, against the {name:14}{change[budget, name]}")

# %% [markdown]
# Are the channels missed that much, or are six epochs too few? Eighteen epochs, at the rate that
# validation preferred:

# %%
patient = {}
with_control = {**others, "control of eighteen": right("dense control longer")}
del with_control["dense control"]
for budget in (50, 25):
    for name, other in with_control.items():
        found = metrics.paired_bootstrap(other, right(f"channels L1 {budget} longer"))
        patient[budget, name] = found
        print(f"{budget} % of the MACs, longer, against the {name:20}{found}")

# %% [markdown]
# Patience gives back more than half of what half of the MACs had cost: what is left against the
# baseline is within noise. But the dense network gains by eighteen epochs as well, and against
# *it* both networks still lose. Who reports only the first comparison reports the epochs.
#
# Now the network of half the MACs against the same architecture from scratch, and against
# Torch-Pruning's network of as many MACs:

# %%
scratch = metrics.paired_bootstrap(
    right("from scratch 50"), right("channels L1 50")[:1]
)
rival = metrics.paired_bootstrap(right("Torch-Pruning L1 50"), right("channels L1 50"))
print(f"50 % of the MACs, against from scratch, one seed  {scratch}")
print(f"50 % of the MACs, against Torch-Pruning           {rival}")

# %% [markdown]
# Neither difference is more than noise. The architecture, trained from new weights for as long
# as the baseline, does as well as the pruned network: here pruning has found an *architecture*.
# It has found it quickly: given a trained baseline, only the plan and the fine-tuning are needed.
# And our plan by sensitivity is no more accurate than Torch-Pruning's one ratio for all layers,
# though its network has fewer parameters; the lead over our own uniform plan did not outlast
# fine-tuning.
#
# The hardest rival has been in the book since chapter 1: the student, a small network that was
# designed as one, with depthwise convolutions, and trained for 40 epochs. Beside the network of
# a quarter of the MACs:

# %%
(student,) = report.summarize(
    [r for r in report.load_records("baselines") if r.model == "student"]
)
quarter = next(row for row in rows if row.settings["variant"] == "channels L1 25")
for name, row in (("quarter", quarter), ("student", student)):
    print(
        f"{name:8}{row.macs:12,.0f} MACs {row.accuracy:.2f} %, {row.bytes:,.0f} bytes"
    )

# %% [markdown]
# Fewer MACs, fewer bytes, and more accurate than the quarter after six epochs; after eighteen the
# two are equally accurate. Pruning takes a network that is there and makes it smaller; it does
# not invent a better one.
#
# ### The finalists' time
#
# ONNX Runtime, one thread, all in the same rounds on a quiet machine, by
# `scripts/measure_latency.py pruning`. "Unaligned" has channels in any number:

# %%
finalists = report.load_records("pruning-latency")
medians = {r.settings["variant"]: r.latency.median_ms for r in finalists}
speedup = {name: medians["dense"] / median for name, median in medians.items()}
for record in finalists:
    name = record.settings["variant"]
    print(f"{name:26}{record.macs:11,} MACs {medians[name]:.3f} ms", end="")
    print(f"  {speedup[name]:.2f} times faster")

# %% [markdown]
# Vector registers of this processor hold 16 numbers. In multiples of 16 ("longer") half of the
# MACs are nearest to the ideal of two times faster; in multiples of 8 they are worth less. And in
# any number of channels, which no one rounded, *half* the arithmetic takes longer than all of
# it. The accuracy of that network is no worse, so a table without times would not show it.
#
# ## Why it works, when it does not
#
# **Which score?** All scores at one budget, one seed. Each made its own plan, in eights, from
# its own scan; the fine-tuning was the same, but network slimming had six epochs with its
# penalty before.

# %%
score_names = ("L1", "L2", "Taylor", "FPGM", "batch norm", "random", "slimming")
found = {r.settings["variant"]: r.accuracy for r in records if r.seed == 0}
by_score = {name: found[f"channels {name} 50"] for name in score_names}
for name, found in sorted(by_score.items(), key=lambda item: -item[1]):
    print(f"{name:14}{found:.2f} %")

# %% [markdown]
# After fine-tuning they lie close together, and random is not far behind: at this budget
# it matters little *which* channels go. It is the most useful negative result of this
# chapter.
#
# **A tie that was overlooked.** Remove channel 5 from the block and forget the shortcut; the
# addition of 31 and 32 channels fails:

# %%
forgetful = copy.deepcopy(dense)
kept = [i for i in range(32) if i != 5]
conv, norm = forgetful.stage1[0].conv2, forgetful.stage1[0].bn2
conv.weight = nn.Parameter(conv.weight.data[kept])
for name in ("weight", "bias", "running_mean", "running_var"):
    setattr(norm, name, None)  # a parameter takes no plain tensor in its place
    setattr(norm, name, nn.Parameter(getattr(dense.stage1[0].bn2, name)[kept], False))
try:
    forgetful(image)
except RuntimeError as error:
    print(error)

# %% [markdown]
# That was the lucky case. With equal *numbers* of channels and different *choices* on both
# sides, the addition runs and adds channel 5 to channel 6.
#
# ## What practitioners use
#
# Torch-Pruning {cite:p}`fang2023depgraph` finds the groups from the autograd graph. It is
# in the table above, with the same norm and as many MACs, and one ratio for all layers, found
# by bisection in `scripts/sweep_pruning.py`. It changes the network that it is given:
#
# ```python
# import torch_pruning as tp
#
# pruner = tp.pruner.MagnitudePruner(
#     model,
#     torch.zeros(1, 1, 28, 28),
#     importance=tp.importance.GroupMagnitudeImportance(p=1),
#     pruning_ratio=0.3,
#     ignored_layers=[model.fc],
# )
# pruner.step()
# ```
#
# A network that is not ours, through our own code: torchvision's MobileNetV2, whose depthwise convolutions tie
# their outputs to their inputs.

# %%
foreign = torchvision.models.mobilenet_v2(weights=None).eval()
photo = (1, 3, 96, 96)
found = pruning.find_groups(foreign, photo)

# %% [markdown]
# All groups alike, in eights, half of the MACs:

# %% tags=["nbval-check-output"]
plan = pruning.allocate(
    found,
    {group.name: lambda removed: removed for group in found},
    budget=0.5,
    round_to=8,
)
keep = pruning.keep_best(
    found, pruning.group_scores(found, pruning.filter_l1(foreign)), plan
)
slim = pruning.shrink(foreign, found, keep)
print(f"{len(found)} groups, {metrics.count_macs(foreign, photo):,} MACs", end=" -> ")
print(f"{metrics.count_macs(slim, photo):,}")

# %% [markdown]
# ```{admonition} What changes at ImageNet scale
# :class: note
# Fine-tuning costs days instead of minutes, so one prunes in a few large steps, with a
# low learning rate. Networks with squeeze-and-excitation and grouped convolutions have larger
# groups; layer norm, which mixes all channels, has
# none that could be cut without changing what it computes.
# ```
#
# ## Paper and us
#
# | | reports | we measured |
# |---|---|---|
# | {cite:t}`li2017pruning`, ResNet-56 on CIFAR-10 | 27.6 % fewer FLOPs, no accuracy lost | half of the MACs: −0.4 points, a quarter: −1.1 |
# | {cite:t}`liu2019rethinking`, several networks | from scratch does as well | half of the MACs: no difference, one seed |
# | {cite:t}`fang2023depgraph`, ResNet-56 on CIFAR-10 | 93.53 → 93.77 % at 2.11 times fewer MACs | the row "Torch-Pruning" |
#
# The claims of the text:

# %% tags=["claims"]
assert len(groups) == 9
assert scales[0.05].mean() < scales[0.0].mean() - 0.05, "the penalty shrinks the scales"
assert raw["by sensitivity"] > raw["uniform"], "sensitivity beats a uniform ratio"
assert metrics.count_macs(networks["in eights"]) <= metrics.count_macs(dense) / 2
assert timed["in eights"].median < timed["by sensitivity"].median, "eights are faster"
assert round(change[50, "baseline"].difference, 1) == -0.4, "half of the MACs"
assert round(change[25, "baseline"].difference, 1) == -1.1, "a quarter"
for noise in (scratch, rival):
    assert noise.low < 0 < noise.high, "no more than noise"
assert student.macs < quarter.macs and student.bytes < quarter.bytes
assert student.accuracy > quarter.accuracy
assert patient[50, "baseline"].low < 0 < patient[50, "baseline"].high
for budget in (50, 25):
    assert patient[budget, "control of eighteen"].high < 0, "the control gains as well"
    assert (
        patient[budget, "baseline"].difference > change[budget, "baseline"].difference
    )
    assert patient[budget, "baseline"].difference >= {50: -0.2, 25: -0.8}[budget]
assert (
    speedup["channels L1 50 longer"] > 1.6 > speedup["channels unaligned L1 50"] + 0.5
)
assert speedup["channels L1 50 longer"] > speedup["channels L1 50"] > 1.4
assert speedup["channels L1 25"] > 2.3
assert max(by_score.values()) - min(by_score.values()) < 1.0, (
    "scores lie close together"
)

# %% [markdown]
# ## Your turn
#
# The MACs of a chain of convolutions after pruning. The function gets the MACs of each
# layer and the share of *output* channels that each layer keeps; the first layer's input
# is whole. Return their sum. Replace the `...` and run the cell.


# %%
def chain_macs(macs, kept):
    return ...


pruning_channels.chain_macs(chain_macs)

# %% [markdown]
# ## Summary
#
# A filter can be removed for real, with everything that is tied to it. The ties of a
# residual network can be derived by hand and found automatically by following labels
# through a forward pass. A budget is best divided by sensitivity, and in multiples of the
# runtime's vector width, or the MACs that are saved are not felt as time. After
# fine-tuning the choice of score matters little; the controls say what pruning itself
# was worth.
#
# ## Check yourself
#
# ```{exercise}
# :label: ex-structured-square
# A network keeps 80 % of the channels in every layer. What is left of its MACs, of its
# parameters, of its activations?
# ```
#
# ```{solution} ex-structured-square
# :class: dropdown
# MACs and parameters 64 % (inputs × outputs; a little more, since the image and the classes
# are not pruned), activations 80 %.
# ```
#
# ```{exercise}
# :label: ex-structured-concat
# Two convolutions with 16 and 24 filters are concatenated, and a third convolution reads
# the result. Which groups are there?
# ```
#
# ```{solution} ex-structured-concat
# :class: dropdown
# One of 16, one of 24 channels, and one of the third convolution's own filters. A
# concatenation ties nothing: it shifts the second layer's channels to the inputs 16 to 39 of
# the reader.
# ```
#
# ```{exercise}
# :label: ex-structured-depthwise
# Why can a depthwise convolution not keep a channel that its input has lost?
# ```
#
# ```{solution} ex-structured-depthwise
# :class: dropdown
# Its filter for that channel reads nothing else. Without the input it would compute a
# constant.
# ```
#
# ```{exercise}
# :label: ex-structured-mask
# A colleague sets the weights of half of the filters to zero and reports that the network got neither
# smaller nor faster. Which tensors besides these filters must change, and what else still answers when
# a filter is zero?
# ```
#
# ```{solution} ex-structured-mask
# :class: dropdown
# The batch norm's scale, shift and running statistics, and the inputs of all layers that read the
# channels; all lose the same indices, in all layers of the group. The batch norm still answers: a
# channel of zeros leaves it as the constant $\beta - \gamma \mu / \sqrt{\sigma^2 + \epsilon}$.
# ```
#
# ## Where next
#
# - [Assignment: pruning](../../assignments/release/pruning/pruning.ipynb): masks, a budget, and an experiment that reports too much.
# - Next chapter: [what zeros are worth](../03-sparsity/formats.ipynb) if they stay
#   scattered.
# - {cite:t}`fang2023depgraph` for groups of transformers and recurrent networks.
# - {cite:t}`liu2019rethinking` for the question whether pruned weights matter at all.
