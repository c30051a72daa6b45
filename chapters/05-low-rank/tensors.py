# %% [markdown]
# # Kernels as tensors, and a rank for every layer
#
# A kernel has four axes; why flatten it? And with a method for each layer, which rank does
# each layer get? This lesson makes one network of half the MACs out of sixteen decisions, and
# asks a clock whether it was worth it.
#
# **You will**
#
# - decompose a kernel by Tucker-2 (HOSVD, HOOI) and by CP (alternating least squares), and
#   turn both into stacks of convolutions;
# - see CP become unstable, and know how to notice it;
# - choose ranks by energy, by variational Bayes, and by validation under a budget of MACs;
# - fine-tune, and then prune and quantize the factors;
# - measure what thin layers really save in time.
#
# **You need** [Layers as matrices](matrices.ipynb),
# [Pruning channels](../02-pruning/structured.ipynb),
# [Accuracy](../01-measuring/accuracy.ipynb) and [Latency](../01-measuring/latency.ipynb). Symbols are on the
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
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tensorly
import torch
import torch.nn.functional as F
import torchvision
from tensorly.decomposition import parafac, partial_tucker
from torch import nn

from slimcnn import (
    checkpoints,
    data,
    latency,
    lowrank,
    metrics,
    plotting,
    pruning,
    report,
    sparsity,
    training,
)
from slimcnn.budget import Option, choose
from slimcnn.checks import low_rank

plotting.use_style()
_ = torch.manual_seed(0)

# %% [markdown]
# ## Measure first
#
# The trained ResNet-14, and the layer that serves as the example: the last convolution, with a
# fifth of all weights.

# %%
dense = checkpoints.load("resnet14")
validation, image = data.load("validation").subset(500), torch.zeros(1, 1, 28, 28)
conv = dense.stage3[1].conv2
kernel = conv.weight.detach()  # (128, 128, 3, 3)


def accuracy(model):
    return training.evaluate(model, validation)


share = kernel.numel() / metrics.count_parameters(dense)
print(f"{kernel.numel():,} weights, {100 * share:.0f} % of the network", end=", ")
print(f"{metrics.count_macs(dense):,} MACs, {accuracy(dense):.1f} %")

# %% [markdown]
# ## The idea
#
# ### Tucker-2
#
# Take fewer channels *on both sides*. A kernel of low rank along its output axis and along its
# input axis is a small core kernel $\mathbf{C}$ between two mixtures of channels:
#
# $$
# W_{oiyx} \approx \sum_{a=1}^{r_\text{out}} \sum_{b=1}^{r_\text{in}}
#   A_{oa}\, C_{abyx}\, B_{ib} .
# $$ (eq-tucker)
#
# The sums over $i$, over $b$ and the patch, and over $a$ are three convolutions: 1×1 from
# $C_\text{in}$ to $r_\text{in}$ channels, $k_h \times k_w$ from $r_\text{in}$ to
# $r_\text{out}$, 1×1 to $C_\text{out}$ {cite:p}`kim2016compression`. The spatial axes are too
# short to be worth a factor.
#
# How to find it? If $\mathbf{A}$ and $\mathbf{B}$ have orthonormal columns, the best core is
# the kernel projected on both, and the error is what the projection loses,
#
# $$
# C_{abyx} = \sum_{o, i} A_{oa}\, B_{ib}\, W_{oiyx} ,
# \qquad
# \lVert \mathbf{W} - \hat{\mathbf W} \rVert_2^2
#   = \lVert \mathbf{W} \rVert_2^2 - \lVert \mathbf{C} \rVert_2^2 ,
# $$ (eq-tucker-loss)
#
# so the largest core is the best. **HOSVD** (higher-order SVD, {cite:t}`delathauwer2000multilinear`)
# takes the first left singular vectors of the kernel flattened by outputs, and those of the kernel
# flattened by inputs. Each is the best by itself, not both together. **HOOI** (higher-order
# orthogonal iteration) improves on that:
# project on $\mathbf{B}$, then find the best $\mathbf{A}$ for what is left; project on
# $\mathbf{A}$, find the best $\mathbf{B}$; repeat. Each step solves its half of the problem
# exactly, so the error cannot rise.
#
# ### CP
#
# Go further: let no two components mix. The *canonical polyadic* decomposition (CP) writes the
# kernel as a sum of $R$ outer products {cite:p}`kolda2009tensor`. (An outer product $\mathbf{a}
# \circ \mathbf{b} \circ \mathbf{d}$ has the entries $a_o b_i d_p$.) With the two axes of the patch
# as one,
#
# $$
# W_{oip} \approx \sum_{q=1}^{R} A_{oq}\, B_{iq}\, D_{pq} ,
# $$ (eq-cp)
#
# which is a 1×1 convolution to $R$ channels, a *depthwise* convolution, and a 1×1 convolution
# back: its last two layers are a block of the student without batch norms and ReLUs, found by algebra. ({cite:t}`lebedev2015speeding`
# split the patch as well, into columns and rows. A kernel of rank $R$ in their sense has it in
# ours.) It has only $R\,(C_\text{in} + k_h k_w + C_\text{out})$ weights.
#
# For CP there is no SVD. Fix $\mathbf{B}$ and $\mathbf{D}$: what is left is a linear least
# squares problem for $\mathbf{A}$. Flatten the kernel by outputs, $\mathbf{W}_{(o)}$, and let
# $\mathbf{K}$ have the columns $\mathbf{b}_q \otimes \mathbf{d}_q$, all products of an entry of
# $\mathbf{b}_q$ and one of $\mathbf{d}_q$. Then $\mathbf{W}_{(o)}
# \approx \mathbf{A}\mathbf{K}^\top$ and
#
# $$
# \mathbf{A} = \mathbf{W}_{(o)} \mathbf{K}\, (\mathbf{K}^\top \mathbf{K})^{-1},
# \qquad
# \mathbf{K}^\top \mathbf{K} = (\mathbf{B}^\top \mathbf{B}) \odot
#   (\mathbf{D}^\top \mathbf{D}) ,
# $$ (eq-als)
#
# since the inner product of two outer products is the product of their inner products. Then the
# same for $\mathbf{B}$, for $\mathbf{D}$, and again: **alternating least squares** (ALS). The
# error cannot rise, but it may end in a *local* minimum or stall before one, so one begins from
# several starts.
#
# ## By hand
#
# A tensor of two slices, $\begin{pmatrix}1&0\\0&0\end{pmatrix}$ and
# $\begin{pmatrix}0&0\\0&1\end{pmatrix}$, is the sum of two outer products, $\mathbf{e}_1
# \circ \mathbf{e}_1 \circ \mathbf{e}_1 + \mathbf{e}_2 \circ \mathbf{e}_2 \circ
# \mathbf{e}_2$: its rank is two. What is the best one can do with rank one?

