# %% [markdown]
# # Pruning single weights
#
# Which weights can a trained network do without, and how many? This lesson changes the
# non-zeros of ResNet-14: from all of its weights to a tenth of them, and fewer.
#
# Three words first. A **score** is a number for each weight that says how much it matters. A
# **mask** is a tensor of the weight's shape, true where the weight stays, false where it becomes
# zero. The share of zeros is the **sparsity**.
#
# **You will**
#
# - score weights by magnitude, by gradient, and at random, and say what each score
#   assumes about the loss;
# - turn scores into masks of an exact sparsity, layer by layer or over all layers at once;
# - keep zeros at zero while an optimizer with momentum and weight decay trains the rest;
# - judge pruning against a control that is easily forgotten, and say why a masked network is
#   neither smaller nor faster yet.
#
# **You need** chapter 1: [cost](../01-measuring/cost.ipynb) and
# [accuracy](../01-measuring/accuracy.ipynb). Symbols are on the
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
from itertools import islice

import matplotlib.pyplot as plt
import torch
import torchvision
from torch import nn
from torch.nn.utils import prune

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
from slimcnn.checks import pruning_weights
from slimcnn.training import Recipe

plotting.use_style()
_ = torch.manual_seed(0)

# %% [markdown]
# ## Measure first
#
# ResNet-14, trained, and 500 validation images to look at: everything that we try out in
# this lesson is measured on validation, and the test set is left for the records of
# finished recipes at the end.

# %%
dense = checkpoints.load("resnet14")
validation = data.load("validation").subset(500)


def accuracy(model):
    return training.evaluate(model, validation)


print(f"dense: {metrics.count_nonzeros(dense):,} non-zeros, {accuracy(dense):.1f} %")

# %% [markdown]
# What do its weights look like? A histogram of three layers:

# %%
fig, axes = plt.subplots(1, 3, figsize=(7.2, 2.6))
for ax, name in zip(
    axes, ("stage1.0.conv1", "stage2.0.conv2", "stage3.1.conv2"), strict=True
):
    weight = dense.get_submodule(name).weight.detach().flatten()
    ax.hist(weight.numpy(), bins=80)
    ax.set(title=f"{name}\n{weight.numel():,} weights", xlabel="weight", yticks=[])
_ = axes[0].set_ylabel("how many")

# %% [markdown]
# Bells around zero, each on its own scale: the later the layer, the more weights it has and
# the narrower its bell. The width begins with the initial weights, whose standard deviation
# is $\sqrt{2 / (C_\text{out} k^2)}$ in this network {cite:p}`he2015delving`, less for more
# channels; training and weight decay keep the order. Most numbers of the last stage are tiny
# beside its largest ones. Surely they cannot matter much?
#
# ## The idea
#
# Ask the loss. Setting weight $w_i$ to zero moves it by $-w_i$, and Taylor's theorem says
# what that does to the loss $\mathcal{L}$, with the gradient
# $g_i = \partial \mathcal{L} / \partial w_i$ and the curvature
# $h_i = \partial^2 \mathcal{L} / \partial w_i^2$:
#
# $$
# \Delta \mathcal{L}_i \;\approx\; -\,g_i\, w_i \;+\; \tfrac{1}{2}\, h_i\, w_i^2 .
# $$ (eq-taylor)
#
# It takes each weight alone, as if no other were removed. Every classic score is a reading of
# {eq}`eq-taylor`.
#
# - **Magnitude**, $q_i = |w_i|$. At the end of training the gradients are near zero, so
#   the second term decides; and if all curvatures were equal, it would rank weights by
#   $w_i^2$, so by $|w_i|$ {cite:p}`han2015learning`. (Ranking by $w_i^2$ instead gives
#   the same mask: whoever sells "L2 pruning" of single weights sells the same thing.)
# - **Taylor**, $q_i = (g_i w_i)^2$, averaged over batches: the first term, squared, since
#   a change in either direction is a change {cite:p}`molchanov2019importance`.
# - **SNIP**, $q_i = |g_i w_i| / \sum_j |g_j w_j|$ with the gradient of the mean loss over all
#   batches together. With a single batch it ranks weights as Taylor does; with many, a
#   gradient that changes its sign from batch to batch cancels here and counts there. It was
#   made to prune *before* training, when gradients are large {cite:p}`lee2019snip`.
# - **Random**: the control. A score that does not beat it knows nothing.
#
# ## By hand
#
# Four weights and their gradients. Half of them must go. Which?