# %% tags=["nbval-check-output"]
tensor = torch.zeros(2, 2, 2)
tensor[0, 0, 0] = tensor[1, 1, 1] = 1
for rank in (1, 2):
    found = lowrank.cp(tensor, rank)
    print(f"rank {rank}: relative error {found.errors[-1]:.3f}")

# %% [markdown]
# One of the two ones can be had, the other is lost: $\sqrt{1/2} = 0.707$.
#
# ## From scratch
#
# Tucker-2, with zero or more rounds of HOOI:


# %%
def basis(matrix, rank):
    """The first left singular vectors."""
    return torch.linalg.svd(matrix, full_matrices=False).U[:, :rank]


# %% [markdown]
# Both bases, renewed in turn, each for what the other leaves:


# %%
def tucker2(w, r_out, r_in, rounds=0):
    """(O, I, kh, kw) -> core (r_out, r_in, kh, kw), (O, r_out), (I, r_in)."""
    a = basis(w.flatten(1), r_out)
    b = basis(w.transpose(0, 1).flatten(1), r_in)
    for _ in range(rounds):
        a = basis(torch.einsum("oiyx,ib->obyx", w, b).flatten(1), r_out)
        b = basis(torch.einsum("oiyx,oa->iayx", w, a).flatten(1), r_in)
    return torch.einsum("oiyx,oa,ib->abyx", w, a, b), a, b


# %% [markdown]
# What it loses, after so many rounds:


# %%
def loss(core):
    """Relative error; the factors are orthonormal, so lengths are kept."""
    return (1 - core.square().sum() / kernel.square().sum()).sqrt().item()


errors = [loss(tucker2(kernel, 48, 48, rounds)[0]) for rounds in (0, 1, 2, 5)]
print("relative error", [round(e, 4) for e in errors])

# %% [markdown]
# The first number is HOSVD. HOOI gains a little, in the first round mostly. The equality cell,
# with the package and with the three convolutions:

# %%
theirs = lowrank.tucker2(kernel, (48, 48))
assert abs(loss(tucker2(kernel, 48, 48, rounds=20)[0]) - loss(theirs.core)) < 1e-4
core, a, b = theirs
x = torch.randn(2, 128, 4, 4)
layers = lowrank.factorize_layer(conv, "tucker2", (48, 48))
by_hand = F.conv2d(x, b.T[:, :, None, None])
by_hand = F.conv2d(F.conv2d(by_hand, core, padding=1), a[:, :, None, None])
torch.testing.assert_close(layers(x), by_hand, atol=1e-4, rtol=1e-4)

# %% [markdown]
# And ALS. One function renews one factor, {eq}`eq-als`:


# %%
def renewed(unfolded, first, second):
    """Least squares for a factor; unfolded is (size, first * second)."""
    k = (first[:, None] * second[None]).flatten(0, 1)  # columns: outer products
    gram = (first.T @ first) * (second.T @ second)
    return torch.linalg.lstsq(gram, (unfolded @ k).T).solution.T


# %% [markdown]
# And one factor after the other:


# %%
def als(w, rank, sweeps, seed=0):
    """w (O, I, P) -> factors, and the relative error after each sweep."""
    generator = torch.Generator().manual_seed(seed)
    a, b, d = (torch.randn(n, rank, generator=generator).double() for n in w.shape)
    errors = []
    for _ in range(sweeps):
        a = renewed(w.flatten(1), b, d)
        b = renewed(w.transpose(0, 1).flatten(1), a, d)
        d = renewed(w.movedim(2, 0).flatten(1), a, b)
        rest = w - torch.einsum("oq,iq,pq->oip", a, b, d)
        errors.append((rest.norm() / w.norm()).item())
    return (a, b, d), errors


# %% [markdown]
# The test is a tensor whose rank we know, because we made it:

# %%
generator = torch.Generator().manual_seed(1)
made = [torch.randn(n, 4, generator=generator).double() for n in (12, 10, 9)]
known = torch.einsum("oq,iq,pq->oip", *made)
mine = min(als(known, 4, 200, seed)[1][-1] for seed in range(3))
package = lowrank.cp(known, 4)
print(
    f"rank 4, made of four: from scratch {mine:.1e}, slimcnn {package.errors[-1]:.1e}"
)
print(f"with three components: {lowrank.cp(known, 3).errors[-1]:.3f}")

# %% [markdown]
# The factors of {eq}`eq-cp` as three layers:


# %%
def cp_stack(a, b, d, side):
    """(O, R), (I, R), (side * side, R) -> 1×1, depthwise, 1×1."""
    rank = a.shape[1]
    first = nn.Conv2d(len(b), rank, 1, bias=False)
    middle = nn.Conv2d(rank, rank, side, padding=side // 2, groups=rank, bias=False)
    last = nn.Conv2d(rank, len(a), 1, bias=False)
    first.weight.data, last.weight.data = b.T[:, :, None, None], a[:, :, None, None]
    middle.weight.data = d.T.reshape(rank, 1, side, side)
    return nn.Sequential(first, middle, last)


# %% [markdown]
# They compute what the convolution computes whose kernel is made of them:

# %%
factors = [factor.float() for factor in made]  # 12 outputs, 10 inputs, 3×3 positions
x = torch.randn(2, 10, 7, 7)
convolved = F.conv2d(x, known.float().unflatten(2, (3, 3)), padding=1)
torch.testing.assert_close(cp_stack(*factors, 3)(x), convolved, atol=1e-3, rtol=1e-3)

# %% [markdown]
# ## On the network
#
# What does each method lose of our kernel, at the same number of weights?

# %%
weights = np.array([0.1, 0.2, 0.35, 0.5, 0.7])
curves = {m: [] for m in ("channel", "spatial", "tucker2", "cp")}
for method, found in curves.items():
    for fraction in weights:
        rank = lowrank.rank_at(conv, method, fraction)
        options = {"starts": 1, "iterations": 30} if method == "cp" else {}
        layers = lowrank.factorize_layer(conv, method, rank, **options)
        rest = layers.composed().detach() - kernel
        found.append((rest.norm() / kernel.norm()).item())

# %% [markdown]
# Lower is better; at the left there are few weights.

# %%
fig, ax = plt.subplots()
for (method, found), marker in zip(curves.items(), plotting.MARKERS, strict=False):
    ax.plot(100 * weights, found, marker=marker, label=method)
ax.set(xlabel="weights left (%)", ylabel="relative error of the kernel", ylim=(0, None))
_ = ax.legend()

# %% [markdown]
# CP loses least at every size, since it has no core to pay for. Tucker-2 loses less than the channel
# scheme, which forgets on one side only, where few weights are left. None of them is free: the kernel of a trained network has no exact low rank, so everything
# depends on *which* layer can bear what.
#
# ### Sixteen ranks
#
# Three ways to choose them. **Energy**: lose as little as can be of the kernels' squares, as
# {eq}`eq-eckart-young` measures it, each kernel's loss as a share of its own. **Variational Bayes** (EVBMF) asks of each matrix how many
# of its directions stand out of noise, and needs neither data nor a number from us
# {cite:p}`nakajima2013global`; it was proposed for Tucker-2 by {cite:t}`kim2016compression`.
# **Validation**: factorize one layer at a time at several ranks, and measure what the *network*
# loses. Then divide a budget of MACs so that the sum of these damages is smallest. That is a
# knapsack problem, one option for each layer, and a table solves it exactly (up to rounding):
# the least damage that can be had for the first $l$ layers at a cost of $c$ is the minimum over
# the options of layer $l$ of its damage plus the least damage for the first $l - 1$ layers at
# what is left,
#
# $$
# D_l(c) = \min_o \left[ d_{l,o} + D_{l-1}(c - c_{l,o}) \right] ,
# $$ (eq-knapsack)
#
# with damages $d_{l,o}$ and costs $c_{l,o}$ of the options $o$.


# %%
def knapsack(layers, budget):
    """Options (cost, damage) of each layer -> least damage, and the costs taken."""
    best = {0: (0.0, [])}  # spent -> damage, costs
    for options in layers:
        grown = {}
        for spent, (damage, taken) in best.items():
            for cost, harm in options:
                so_far = grown.get(spent + cost, (float("inf"),))[0]
                if spent + cost <= budget and damage + harm < so_far:
                    grown[spent + cost] = damage + harm, [*taken, cost]
        best = grown
    return min(best.values())


# %% [markdown]
# Two layers, three options each, a budget of 5, and the package's choice:

# %% tags=["nbval-check-output"]
toy = [[(4, 0.0), (2, 1.0), (1, 5.0)], [(4, 0.0), (3, 0.4), (1, 1.5)]]
damage, costs = knapsack(toy, 5)
options = {str(n): [Option(*o) for o in found] for n, found in enumerate(toy)}
assert costs == [toy[int(n)][i][0] for n, i in choose(options, 5).items()]
print(f"damage {damage:.1f} at costs {costs}")

# %% [markdown]
# The damages that we need are measured. What the network loses is noticed better by its loss than by
# a count of errors:


# %%
def quality(model):
    """Minus the validation loss, which notices more than the count of errors."""
    logits = training.predict(model, validation.images)
    return -F.cross_entropy(logits, validation.labels).item()


# %% [markdown]
# A scan of the layers, and plans by both damages:

# %%
methods = ("spatial", "svd")  # svd for the linear layer
scan = lowrank.layer_sensitivity(dense, (0.2, 0.4, 0.65), quality, methods=methods)
by_energy = lowrank.energy_damages(dense, methods)
plans = {
    "energy": lowrank.choose_ranks(dense, by_energy, budget=0.5),
    "validation": lowrank.choose_ranks(
        dense, lowrank.measured_damages(scan), budget=0.5
    ),
}

# %% [markdown]
# Which share of its weights does each layer keep? (Energy could choose among all ranks, and
# validation among the three that were measured, or the whole layer.)


# %%
def kept(plan, name):
    """Percent of a layer's weights that a plan leaves."""
    layer, choice = dense.get_submodule(name), plan.get(name)
    whole = sum(p.numel() for p in layer.parameters())
    left = lowrank.factorized_parameters(layer, *choice) if choice else whole
    return 100 * left / whole


# %% [markdown]
# A bar for each layer and plan:

# %%
names = list(scan)
fig, ax = plt.subplots(figsize=(6.4, 3.8))
for shift, (kind, plan) in zip((-0.2, 0.2), plans.items(), strict=True):
    rows = [row + shift for row in range(len(names))]
    ax.barh(rows, [kept(plan, name) for name in names], 0.4, label=kind)
ax.set(yticks=range(len(names)), yticklabels=names, xlabel="weights left (%)")
ax.invert_yaxis()
_ = ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)