# %% tags=["nbval-check-output"]
weight = torch.tensor([[0.9, -0.1], [0.4, -0.6]])
gradient = torch.tensor([[0.1, -2.0], [0.1, 0.5]])
for name, score in (
    ("magnitude", weight.abs()),
    ("Taylor", (weight * gradient) ** 2),
):
    print(f"{name:10}", [round(x, 4) for x in score.flatten().tolist()])
    print("  stays   ", pruning.mask_of(score, 0.5).int().tolist())

# %% [markdown]
# Magnitude keeps 0.9 and −0.6. Taylor keeps −0.6, whose product with the gradient is
# largest, and then the *smallest* weight, −0.1: the loss is steep there. The two
# disagree about two of four weights. Which of them is right about a network, we
# measure below.
#
# ## From scratch
#
# A mask of sparsity $s$ over $n$ weights has `round(s * n)` zeros, exactly. The tempting
# way, "drop what is not above the k-th smallest value", is wrong when values are equal, and
# at 0 %:


# %%
def threshold_mask(scores, sparsity):
    """Drops too many where scores are equal, and everything at sparsity 0."""
    count = round(sparsity * scores.numel())
    threshold = scores.flatten().sort().values[count - 1]
    return scores > threshold


# %% [markdown]
# Quantized weights, zeros from an earlier pruning, and tied scores are all common. We sort
# *positions* instead, and drop the first ones.


# %%
def magnitude_mask(weight, sparsity):
    """True where a weight stays; exactly round(sparsity * n) are False."""
    scores = weight.abs().flatten()
    mask = torch.ones(scores.numel(), dtype=torch.bool)
    mask[scores.argsort(stable=True)[: round(sparsity * scores.numel())]] = False
    return mask.view(weight.shape)


# %% [markdown]
# A tensor with ties shows the difference, and the equality cell compares with the package,
# for many sparsities, 0 % and 100 % among them.

# %% tags=["nbval-check-output"]
tied = torch.tensor([1.0, 1.0, 1.0, 2.0])
print("half, by threshold:", threshold_mask(tied, 0.5).tolist())
print("half, by position: ", magnitude_mask(tied, 0.5).tolist())
for sparsity in (0.0, 0.3, 0.5, 0.9, 1.0):
    weight = torch.randn(8, 4, 3, 3)
    theirs = pruning.mask_of(weight.abs(), sparsity)
    torch.testing.assert_close(magnitude_mask(weight, sparsity), theirs)

# %% [markdown]
# ### One threshold for all?
#
# A network has many layers. **Layer-wise** pruning takes the same share of each;
# **global** pruning ranks all weights in one list, so a layer of small weights loses more.
# At 90 % over the whole network:

# %%
scores = pruning.magnitude(dense)
masks = {
    "layer-wise": pruning.layerwise_masks(scores, 0.9),
    "global": pruning.global_masks(scores, 0.9),
}
assert abs(pruning.sparsity_of(masks["global"]) - 0.9) < 1e-5

# %% [markdown]
# The bars are what is left of each layer:

# %%
fig, ax = plt.subplots(figsize=(6.4, 3.4))
names = [name.removesuffix(".weight") for name in scores]
for shift, (kind, found) in zip((-0.2, 0.2), masks.items(), strict=True):
    left = [100 * mask.float().mean().item() for mask in found.values()]
    ax.barh([i + shift for i in range(len(left))], left, 0.4, label=kind)