# %% [markdown]
# Energy leaves the strided 3×3 layers of stages 2 and 3 whole and takes most from the last stage.
# Validation takes from these layers as well, and leaves `stage1.0.conv2` whole.
#
# Both plans have half of the MACs. How good are they before any training, on *other*
# validation images than those that chose?

# %%
whole = data.load("validation")
judges = data.Split("validation[2500:]", whole.images[2500:], whole.labels[2500:])
images, raw, networks = data.load("train").images[:1000], {}, {"dense": dense}
hits = {}
for kind, plan in plans.items():
    made = pruning.recalibrate(lowrank.factorize(dense, plan), images)
    hits[kind] = training.predict(made, judges.images).argmax(1) == judges.labels
    raw[kind], networks[kind] = 100 * hits[kind].double().mean().item(), made
    macs = metrics.count_macs(made) / metrics.count_macs(dense)
    print(f"{kind:11}{100 * macs:.1f} % of the MACs, {raw[kind]:.1f} %")
between = metrics.paired_bootstrap(hits["energy"][None], hits["validation"][None])
print(f"validation minus energy: {between}")

# %% [markdown]
# The plans differ, the accuracies do not: on this network the cheap rule does as well. Measuring on
# validation is still the safer way, since only it would have noticed if it did not.
#
# **Variational Bayes** has no budget. It takes the matrix, of size $m \times n$ with $m \le n$, for a
# product of two thin ones plus noise of variance $\eta^2$ in every entry, estimates $\eta^2$ from the
# spectrum, and keeps a direction if its singular value is large enough to stand out of such noise,
#
# $$
# \sigma_i^2 > n\, \eta^2\, (1 + \theta) \left( 1 + \frac{m}{n\,\theta} \right) ,
# $$ (eq-evbmf)
#
# where $\theta$ depends on $m / n$ alone. A matrix of rank five, hidden in more and more noise:

# %%
generator = torch.Generator().manual_seed(0)
planted = torch.randn(64, 5, generator=generator) @ torch.randn(
    5, 576, generator=generator
)
noise = torch.randn(64, 576, generator=generator)
ranks = {level: lowrank.evbmf_rank(planted + level * noise) for level in (1, 3, 8, 20)}
print("noise and the rank that is found:", ranks)

# %% [markdown]
# It finds the five until the noise hides them. What does it say of the layers, as pairs of ranks for
# Tucker-2?

# %%
for name in ("stage1.1.conv2", "stage2.1.conv2", "stage3.1.conv2", "fc"):
    layer, method = dense.get_submodule(name), "svd" if name == "fc" else "tucker2"
    bayes = lowrank.rank_by(layer, method, lowrank.evbmf_rank)
    print(f"{name}: {bayes} of {lowrank.largest_rank(layer, method)}")

# %% [markdown]
# About a third of the directions, and for the classifier *none*, of which `rank_by` makes one: ten
# classes on a line. Its working directions are so similar in strength that even the largest does not
# stand out of the rest, and without a gap this method sees only noise. It asks which directions stand
# out, not which the network needs. What becomes of it is in the table below.

# %% [markdown]
# ### Fine-tuned
#
# The long runs, made by `scripts/sweep_lowrank.py`: factorized by validation under a budget,
# then six epochs, as the pruned networks of chapter 2 had them. Three seeds at half of the MACs
# for three methods, one (n = 1) elsewhere, on the test set:

# %%
by = ("model", "technique", "settings.variant")
records = report.load_records("lowrank")
known = report.load_records("pruning")
known = [
    r for r in known if r.settings["variant"] in ("dense control", "channels L1 50")
]
rows = report.summarize([*known, *records], by=by)
columns = ["settings.variant", "accuracy", "nonzeros", "macs", "bytes"]
report.table(rows, columns=columns)

# %% [markdown]
# Against structured pruning at the same MACs, and against the baseline, image by image over
# three seeds (factorized minus the other, so that negative means lost):

# %%
labels = data.load("test").labels


def right(name, variant):
    """Correct or not, for each seed and test image."""
    return report.load_predictions(name, variant) == labels


# %% [markdown]
# Against the baseline, and against pruned channels of as many MACs:

# %%
baseline = checkpoints.predictions("resnet14") == labels
channels, lost = right("pruning", "channels L1 50"), {}
for name in ("spatial", "channel, data-aware", "Tucker-2"):
    found = right("lowrank", f"{name} 50")
    lost[name] = metrics.paired_bootstrap(baseline, found)
    against = metrics.paired_bootstrap(channels, found)
    print(f"{name:20} against the baseline {lost[name]}")
    print(f"{'':20} against pruning      {against}")
    assert against.low < 0 < against.high, "no difference to be told"

# %% [markdown]
# And against the dense network that had the same six epochs:

# %%
control = right("pruning", "dense control")
for name in lost:
    found = metrics.paired_bootstrap(control, right("lowrank", f"{name} 50"))
    print(f"{name:20} against the dense control {found}")
    assert found.high < 0, "a small loss, and a real one"

# %% [markdown]
# Half of the MACs cost the spatial scheme three tenths of a point, the other two four. Against
# the network of as many MACs whose channels were pruned, no difference can be told. Two ways to
# save the same arithmetic, and the accuracy does not choose between them; the clock will.
#
# What did the six epochs do? Validation accuracy of seed 0, before any training (batch norms
# measured anew) and after it:

# %%
dense_on_validation = training.evaluate(dense, whole)
print(f"dense {dense_on_validation:.2f} %")
change = {}
for r in records:
    if r.seed == 0 and "before_fine_tuning" in r.settings:
        name = r.settings["variant"]
        change[name] = (
            r.settings["before_fine_tuning"],
            r.settings["validation_accuracy"],
        )
        share = 100 * r.macs / metrics.count_macs(dense)
        print(f"{name:24}{share:4.0f} % of the MACs", end=", ")
        print("{:.2f} -> {:.2f} %".format(*change[name]))

# %% [markdown]
# A plan breaks little: at half of the MACs all these networks are within a point and a half of the
# dense one before they are trained at all, where pruned channels, measured in the same way in chapter
# 2, had lost seven points and more. (Layers that suffer are left alone, and no channel disappears that
# another layer reads.) So there is little to mend, and little between the methods: neither ranks by
# validation over ranks by energy nor data-aware over plain factors show a lead after training. The
# ranks by variational Bayes come back to two thirds of the images, no more, with the classifier on
# its line; with the classifier left whole the same ranks are another network. And CP stands out: factorized it is the best of all with half of the MACs, and training makes it *worse*. The
# rate of the fine-tuning was chosen for pruned networks. Below is a reason why CP may not bear it.
#
# The figure that every chapter ends with, of three methods at three budgets:

# %%
compared = ("spatial", "channel, data-aware", "Tucker-2")
shown = ["dense control", "channels L1 50"]
shown += [f"{method} {budget}" for method in compared for budget in (75, 50, 35)]
chosen = [row for row in rows if row.settings["variant"] in shown]
report.tradeoff(chosen, cost="macs", label=lambda row: row.settings["variant"])

# %% [markdown]
# ### Factors, quantized and pruned
#
# The factors are ordinary weights, so everything else still applies to them. Eight bits in place
# of 32, the crude way: one scale for each tensor (chapter 6 does it with care).


# %%
def in_eight_bits(model):
    """Bytes of the numbers alone (a file adds names); the network, rounded."""
    state, size = model.state_dict(), 0
    for name, tensor in state.items():
        if tensor.ndim > 1:
            scale = tensor.abs().max() / 127
            number = (tensor / scale).round().to(torch.int8)
            size += len(sparsity.encode(number, "dense")) + 4
            state[name] = number * scale
        elif tensor.ndim:
            size += len(sparsity.encode(tensor, "dense"))
    made = lowrank.factorize(dense, plans["validation"])
    made.load_state_dict(state)
    return size, made


# %% [markdown]
# The factorized network in 8 bits, bytes and accuracy:

# %%
size, rounded = in_eight_bits(networks["validation"])
crude = training.evaluate(rounded.eval(), judges)
print(
    f"{metrics.saved_bytes(dense):,} -> {metrics.saved_bytes(networks['validation']):,}"
)
print(f"-> {size:,} bytes in 8 bits, {raw['validation']:.1f} -> {crude:.1f} %")