ax.set(yticks=range(len(names)), yticklabels=names, xlabel="weights left (%)")
ax.invert_yaxis()
_ = ax.legend()

# %% [markdown]
# The global threshold spares the stem, the shortcuts and the classifier, about twelve
# thousand weights together, and empties the last stage, which holds three quarters of all.
# It never saw a sensitivity, only magnitudes; the next section checks whether it is right.
#
# ## On the network
#
# ### The sensitivity scan
#
# Prune one layer at a time, leave all others whole, and measure. Fifteen convolutions and
# a linear layer, at two sparsities each:

# %%
levels = (0.6, 0.9)
scan = pruning.weight_sensitivity(dense, scores, levels, accuracy)
lost = {
    # each scan begins with the whole layer: (0.0, accuracy), (0.6, ...), (0.9, ...)
    level: [found[0][1] - dict(found)[level] for found in scan.values()]
    for level in levels
}

# %% [markdown]
# Long bars are layers that cannot be pruned by themselves. (On 500 images a difference below
# about two points is noise.)

# %%
fig, ax = plt.subplots(figsize=(6.4, 3.4))
for shift, level in zip((-0.2, 0.2), levels, strict=True):
    rows = [row + shift for row in range(len(names))]
    ax.barh(rows, lost[level], 0.4, label=f"{100 * level:.0f} % of the layer zero")
ax.set(yticks=range(len(names)), yticklabels=names, xlabel="accuracy lost (points)")
ax.invert_yaxis()
_ = ax.legend()

# %% [markdown]
# The stem suffers most, and the last block hardly notices: the global threshold was mostly
# right without knowing it. Early layers have few weights, each used at many positions.
#
# ### One shot, four scores
#
# Now the whole network at once, without any training afterwards, by each of the scores.
# The gradients come from 2,000 training images.


# %%
train = data.load("train")
batches = list(islice(data.batches(train, 250, seed=0, epoch=0), 8))
generator = torch.Generator().manual_seed(0)
scored = {
    name: getattr(pruning, name)(dense, batches, generator)
    for name in ("magnitude", "taylor", "snip", "random")
}


# %% [markdown]
# For each we take a global mask, and for magnitude a layer-wise one as well.

# %%
levels = (0.3, 0.5, 0.6, 0.7, 0.8)
curves = {}
for name, found in scored.items():
    curves[name] = [
        accuracy(pruning.apply_masks(dense, pruning.global_masks(found, level)))
        for level in levels
    ]
curves["magnitude, layer-wise"] = [
    accuracy(pruning.apply_masks(dense, pruning.layerwise_masks(scores, level)))
    for level in levels
]

# %% [markdown]
# No fine-tuning yet: this is the raw damage.

# %%
fig, ax = plt.subplots()
for (name, found), marker in zip(curves.items(), plotting.MARKERS, strict=False):
    ax.plot([100 * level for level in levels], found, marker=marker, label=name)
ax.axhline(accuracy(dense), color="black", linestyle=":", label="dense")
ax.set(xlabel="zeros (%)", ylabel="validation accuracy (%)")
_ = ax.legend()

# %% [markdown]
# Random pruning falls at once, and one threshold for all layers holds longer than the same
# share of each. The gradient scores fall far earlier than magnitude: at the end of a training, $g_i$ is noise around zero, and {eq}`eq-taylor` has lost its first term. Up to a
# point, pruning is free. Beyond it the network needs help.
#
# ### The cheapest help: batch norm
#
# A pruned filter gives activations of another mean and variance. The running statistics of
# the batch norm after it still speak of the old ones. **Recalibration** measures
# them again, on training images, without changing a weight:

# %%
pruned = pruning.finalize(pruning.apply_masks(dense, masks["global"]))
recalibrated = pruning.recalibrate(pruned, train.images[:2000])
before, repaired = accuracy(pruned), accuracy(recalibrated)
print(f"90 % zeros: {before:.1f} %; with statistics measured anew: {repaired:.1f} %")