# %% [markdown]
# Half of the MACs, and a ninth of the bytes or less: what eight bits save and what the ranks save
# multiplies. And half of the factors' weights, pruned
# while they were fine-tuned, are not missed: the row "half pruned" of the table has a fifth of the
# network's weights, and on its one seed no difference from the same network unpruned can be told.
#
# ## Why it works, when it does not
#
# **Fewer MACs, more time.** The clock, in ONNX Runtime, for the dense network, both plans, and
# Tucker-2 at half of the weights of each layer:

# %%
plan = {
    n: lowrank.Choice("tucker2", lowrank.rank_at(m, "tucker2", 0.5))
    for n, m in lowrank.candidates(dense, ("tucker2",)).items()
    if m.kernel_size == (3, 3) and n != "conv"
}
networks["Tucker-2"] = lowrank.factorize(dense, plan)

# %% [markdown]
# All networks in the same rounds:

# %%
runs = {name: latency.onnxruntime(model, image) for name, model in networks.items()}
timed = latency.measure(runs, rounds=60)
for name, model in networks.items():
    share = metrics.count_macs(model) / metrics.count_macs(dense)
    gain = timed["dense"].median / timed[name].median
    print(f"{name:11}{100 * share:4.0f} % of the MACs, {gain:.2f} times as fast")

# %% [markdown]
# The gain in time is far from the gain in MACs. Each layer became two or three calls, with maps
# that must be written and read between them, and the ranks are mostly no multiples of a vector
# register's width, which chapter 2 found to be slow.
# Structured pruning has none of the first trouble, and avoids the second by multiples of 8.
# The finalists, all in the same rounds on a quiet machine, by `scripts/measure_latency.py lowrank`:

# %%
finalists = report.load_records("lowrank-latency")
medians = {r.settings["variant"]: r.latency.median_ms for r in finalists}
speedup = {name: medians["dense"] / median for name, median in medians.items()}
for r in sorted(finalists, key=lambda r: medians[r.settings["variant"]]):
    name, share = r.settings["variant"], 100 * r.macs / metrics.count_macs(dense)
    print(f"{name:26}{share:4.0f} % of the MACs, {speedup[name]:.2f} times as fast")

# %% [markdown]
# Half of the MACs as fewer channels make the network about 1.5 times as fast; as two thin layers they
# are worth a fifth at best, and with the input scheme nothing. CP, with half of the MACs, takes almost
# *twice* the time of the dense network. (Its middle layers are depthwise; chapter 1 shows how few MACs
# a second such layers reach.) The three methods with three seeds were as accurate as the pruned
# network, CP was not. So at half of the MACs, on this processor and for this network, channels are the
# better cut: as accurate, faster, and the smaller file. Low rank needs no knowledge of which layers
# are tied, breaks less before training, and may do better where layers are wide; that we have not
# measured.
#
# **CP without a best answer.** The set of tensors of rank at most $R$ is not closed: a sequence
# of them can come nearer and nearer to a tensor of higher rank while its components grow without
# bound and cancel each other {cite:p}`desilva2008tensor`. The smallest example is
#
# $$
# \mathbf{e}_1\circ\mathbf{e}_1\circ\mathbf{e}_2 \;+\;
# \mathbf{e}_1\circ\mathbf{e}_2\circ\mathbf{e}_1 \;+\;
# \mathbf{e}_2\circ\mathbf{e}_1\circ\mathbf{e}_1 ,
# $$ (eq-stubborn)
#
# of rank three. The difference of two outer products, $n\,(\mathbf{e}_1 + \tfrac1n
# \mathbf{e}_2)^{\circ 3} - n\,\mathbf{e}_1^{\circ 3}$, where $\mathbf{v}^{\circ 3}$ is $\mathbf{v} \circ
# \mathbf{v} \circ \mathbf{v}$, comes as near to it as you like for a large $n$: multiply it out.

# %%
e = torch.eye(2, dtype=torch.float64)
stubborn = (
    torch.einsum("i,j,k->ijk", e[0], e[0], e[1])
    + torch.einsum("i,j,k->ijk", e[0], e[1], e[0])
    + torch.einsum("i,j,k->ijk", e[1], e[0], e[0])
)  # rank 3
for sweeps in (10, 100, 1000):
    grown = lowrank.cp(stubborn, 2, starts=3, iterations=sweeps, tolerance=1e-14)
    print(
        f"{len(grown.errors):5} sweeps: error {grown.errors[-1]:.4f}, components"
        f" {grown.degeneracy:.0f} times the tensor"
    )

# %% [markdown]
# The error creeps towards zero, which it can never reach at rank two, and the two components
# grow: almost opposite, ever larger. `degeneracy` in what `cp` returns tells: it is the sum of the components' norms in units of the tensor's norm. Without any
# cancellation it is at most $\sqrt{R}$; far above that, components fight. Stop early, or take fewer
# components, or another method. (Why three starts? The usual one, the leading singular vectors, is a
# point from which no step of ALS leads down for this tensor.) And two kernels of our network, at half
# of their weights:

# %%
tired = {}
for name in ("stage1.1.conv2", "stage2.1.conv2"):
    layer = dense.get_submodule(name)
    rank = lowrank.rank_at(layer, "cp", 0.5)
    made = lowrank.cp(layer.weight.detach().flatten(2), rank, iterations=30)
    tired[name] = made.degeneracy / rank**0.5
    print(
        f"{name}: {made.degeneracy:.0f}; without cancellation at most {rank**0.5:.1f}"
    )

# %% [markdown]
# They are on the way: their components are larger than a sum without cancellation allows. A difference
# of two large components loses digits, and a gradient step that is small for one of them is large for
# the sum. That is a reason for the loss of CP in fine-tuning, not a proof: a smaller rate was not tried.
#
# ### Find the bug
#
# Somebody has "compressed a network by SVD to rank 200": every 128×128 layer became a pair of
# 128×200 and 200×128, and the accuracy did not suffer. What is wrong?

# %% tags=["nbval-check-output"]
print(f"one layer {128 * 128:,} weights; two layers {128 * 200 + 200 * 128:,}")
print("break-even rank", (128 * 128 - 1) // (128 + 128))

# %% [markdown]
# A matrix of 128 rows has no rank above 128, and from 64 on there is nothing to save. No wonder
# that the accuracy did not suffer. `factorize_layer` refuses such a rank and names the largest.
#
# ## What practitioners use
#
# TensorLy {cite:p}`kossaifi2019tensorly` decomposes tensors of any shape, on several backends. It
# gives factors, not layers. The same kernel, the same ranks:

# %%
tensorly.set_backend("pytorch")
(core, _), _ = partial_tucker(
    kernel.double(), rank=[48, 48], modes=[0, 1], n_iter_max=50
)
print(f"Tucker-2: TensorLy {loss(core):.4f}, slimcnn {loss(theirs.core):.4f}")

# %% [markdown]
# CP, by both:

# %%
small = dense.stage1[1].conv2.weight.detach().flatten(2).double()  # (32, 32, 9)
cp_theirs = parafac(small, rank=24, n_iter_max=100, init="random", random_state=0)
rest = small - tensorly.cp_to_tensor(cp_theirs)
cp_ours = lowrank.cp(small, 24, iterations=100)
theirs_error = (rest.norm() / small.norm()).item()
print(f"CP: TensorLy {theirs_error:.4f}, slimcnn {cp_ours.errors[-1]:.4f}")

# %% [markdown]
# A network that is not ours: torchvision's ResNet-18 on color images of 64×64, its convolutions
# by Tucker-2 under a budget of half of its MACs. (Random weights: a plan by energy is all that
# makes sense.)

# %%
foreign, shape = torchvision.models.resnet18(weights=None).eval(), (1, 3, 64, 64)
energies = lowrank.energy_damages(foreign, ("tucker2",))
plan = lowrank.choose_ranks(foreign, energies, budget=0.5, input_shape=shape)
made = lowrank.factorize(foreign, plan)

# %% [markdown]
# Saved, loaded, and the same:

# %%
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "resnet18.safetensors"
    lowrank.save_factorized(made, path)
    again = lowrank.load_factorized(foreign, path)
photo = torch.randn(2, 3, 64, 64)
with torch.no_grad():
    assert torch.equal(again(photo), made.eval()(photo))
share = metrics.count_macs(made, shape) / metrics.count_macs(foreign, shape)
print(f"{len(plan)} layers factorized, {100 * share:.1f} % of the MACs")

# %% [markdown]
# ```{admonition} What changes at ImageNet scale
# :class: note
# Layers have 256 to 2,048 channels, so thin layers are still wide enough for a kernel to be
# efficient, and memory traffic matters more. {cite:t}`kim2016compression` report for VGG-16 on
# a phone's GPU 4.9 times fewer multiply–adds and 3.3 times less time at 0.5 points of top-5
# accuracy, after fine-tuning.
# ```
#
# ## Paper and us
#
# | | reports | we measured |
# |---|---|---|
# | {cite:t}`kim2016compression`, VGG-16 | 4.9 times fewer multiply–adds, 0.5 points of top-5 | half of the MACs: the intervals above |
# | {cite:t}`lebedev2015speeding`, AlexNet | the second layer by CP, 4 times faster at one point of top-5 | CP in the table, one seed |
#
# The claims of the text:

# %% tags=["claims"]
assert errors == sorted(errors, reverse=True), "HOOI never gets worse"
assert mine < 1e-3 and package.errors[-1] < 1e-3, "the known rank is found"
assert curves["tucker2"][0] < curves["channel"][0], "tensors lose less at few weights"
others = [curves[method] for method in ("channel", "spatial", "tucker2")]
assert all(cp < min(rest) for cp, *rest in zip(curves["cp"], *others, strict=True))
assert between.low < 0 < between.high, "the plans' accuracies do not differ"
strided = "stage2.0.conv1", "stage3.0.conv1"
assert {kept(plans["energy"], name) for name in strided} == {100}
assert max(kept(plans["validation"], name) for name in strided) < 100
assert kept(plans["validation"], "stage1.0.conv2") == 100
assert ranks[1] == 5 and ranks[20] == 0, "found, until the noise hides them"
assert lowrank.evbmf_rank(dense.fc.weight.detach()) == 0, "only noise"
assert grown.degeneracy > 5, "components grow"
assert min(tired.values()) > 1.5, "and those of our kernels have grown"
assert size < metrics.saved_bytes(dense) / 9 and crude > raw["validation"] - 1
assert 0.9 < theirs_error / cp_ours.errors[-1] < 1.2, "as good as TensorLy"

# %% [markdown]
# And those that the records have to bear out:

# %% tags=["claims"]
at_half = {name: round(found.difference, 1) for name, found in lost.items()}
assert at_half == {"spatial": -0.3, "channel, data-aware": -0.4, "Tucker-2": -0.4}
before = {name: pair[0] for name, pair in change.items() if " 50" in name}
assert max(before, key=before.get) == "CP 50", "factorized it is the best"
assert min(before.values()) > dense_on_validation - 1.5
assert change["CP 50"][1] < change["CP 50"][0] - 0.5, "and training makes it worse"
for plain, other in (
    ("spatial 50", "spatial 50, half pruned"),
    ("spatial 50", "spatial 50 by energy"),
    ("channel 50", "channel, data-aware 50"),
):
    pair = right("lowrank", plain)[:1], right("lowrank", other)[:1]
    no_lead = metrics.paired_bootstrap(*pair)
    assert no_lead.low < 0 < no_lead.high, "no difference after training"
(half,) = [r for r in records if r.settings["variant"] == "spatial 50, half pruned"]
assert round(half.nonzeros / metrics.count_parameters(dense), 1) == 0.2
assert speedup["channels L1 50"] > 1.4 > 1.25 > speedup["spatial 50"] > 1.1
size_of = {row.settings["variant"]: row.bytes for row in rows}
assert size_of["channels L1 50"] < min(size_of[f"{name} 50"] for name in lost)
no_equal = metrics.paired_bootstrap(channels[:1], right("lowrank", "CP 50"))
assert no_equal.high < 0, "CP is less accurate than pruned channels"
assert speedup["input 50"] < 1.05 and speedup["CP 50"] < 0.6, "fewer MACs, slower"
final = {r.settings["variant"]: r.accuracy for r in records if r.seed == 0}
assert round(final["Tucker-2 by EVBMF"] / 100, 2) == 0.68, "two thirds of the images"
assert final["Tucker-2 by EVBMF, convolutions"] > 91, "another network"

# %% [markdown]
# ## Your turn
#
# Write the weights of a layer in Tucker-2 and in CP: a function of the channels, the kernel's
# side and the ranks that returns both numbers. Replace the `...` and run the cell.


# %%
def tensor_weights(c_in, c_out, kernel, r_out, r_in, rank):
    return ...


low_rank.tensor_weights(tensor_weights)

# %% [markdown]
# ## Summary
#
# Tucker-2 takes fewer channels on both sides of a small core, and HOOI improves it step by step; CP is
# a depthwise separable layer with a linear middle, found by alternating least squares, and may have
# no best answer. Ranks for a whole network are a knapsack, filled by what each layer costs in
# validation. The factors are weights like others: they can be pruned and quantized. And every
# layer that becomes three is called three times, so MACs are not time.
#
# ## Check yourself
#
# ```{exercise}
# :label: ex-tensors-full
# At which ranks does Tucker-2 of a 3×3 layer with 64 inputs and outputs have as many weights as
# the layer, if both ranks are equal?
# ```
#
# ```{solution} ex-tensors-full
# :class: dropdown
# $9 r^2 + 128 r = 9 \cdot 64^2$, so $r = 57.3$: up to rank 57 of 64 it saves weights, as the
# channel scheme does ($36{,}864 / 640 = 57.6$).
# ```
#
# ```{exercise}
# :label: ex-tensors-order
# Where in the three layers does the stride belong, and why not into the first?
# ```
#
# ```{solution} ex-tensors-order
# :class: dropdown
# Into the middle one, which has the spatial kernel. A 1×1 layer with a stride would drop
# positions that the kernel still has to read. (The price: the first layer runs at full
# resolution.)
# ```
#
# ```{exercise}
# :label: ex-tensors-relu
# The student's blocks have a ReLU between depthwise and 1×1 layer, a CP layer has none. Which can
# compute more, and why is there none in CP?
# ```
#
# ```{solution} ex-tensors-relu
# :class: dropdown
# With the ReLU it is no longer linear, so it can compute what no CP layer can. CP must have none, since
# it stands for one convolution. It may be added and fine-tuned, as an architecture of its own.
# ```
#
# ```{exercise}
# :label: ex-tensors-knapsack
# Sensitivities are measured one layer at a time and then added up. Which error does that make?
# ```
#
# ```{solution} ex-tensors-knapsack
# :class: dropdown
# It takes damages as independent. Errors of one layer are the inputs of the next, so together they
# may cost more than their sum, or less. The plan may still be a good one; its accuracy must be measured.
# ```
#
# ## Where next
#
# - [Assignment: low-rank](../../assignments/release/low-rank/low-rank.ipynb): factors, ranks under a budget, and layers that were never replaced.
# - [Next chapter](../06-quantization/integers.ipynb): fewer bits for every number, and for these
#   factors, too.
# - {cite:t}`kolda2009tensor`: the review of tensor decompositions, with all notation.
# - {cite:t}`lebedev2015speeding` for CP in networks and its troubles.