# %% [markdown]
# Seconds of arithmetic for many points. (`finalize` has written the zeros into the weights
# and thrown the masks away.) It costs no labels and no gradient, so it is worth trying
# whenever anything was done to the weights of a network with batch norm.
#
# ### Masks that survive the optimizer
#
# To get the rest back we train. But a weight that was set to zero does not stay there:

# %%
broken = copy.deepcopy(pruned)
optimizer = torch.optim.SGD(broken.parameters(), lr=0.01, momentum=0.9)
images, labels = data.normalize(train.images[:64]), train.labels[:64]
nn.functional.cross_entropy(broken.train()(images), labels).backward()
optimizer.step()
print(f"non-zeros {metrics.count_nonzeros(pruned):,}", end=" -> ")
print(f"{metrics.count_nonzeros(broken):,} after a single step")

# %% [markdown]
# Zeroing the *gradients* of pruned weights is a common mend, and not enough in the middle of
# a training: momentum from before the pruning moves them on, and so does Adam's running mean
# of old gradients. `apply_masks` takes another way. The network computes with
# $\mathbf{M} \odot \mathbf{W}$, mask times weight, *whenever it uses the weight*, so the
# optimizer may do to $\mathbf{W}$ what it likes. PyTorch calls such a rule a
# *parametrization* of the weight, and it is a few lines:


# %%
class Mask(nn.Module):
    """What the network gets to see of a weight."""

    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight):
        return weight * self.mask


layer = copy.deepcopy(dense.conv)
found = masks["global"]["conv.weight"]
nn.utils.parametrize.register_parametrization(layer, "weight", Mask(found))
torch.testing.assert_close(
    layer.weight, pruning.apply_masks(dense, masks["global"]).conv.weight
)

# %% [markdown]
# Two optimizers try to bring the zeros back, with momentum and weight decay:

# %%
masked = pruning.apply_masks(dense, masks["global"])
for kind in (torch.optim.SGD, torch.optim.AdamW):
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizer = kind(masked.parameters(), lr=0.01, weight_decay=0.01, **options)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(masked.train()(images), labels).backward()
        optimizer.step()
    print(kind.__name__, f"{metrics.count_nonzeros(masked):,} non-zeros")

# %% [markdown]
# ### Fine-tuning, at once or gradually
#
# With masks in place, training goes on as usual. One short epoch on 8,000 images. (The recipe
# keeps no average of the weights over the last epochs, `average=0.0`: while masks still change,
# as they soon will, an average would mix networks of different zeros.)

# %%
short = Recipe(epochs=1, lr=0.02, average=0.0)
masked = pruning.apply_masks(dense, masks["global"])
tuned, _ = training.fit(masked, train.subset(8_000), short, seed=0, progress=False)
print(f"90 % zeros, one short epoch: {accuracy(tuned):.1f} %")

# %% [markdown]
# **Gradual** pruning does not ask for all zeros at once. It removes a little, lets the
# network recover, removes a little more. Zhu and Gupta raise the sparsity along a cubic
# {cite:p}`zhu2017prune`, fast at first, while there is much to spare, and slowly at the
# end:
#
# $$
# s(j) = s_\text{final} + (s_0 - s_\text{final}) \left(1 - \frac{j}{J}\right)^{3} ,
# $$ (eq-cubic)
#
# where $s_0$ is the sparsity at the beginning, usually 0, $s_\text{final}$ the one that is
# wanted, $j$ the training step and $J$ the step at which the pruning ends.
#
# In code it is a function that `fit` calls before each step, and that tightens the
# masks now and then:

# %% tags=["nbval-check-output"]
print([round(pruning.cubic(t / 8, final=0.9), 3) for t in range(9)])
# An epoch of 8,000 images has 32 steps of 256; the last 8 train at the final sparsity.
schedule = pruning.GradualPruning(final=0.9, steps=24, every=4)
# Masks without zeros, for the schedule to tighten:
whole = pruning.apply_masks(dense, pruning.layerwise_masks(scores, 0.0))
gradual, _ = training.fit(
    whole, train.subset(8_000), short, seed=0, before_step=schedule, progress=False
)
print(f"zeros at the end: {pruning.sparsity_of(pruning.masks_of(gradual)):.4f}")

# %% [markdown]
# One epoch is too short to compare the two. The long runs, six epochs on all 55,000 images,
# were done beforehand by `scripts/sweep_pruning.py`: three seeds for the recommended recipe at
# 80, 90 and 95 % zeros, one (n = 1 in the table) for everything else. Their records, on the
# test set:

# %%
records = [
    r
    for r in report.load_records("pruning")
    if r.technique in ("dense", "weight pruning")
    and not r.settings["variant"].endswith("longer")
]
by = ("model", "technique", "settings.variant")
rows = report.summarize(records, by=by)
report.table(rows, columns=["settings.variant", "accuracy", "nonzeros", "bytes"])

# %% [markdown]
# The curve of the recommended recipe, gradual and global, beside the alternatives at 90 %.
# Every point had the same six epochs, and so had the **dense control**: the baseline,
# trained on for as long with nothing removed. Who compares with the baseline alone credits
# pruning with what the extra epochs did.

# %%
report.tradeoff(rows, cost="nonzeros", label=lambda row: row.settings["variant"])

# %% [markdown]
# Read the rows of 90 %. Random connections stay far below all others, even trained. One
# threshold for all layers is worth more than a point against the same share of each. Magnitude
# is ahead of SNIP, and not behind Taylor, though both saw gradients. And our recommended schedule? All
# zeros in one shot did as well as gradually. On one seed the difference is nothing:

# %%
labels = data.load("test").labels


def right(variant):
    """Correct or not, for each seed and test image."""
    return report.load_predictions("pruning", variant) == labels


schedules = metrics.paired_bootstrap(
    right("one-shot magnitude 90"), right("gradual 90")[:1]
)
print(f"90 % zeros, gradual - one shot: {schedules}")

# %% [markdown]
# What gradual pruning saves must show where one cut breaks more than six epochs can mend;
# at 90 % on this network it does not show. We keep it, since it did no harm, and say so.
#
# Is what 90 % zeros cost more than noise? We compare image by image and over the seeds, as
# the [accuracy lesson](../01-measuring/accuracy.ipynb) taught, with the baseline and with
# the control. Differences are pruned network minus the other: negative means lost.

# %%
baseline = checkpoints.predictions("resnet14") == labels
for name, other in (("baseline", baseline), ("control", right("dense control"))):
    for zeros in (80, 90, 95):
        paired = metrics.paired_bootstrap(other, right(f"gradual {zeros}"))
        print(f"{zeros} % zeros against the {name:9} {paired}")

# %% [markdown]
# At 80 % barely: against the baseline the interval still holds zero. From 90 % on it is, but first it
# is little. Four fifths of the weights go for two tenths of a point, nine tenths for half a point;
# then it gets expensive, and 95 % cost more than one.
#
# Six epochs are few. Here is 90 % after eighteen, at the rate that validation preferred, and
# beside it a dense network that was trained on as long:

# %%
patient = {}
for name, other in (
    ("baseline", baseline),
    ("control of eighteen", right("dense control longer")),
):
    patient[name] = metrics.paired_bootstrap(other, right("gradual 90 longer"))
    print(f"90 % zeros, longer, against the {name:20}{patient[name]}")

# %% [markdown]
# What six epochs had lost, eighteen bring back: a tenth of the weights is as accurate as the
# baseline with all of them. That is not to say that zeros cost nothing. The dense network gains by
# the same epochs, and is two tenths of a point ahead again, just within what noise can do.
#
# ### Rewinding: was it the weights or the mask?
#
# Frankle and Carbin asked a stranger question {cite:p}`frankle2019lottery`. Take the mask
# that pruning found, and train the sparse network from an *early* state of its own
# weights: can it learn what the dense network learned? In their small networks it
# could, from the very beginning; in larger ones from a little later, which is called
# **rewinding** {cite:p}`frankle2020linear`. With the same mask and *new* random weights it
# could not. Our three short runs, of one seed and ten epochs each: a dense network; its own
# 90 % sparse mask on its weights as they were after the first epoch; the same mask on new
# weights. (The rewound run has its early epoch on top of its ten.) On the test set:

# %%
lottery = {
    r.settings["variant"].removesuffix(", ten epochs"): r.accuracy
    for r in report.load_records("sparsity")
    if r.technique in ("dense", "sparse training")
}
for name in ("dense", "rewound", "new weights"):
    print(f"{name:12} {lottery[name]:.2f} %")

# %% [markdown]
# The rewound network learns what the dense one learned, with a tenth of its weights. The same
# connections with new weights end a point below, no better than random connections do in chapter
# 3. So the mask alone is not enough: it fits the weights that it was found with. (One seed: look at
# the sizes of these differences, not at their hundredths.)
#
# ## Why it works, when it does not
#
# **Layer collapse.** A global threshold knows no layers. Push it far enough and some layer
# loses its last weight; then nothing passes, and no training can repair it, since no
# gradient passes either {cite:p}`tanaka2020pruning`.

# %%
for level in (0.98, 0.99, 0.995, 0.998):
    found = pruning.global_masks(scores, level)
    print(f"{100 * level:.1f} % zeros: empty layers {pruning.collapsed_layers(found)}")

# %% [markdown]
# In a residual network the shortcut carries the signal around an empty block: it survives
# with fewer layers. A network without shortcuts would be dead.
#
# **Masked is not faster, and not smaller.** We time the dense and the masked network in
# ONNX Runtime, and look at their files:

# %%
image = torch.zeros(1, 1, 28, 28)
plain = pruning.finalize(gradual)
timed = latency.measure(
    {
        "dense": latency.onnxruntime(dense, image),
        "90 % zeros": latency.onnxruntime(plain, image),
    },
    rounds=100,
)
for (name, found), model in zip(timed.items(), (dense, plain), strict=True):
    print(f"{name:11} {found.median:.3f} ms, file {metrics.saved_bytes(model):,} bytes")

# %% [markdown]
# A zero is multiplied like any other number and takes four bytes like any other number.
# What it needs is a format that leaves it out and a kernel that skips it: chapter 3. The
# next lesson takes the other way and removes whole filters, so that dense
# kernels have less to do.
#
# ### Find the bug
#
# Someone prunes by "keeping the large weights of the state dict". Before you run it: which
# *two* things are wrong with it?

# %% tags=["raises-exception"]
state = dense.state_dict()
kept = {name: tensor for name, tensor in state.items() if tensor.abs() > 0.01}

# %% [markdown]
# A tensor of many numbers has no single truth value, so Python refuses. And had it not: a
# state dict with fewer entries is not a sparse network but a broken file, since
# `load_state_dict` wants every tensor. The unit of pruning is the weight *inside* a tensor, and
# the tensor keeps its shape.
#
# ## What practitioners use
#
# `torch.nn.utils.prune` comes with PyTorch. Its global magnitude pruning must give our
# mask:

# %%
theirs = copy.deepcopy(dense)
layers = [
    (theirs.get_submodule(name.removesuffix(".weight")), "weight") for name in scores
]
prune.global_unstructured(layers, prune.L1Unstructured, amount=0.9)
same = sum(
    int((module.weight_mask.bool() == masks["global"][name]).sum())
    for (module, _), name in zip(layers, scores, strict=True)
)
total = sum(mask.numel() for mask in masks["global"].values())
print(f"{same:,} of {total:,} mask entries agree")

# %% [markdown]
# It keeps `weight_orig` and `weight_mask` beside each other, computes the product in a
# function that PyTorch calls before each forward pass (a *hook*), and `prune.remove` makes the zeros permanent. It has no
# schedule, no gradient scores, and its file is *larger* than the dense one as long as
# the masks are in it.
#
# A network that is not ours: torchvision's ResNet-18 for color images, from which one
# global threshold takes 80 %. (Its weights are random here; with trained ones only the
# shares differ.)

# %%
foreign = torchvision.models.resnet18(weights=None)
found = pruning.global_masks(pruning.magnitude(foreign), 0.8)
sparse = pruning.finalize(pruning.apply_masks(foreign, found))
print(f"{metrics.count_parameters(foreign):,} parameters", end=", ")
print(f"{metrics.count_nonzeros(sparse):,} of them not zero")

# %% [markdown]
# ```{admonition} What changes at ImageNet scale
# :class: note
# Large networks are trained for much longer and have a harder task, so expect less than 95 %
# zeros at a small loss. Gale and colleagues compared magnitude with far more complicated
# methods on ResNet-50 and found that it holds its own if it is tuned as carefully
# {cite:p}`gale2019state`.
# ```
#
# ## Paper and us
#
# | | reports | we measured |
# |---|---|---|
# | {cite:t}`han2015learning`, AlexNet on ImageNet | 9 times fewer weights, no accuracy lost | the table above |
# | {cite:t}`zhu2017prune` | large sparse networks beat small dense ones of as many non-zeros | not here: the student of chapter 1 has 54,346 weights and 93.3 %; 90 % zeros leave 71,629 and 93.6 %, 95 % leave 36,940 and 92.8 % |
#
# The student lies on the curve of the sparse ResNet-14, not below it. Its depthwise
# convolutions are a good small network, and a small dense network needs no special format.
#
# The claims of the text:

# %% tags=["claims"]
at = dict(zip(levels, range(len(levels)), strict=True))
assert curves["magnitude"][at[0.5]] > accuracy(dense) - 3, "half is nearly free"
assert curves["random"][at[0.3]] < curves["magnitude"][at[0.3]] - 5
assert curves["magnitude"][at[0.7]] > curves["magnitude, layer-wise"][at[0.7]]
assert repaired > before + 5, "recalibration repairs much"
assert metrics.count_nonzeros(broken) > 2 * metrics.count_nonzeros(pruned)
assert abs(pruning.sparsity_of(pruning.masks_of(gradual)) - 0.9) < 1e-4
assert metrics.saved_bytes(plain) == metrics.saved_bytes(dense)
assert timed["90 % zeros"].median > 0.7 * timed["dense"].median, "not faster"
assert same == total, "PyTorch's mask is ours"
small = sum(
    scores[n].numel()
    for n in scores
    if "shortcut" in n or n in ("conv.weight", "fc.weight")
)
assert round(small, -3) == 12_000, "stem, shortcuts and classifier"
assert names[max(range(len(names)), key=lambda i: lost[0.9][i])] == "conv"
assert max(lost[0.6][names.index(n)] for n in names if "stage3.1" in n) < 2

# %% [markdown]
# And those that the records have to bear out:

# %% tags=["claims"]
cost = {
    zeros: metrics.paired_bootstrap(baseline, right(f"gradual {zeros}"))
    for zeros in (80, 90, 95)
}
assert [round(cost[zeros].difference, 1) for zeros in (80, 90)] == [-0.2, -0.5]
assert cost[90].difference >= -0.5, "90 % zeros cost at most half a point"
assert cost[80].high > 0 > cost[90].high and cost[95].difference < -1
assert patient["baseline"].low < 0 < patient["baseline"].high, "no loss to be told"
assert round(patient["control of eighteen"].difference, 1) == -0.2
assert patient["control of eighteen"].high > 0, "just within noise"
assert lottery["rewound"] > lottery["dense"] - 0.3, "rewinding works"
assert lottery["new weights"] < lottery["rewound"] - 0.8, "new weights do not"
assert abs(schedules.difference) < 0.3, "gradual is no better than one shot"
at_90 = {r.settings["variant"]: r.accuracy for r in records if r.seed == 0}
one_shot = {n: at_90[f"one-shot {n} 90"] for n in ("magnitude", "Taylor", "SNIP")}
assert max(one_shot, key=one_shot.get) == "magnitude"
assert at_90["one-shot random 90"] < min(one_shot.values()) - 3
assert at_90["layer-wise 90"] < at_90["gradual 90"] - 1
student = report.summarize(
    [r for r in report.load_records("baselines") if r.model == "student"]
)[0]
sparse = {row.settings["variant"]: row for row in rows}
assert (student.nonzeros, round(student.accuracy, 1)) == (54_346, 93.3)
for zeros, left, percent in ((90, 71_629, 93.6), (95, 36_940, 92.8)):
    row = sparse[f"gradual {zeros}"]
    assert (row.nonzeros, round(row.accuracy, 1)) == (left, percent)

# %% [markdown]
# ## Your turn
#
# Write the cubic schedule of {eq}`eq-cubic`: the sparsity at step `j` of `steps`, from
# `initial` to `final`. After the last of these steps it stays at `final`. Replace the `...`
# and run the cell.


# %%
def sparsity_at(j, steps, initial, final):
    return ...


pruning_weights.cubic(sparsity_at)

# %% [markdown]
# ## Summary
#
# A score is a guess at {eq}`eq-taylor`, and for a trained network magnitude is a good
# one. One threshold for all layers spares the layers that need it. Masks hold if the
# network computes with them; an optimizer alone brings zeros back. Most weights can go
# if the network is trained on, and the loss has to be measured against a
# dense network that was trained on as well. So far nothing is smaller or faster.
#
# ## Check yourself
#
# ```{exercise}
# :label: ex-magnitude-square
# A library offers "L1 pruning" and "L2 pruning" of single weights. When do their masks
# differ?
# ```
#
# ```{solution} ex-magnitude-square
# :class: dropdown
# Never: $|w|$ and $w^2$ rank single weights alike. They differ for whole filters, where
# the norms are sums.
# ```
#
# ```{exercise}
# :label: ex-magnitude-control
# After pruning to 50 % and five epochs of fine-tuning a network is 0.3 points *better*
# than before. Did pruning help?
# ```
#
# ```{solution} ex-magnitude-control
# :class: dropdown
# It cannot be said without the control: the dense network after the same five epochs.
# And 0.3 points on 10,000 images is within the interval of a single run: compare paired,
# over several seeds.
# ```
#
# ```{exercise}
# :label: ex-magnitude-adam
# Gradients of pruned weights are set to zero before each step of Adam with weight decay
# (not decoupled, added to the gradient). Do the zeros stay?
# ```
#
# ```{solution} ex-magnitude-adam
# :class: dropdown
# A weight that is exactly zero has no decay, and its gradient is zero; but Adam's running
# mean still holds gradients from before the pruning, so the next steps move it. With
# fresh optimizer states the zeros stay. A mask in the forward pass does not depend on any of this.
# ```
#
# ```{exercise}
# :label: ex-magnitude-collapse
# Why does global magnitude pruning empty the last stage of ResNet-14 first?
# ```
#
# ```{solution} ex-magnitude-collapse
# :class: dropdown
# Its weights are the smallest: they began with the standard deviation
# $\sqrt{2 / (C_\text{out} k^2)}$, which is smallest where there are the most channels. One
# threshold for all layers therefore takes most there.
# ```
#
# ## Where next
#
# - [Assignment: pruning](../../assignments/release/pruning/pruning.ipynb): masks, a budget, and an experiment that reports too much.
# - Next lesson: whole filters, so that tensors get smaller for real.
# - {cite:t}`frankle2019lottery` for the question, {cite:t}`blalock2020state` for how
#   badly pruning papers can be compared, and why.
