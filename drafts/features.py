# %% [markdown]
# # Features, relations, and students that were pruned
#
# A teacher's last layer says what it thinks. Do its middle layers say how? This lesson adds
# four losses to the one of [soft targets](soft-targets.ipynb), and uses teachers for what the
# other chapters need: getting back what compression has cost.
#
# **You will**
#
# - tap a network in the middle, whatever its architecture, and know the trap in it;
# - derive and code hints, attention transfer, relational and decoupled distillation;
# - say what changes when the teacher is larger, or the student itself;
# - recover a pruned network with its dense ancestor as the teacher, and measure whether it
#   helped.
#
# **You need** [Soft targets](soft-targets.ipynb) and
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
import copy

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
import torchvision

from slimcnn import (
    checkpoints,
    data,
    distillation,
    metrics,
    plotting,
    report,
    training,
)
from slimcnn.checks import distilling
from slimcnn.training import Recipe

plotting.use_style()
_ = torch.manual_seed(0)

# %% [markdown]
# ## Measure first
#
# What soft targets alone have reached, from the records of the last lesson, on the test set:

# %%
records = report.load_records("distillation")
baseline = [r for r in records if r.settings["variant"] in ("alone", "soft targets")]
by = ("model", "technique", "settings.variant")
report.table(report.summarize(baseline, by=by))

# %% [markdown]
# ## The idea
#
# Between image and logits a network makes feature maps. Teacher and student make different
# ones, with other channels, and nobody says that channel 5 of one has anything to do with
# channel 5 of the other. Each method below is an answer to the question *what can be compared
# all the same*. Let $\mathbf{X}^\text{s}$ and $\mathbf{X}^\text{t}$ be maps of student and
# teacher with the same height and width.
#
# **Hints** (FitNets, {cite:t}`romero2015fitnets`) let a 1×1 convolution $r$, the *regressor*,
# predict the teacher's channels from the student's. It is trained along and thrown away. (In
# their paper the hint comes first and alone; here it stands beside the other losses.)
#
# $$
# \mathcal{L}_\text{hint} = \operatorname{mean}\,
#   \bigl( r(\mathbf{X}^\text{s}) - \mathbf{X}^\text{t} \bigr)^2 .
# $$ (eq-hint)
#
# **Attention transfer** {cite:p}`zagoruyko2017paying` forgets the channels and keeps *where*
# the network is active. The attention map is the mean of squares over channels, as one vector
# over all positions, scaled to length one:
#
# $$
# \mathbf{a} = \frac{\mathbf{u}}{\lVert \mathbf{u} \rVert_2}, \quad
# u_{hw} = \frac1C \sum_c X_{chw}^2,
# \qquad
# \mathcal{L}_\text{att} = \lVert \mathbf{a}^\text{s} - \mathbf{a}^\text{t} \rVert_2^2 .
# $$ (eq-attention)
#
# (Their paper has the length of the difference; their code, like ours, its square.)
#
# **Relational** distillation {cite:p}`park2019relational` compares no features at all, but how
# images lie to each other. With **embeddings** $\mathbf{e}_i$ of the images in a batch, in our
# networks the numbers after the pooling, it asks
# that distances, in units of their mean, and the angles of all triangles agree. Their loss is
# the mean of $\ell(d^\text{s} - d^\text{t})$ plus twice the mean of $\ell(c^\text{s} -
# c^\text{t})$, where $\ell(u)$ is $u^2 / 2$ up to 1 and $|u| - 1/2$ beyond (*smooth L1*), with
#
# $$
# d_{ij} = \frac{\lVert \mathbf{e}_i - \mathbf{e}_j \rVert}{\operatorname{mean}_{i<j}
#   \lVert \mathbf{e}_i - \mathbf{e}_j \rVert},
# \qquad
# c_{ijk} = \cos \angle(\mathbf{e}_i - \mathbf{e}_j,\; \mathbf{e}_k - \mathbf{e}_j) .
# $$ (eq-relation)
#
# **Decoupled** distillation {cite:p}`zhao2022decoupled` stays with the logits and splits the
# divergence of the last lesson. Let $y$ be the label, $p = p_y$, and $\hat p_k = p_k / (1 - p)$
# for the other classes, which sum to one; all probabilities are those at temperature $T$. Then
# $p_k = (1 - p)\, \hat p_k$, so the terms of the other classes are
#
# $$
# \sum_{k \ne y} p^\text{t}_k \log \frac{p^\text{t}_k}{p^\text{s}_k}
# = (1 - p^\text{t}) \Bigl( \log \frac{1 - p^\text{t}}{1 - p^\text{s}}
#   + \sum_{k \ne y} \hat p^\text{t}_k \log \frac{\hat p^\text{t}_k}{\hat p^\text{s}_k} \Bigr) ,
# $$
#
# and with the term of the label
#
# $$
# \text{KL} =
# \underbrace{p^\text{t} \log \frac{p^\text{t}}{p^\text{s}}
#   + (1 - p^\text{t}) \log \frac{1 - p^\text{t}}{1 - p^\text{s}}}_{\text{TCKD: the label, or not}}
# \;+\; (1 - p^\text{t})
# \underbrace{\sum_{k \ne y} \hat p^\text{t}_k \log
#   \frac{\hat p^\text{t}_k}{\hat p^\text{s}_k}}_{\text{NCKD: which other one}} .
# $$ (eq-decoupled)
#
# The second part is what a teacher knows and a label does not, and it is multiplied by
# $1 - p^\text{t}$: the surer the teacher, the quieter. Decoupled distillation gives the two
# parts weights of their own, $\alpha$ and $\beta$, which are no shares and need not sum to one.
# (TCKD and NCKD: target-class and non-target-class knowledge distillation.)
#
# ## By hand
#
# An image of two positions, and a map with two channels: $(1, 2)$ and $(2, 1)$. The means of
# squares are $u = (2.5, 2.5)$: both positions are equally busy, although the channels
# disagree. Another map, $(3, 0)$ and $(0, 0)$, has all its activity on the left.

# %% tags=["nbval-check-output"]
even = torch.tensor([[[[1.0, 2.0]], [[2.0, 1.0]]]])  # (1, 2, 1, 2)
left = torch.tensor([[[[3.0, 0.0]], [[0.0, 0.0]]]])
for name, x in (("even", even), ("left", left)):
    print(name, [round(a, 3) for a in distillation.attention_map(x)[0].tolist()])
print(f"attention loss {distillation.attention_loss(even, left):.3f}")

# %% [markdown]
# $(0.707, 0.707)$ against $(1, 0)$: the squared distance is $0.293^2 + 0.707^2 = 0.586$.
#
# And {eq}`eq-decoupled` on three classes. The teacher says 80, 15, 5 %, the student 60, 20,
# 20 %, and the label is the first class:

# %% tags=["nbval-check-output"]
p_t, p_s = torch.tensor([0.8, 0.15, 0.05]), torch.tensor([0.6, 0.2, 0.2])
whole = (p_t * (p_t / p_s).log()).sum()
first = 0.8 * torch.log(p_t[0] / p_s[0]) + 0.2 * torch.log(torch.tensor(0.2 / 0.4))
hat_t, hat_s = p_t[1:] / 0.2, p_s[1:] / 0.4
others = (hat_t * (hat_t / hat_s).log()).sum()
print(f"KL {whole:.4f} = TCKD {first:.4f} + 0.2 x NCKD {others:.4f}")
torch.testing.assert_close(whole, first + 0.2 * others)

# %% [markdown]
# ## From scratch
#
# First the taps. A forward hook hands us the output of a module; all that we need is its name.


# %%
def tap(model, name, found):
    """After each pass, found[name] is the output of the module of that name."""

    def keep(module, inputs, output):
        found[name] = output

    return model.get_submodule(name).register_forward_hook(keep)


# %% [markdown]
# There is a trap in it. We tap a batch norm, whose outputs are positive and negative:

# %%
teacher = checkpoints.load("resnet14-unsmoothed")
few = data.load("validation").subset(500)
images, found = data.normalize(few.images[:100]), {}
handle = tap(teacher, "stage2.0.bn1", found)
with torch.no_grad():
    teacher(images)
handle.remove()
with torch.no_grad(), distillation.tapped(teacher, ["stage2.0.bn1"]) as honest:
    teacher(images)
smallest = found["stage2.0.bn1"].min().item()
print(f"our tap: smallest value {smallest:.2f}", end="; ")
print(f"tapped: {honest['stage2.0.bn1'].min():.2f}")

# %% [markdown]
# Our tap saw no negative value. The ReLU behind the batch norm works *in place*: it writes
# over the very tensor that we have kept. `distillation.tapped` keeps copies, refuses a module
# that is used twice in a pass, and takes its hooks away again.
#
# The losses are short. A hint, whose regressor is any 1×1 convolution from the student's channels
# to the teacher's:


# %%
def hint_loss(x_s, x_t, regressor):
    """Maps (B, C, H, W) and (B, D, H, W)."""
    return (regressor(x_s) - x_t).square().mean()


# %% [markdown]
# Attention, distances and angles:


# %%
def attention_loss(x_s, x_t):
    """Maps (B, C, H, W) with the same H and W."""
    a_s, a_t = (F.normalize(x.square().mean(1).flatten(1)) for x in (x_s, x_t))
    return (a_s - a_t).square().sum(1).mean()


# %% [markdown]
# Of relations, first the distances of all pairs:


# %%
def distance_loss(e_s, e_t):
    """Embeddings (B, D) and (B, E)."""
    d_s, d_t = F.pdist(e_s), F.pdist(e_t)  # all pairs i < j
    return F.smooth_l1_loss(d_s / d_s.mean(), d_t / d_t.mean())


# %% [markdown]
# Then the angles of all triples:


# %%
def cosines(e):
    """[j, i, k]: cosine of the angle at image j."""
    rays = F.normalize(e[None] - e[:, None], dim=2)
    return rays @ rays.transpose(1, 2)


# %% [markdown]
# The equality cell:

# %%
x_s, x_t = torch.randn(4, 8, 5, 5), torch.randn(4, 3, 5, 5)
torch.testing.assert_close(
    attention_loss(x_s, x_t), distillation.attention_loss(x_s, x_t)
)
hints = distillation.Hints([("student", "teacher")], weight=1.0)
hints.build([x_s], [x_t])  # makes the regressor, 8 -> 3 channels
mine = hint_loss(x_s, x_t, hints.regressors[0])
torch.testing.assert_close(mine, hints([x_s], [x_t]))

# %% [markdown]
# The distances, on embeddings of different widths:

# %%
e_s, e_t = torch.randn(6, 8), torch.randn(6, 3)
torch.testing.assert_close(
    distance_loss(e_s, e_t), distillation.distance_loss(e_s, e_t)
)

# %% [markdown]
# And the angles, of three different images each:

# %%
j, i, k = torch.meshgrid(*[torch.arange(6)] * 3, indexing="ij")
triples = (i != j) & (j != k) & (i != k)  # three different images
angles = F.smooth_l1_loss(cosines(e_s)[triples], cosines(e_t)[triples])
torch.testing.assert_close(angles, distillation.angle_loss(e_s, e_t))

# %% [markdown]
# The decoupled loss in logits: "the label or not" is a softmax over two numbers, the label's
# logit and the log-sum-exp of all others; "which other one" is the softmax without the label.


# %%
def decoupled(z_s, z_t, labels, temperature, alpha, beta):
    """T squared times (alpha TCKD + beta NCKD); logits (B, K)."""
    others = torch.ones_like(z_s).scatter(1, labels[:, None], 0).bool()
    parts = []
    for z in (z_s / temperature, z_t / temperature):
        rest = z[others].view(len(z), -1)  # (B, K - 1)
        binary = torch.cat([z.gather(1, labels[:, None]), rest.logsumexp(1, True)], 1)
        parts.append((binary.log_softmax(1), rest.log_softmax(1)))
    target, which = (
        F.kl_div(s, t, reduction="batchmean", log_target=True)
        for s, t in zip(*parts, strict=True)
    )
    return temperature**2 * (alpha * target + beta * which)


# %% [markdown]
# Equal to the package's:

# %%
z_s, z_t, labels = torch.randn(6, 10), torch.randn(6, 10), torch.randint(10, (6,))
theirs = distillation.decoupled_loss(z_s, z_t, labels, 4.0, 1.0, 2.0)
torch.testing.assert_close(decoupled(z_s, z_t, labels, 4.0, 1.0, 2.0), theirs)

# %% [markdown]
# ## On the network
#
# Which maps shall be compared? The student has five blocks, the teacher three stages; we take three
# pairs at the same *depth*, from the first third to the last. (Where the sizes differ, the larger
# map is pooled to the smaller one. The section on hints below shows what happens if one goes by
# size instead.) What do the attention maps of the trained networks look like, in the middle?

# %%
student = checkpoints.load("student")
names = {"teacher": (teacher, "stage2"), "student": (student, "blocks.2")}
maps = {}
for who, (network, name) in names.items():
    with torch.no_grad(), distillation.tapped(network, [name]) as found:
        network(images)
    maps[who] = distillation.attention_map(found[name]).view(-1, 7, 7)

# %% [markdown]
# One image of each class:

# %%
shown = [(few.labels[:100] == k).nonzero()[0].item() for k in range(10)]
fig, axes = plt.subplots(3, 10, figsize=(7.2, 2.6))
for column, i in enumerate(shown):
    axes[0, column].imshow(few.images[i, 0], cmap="gray")
    axes[1, column].imshow(maps["teacher"][i])
    axes[2, column].imshow(maps["student"][i])
for ax, name in zip(axes[:, 0], ("image", "teacher", "student"), strict=True):
    ax.set_ylabel(name)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
    ax.grid(False)

# %% [markdown]
# Top to bottom: an image of each class, where the teacher is active, where the student is,
# bright for much. They were never asked to agree. One short epoch with attention transfer, to
# see how it is used; `distill` makes the regressors of hints itself, and the student that it
# returns is the plain student.

# %%
train = data.load("train").subset(8_000)
short = Recipe(epochs=1, lr=0.05, average=0.0)
pairs = [("blocks.1", "stage1"), ("blocks.2", "stage2"), ("blocks.4", "stage3")]
attention = distillation.AttentionTransfer(pairs, weight=10.0)

# %% [markdown]
# The distance of its maps from the teacher's, before and after:

# %%
apart = {"before": (maps["student"] - maps["teacher"]).flatten(1).norm(dim=1).mean()}
for name, features in (("soft targets alone", None), ("with attention", attention)):
    tuned, _ = distillation.distill(
        student, teacher, train, short, seed=0, features=features, progress=False
    )
    with torch.no_grad(), distillation.tapped(tuned, ["blocks.2"]) as found:
        tuned(images)
    found = distillation.attention_map(found["blocks.2"]).view(-1, 7, 7)
    apart[name] = (found - maps["teacher"]).flatten(1).norm(dim=1).mean()
for name, distance in apart.items():
    print(f"distance of the attention maps, {name:18} {distance:.3f}")

# %% [markdown]
# The long runs, fifteen epochs on all images. The feature losses stand beside the soft targets,
# so the question is what they *add*: attention with the weight 10, hints with 1, relations with 25,
# none of them tuned. Decoupled takes the place of the soft targets ($\alpha = 1$, $\beta = 2$, and
# the labels). Soft targets and attention have three seeds, the others one (n = 1):

# %%
ours = ("soft targets", "attention", "hints", "relations", "decoupled")
found = [r for r in records if r.settings["variant"] in ours]
report.table(report.summarize(found, by=by))

# %% [markdown]
# Attention against soft targets alone, image by image over three seeds:

# %%
labels = data.load("test").labels


def right(variant):
    """Correct or not, for each seed and test image."""
    return report.load_predictions("distillation", variant) == labels


# %% [markdown]
# What attention adds to soft targets, image by image:

# %%
added = metrics.paired_bootstrap(right("soft targets"), right("attention"))
print(f"attention - soft targets alone: {added}")

# %% [markdown]
# ### Other teachers
#
# **Itself.** In *born-again* training {cite:p}`furlanello2018born` teacher and student have
# the same architecture: the student that was trained alone teaches a new one. (Without label
# smoothing: as a smoothed teacher it would have nothing to tell.) **Larger.** A
# ResNet-14 of 1.5 times the width has more than twice the weights. (Ours had twelve epochs, the usual
# teacher thirty: only if the wider one is the better network is its size to blame.)
# A larger teacher is not always a better one: its answers may be too far from what the student
# can do {cite:p}`cho2019efficacy,mirzadeh2020improved`. One seed each:

# %%
for name in ("alone", "no smoothing", "itself", "soft targets", "wide teacher"):
    (found,) = [r for r in records if r.settings["variant"] == name and r.seed == 0]
    taught_by = found.settings.get("teacher", "labels only")
    its = found.settings.get("teacher_on_validation")
    itself = f", itself {its:.2f} % on validation" if its else ""
    print(f"{name:14}{found.accuracy:.2f} %, taught by {taught_by}{itself}")

# %% [markdown]
# ### Recovery
#
# A use that needs no new student: a network that was made smaller is a student that begins close to
# its teacher, a dense one of the same architecture. We train three of them on, with labels alone and
# with the teacher of this chapter: the 90 % sparse and the quarter-MAC network of chapter 2 for six
# epochs, and ResNet-14 with weights of two bits for three. (Two bits are four levels. The forward pass
# sees the rounded weights, the optimizer moves those behind them; chapter 6 has the details.)

# %%
pruned = {
    r.settings["variant"]: r.accuracy
    for r in report.load_records("pruning")
    if r.seed == 0
}
pruned_ones = ("gradual 90", "channels L1 25")
for start in pruned_ones:
    print(f"{start:34} {pruned[start]:.2f} % before")
recovery = [r for r in records if r.technique == "recovery"]
for record in recovery:
    print(f"{record.settings['variant']:34} {record.accuracy:.2f} %")

# %% [markdown]
# With a teacher less without, image by image. The last line is that of the smoothed network from
# which the small one came, as the teacher:

# %%
paired = {}
taught_ones = [f"{start}, with teacher" for start in (*pruned_ones, "2-bit weights")]
for name in (*taught_ones, "channels L1 25, with its ancestor"):
    alone = right(f"{name.rpartition(',')[0]}, without teacher")
    paired[name] = metrics.paired_bootstrap(alone, right(name))
    print(f"{name}: {paired[name]}")

# %% [markdown]
# The interval is that of one seed: it speaks of these networks, not of the recipe.
#
# ## Why it works, when it does not
#
# **A hint is a rope.** How well can the student's features predict the teacher's at all? We
# fit the best linear regressor at all positions of 500 images, by least squares, and look at
# the share of the variance that it explains.

# %%
tried = [*pairs, ("blocks.4", "stage2")]
images = data.normalize(few.images)
with (
    torch.no_grad(),
    distillation.tapped(student, [a for a, _ in tried]) as s,
    distillation.tapped(teacher, [b for _, b in tried]) as t,
):
    student(images), teacher(images)

# %% [markdown]
# A linear map from one to the other, at every place, by least squares:

# %%
share = {}
for a, b in tried:
    size = t[b].shape[2:]
    x = F.adaptive_avg_pool2d(s[a], size).movedim(1, -1).flatten(0, 2)
    y = t[b].movedim(1, -1).flatten(0, 2)
    x, y = x - x.mean(0), y - y.mean(0)
    rest = y - x @ torch.linalg.lstsq(x, y).solution
    share[a, b] = 1 - (rest.square().sum() / y.square().sum()).item()
    print(f"{a} explains {100 * share[a, b]:.0f} % of {b}")

# %% [markdown]
# The last pair has maps of the same *size*, 7×7, and explains least: the student's last block is
# about to decide, the teacher's second stage is still looking. Depth matters more. The rest cannot be had by any 1×1 regressor from the student as it is. A hint of which little
# can be explained pulls in a direction in which the student may not be able to go, so its weight
# has to be chosen with care.
#
# ### Find the bug
#
# A training script asks its teacher like this. The loss that follows is right. What is wrong?


# %%
def answers(teacher, images):
    with torch.no_grad():
        return teacher.train()(images)


# %% [markdown]
# Ask the teacher a few times, about pictures like its own, and about darker ones, and then measure
# *it*:

# %%
healthy, asked = training.evaluate(teacher, few), {}
for name, divisor in (("ordinary", 1), ("dark", 3)):
    spoiled = copy.deepcopy(teacher)
    for part in train.images[:2000].split(100):
        answers(spoiled, data.normalize(part // divisor))
    asked[name] = training.evaluate(spoiled, few)
    print(f"teacher {healthy:.1f} %, after {name} pictures {asked[name]:.1f} %")

# %% [markdown]
# `torch.no_grad` stops gradients. It does not stop batch norm in training mode from updating
# its running statistics. On pictures like its own these hardly move, so nobody notices; on others,
# from a new camera or without labels, the teacher becomes another network. And in both cases its
# answer to an image depends on the others in the batch. `distill` refuses such a teacher.
#
# ## What practitioners use
#
# torchdistill {cite:p}`matsubara2021torchdistill` has these losses, among many more, as
# configurations; it finds modules by their names, as our taps do. Taps do not care whose
# network it is. Torchvision's DenseNet-121 as the teacher of its MobileNetV2:

# %% tags=["nbval-check-output"]
photos = torch.randn(2, 3, 64, 64)
small = torchvision.models.mobilenet_v2(weights=None).eval()
big = torchvision.models.densenet121(weights=None).eval()
with (
    torch.no_grad(),
    distillation.tapped(small, ["features.6", "features.13"]) as s,
    distillation.tapped(big, ["features.transition1", "features.transition2"]) as t,
):
    small(photos), big(photos)
for (a, x), (b, y) in zip(s.items(), t.items(), strict=True):
    print(f"{a} {tuple(x.shape[1:])} - {b} {tuple(y.shape[1:])}")

# %% [markdown]
# ```{admonition} What changes at ImageNet scale
# :class: note
# Maps are larger, so that a position has a neighborhood and attention has something to say.
# {cite:t}`zhao2022decoupled` report 71.70 % for a ResNet-18 taught by a ResNet-34 with the
# decoupled loss, 70.66 % with plain soft targets, 69.75 % alone. Feature losses cost memory:
# the tapped maps of both networks are kept until the backward pass.
# ```
#
# ## Paper and us
#
# | | reports | we measured |
# |---|---|---|
# | {cite:t}`zagoruyko2017paying`, WRN-16-2 taught by WRN-40-2, CIFAR-10, test error | 6.31 % alone, 6.08 with soft targets, 5.85 with attention | the interval above |
# | {cite:t}`furlanello2018born`, born-again DenseNets on CIFAR | the student beats its equal teacher | "itself" against "alone", one seed |
#
# The claims of the text:

# %% tags=["claims"]
assert honest["stage2.0.bn1"].min() < -0.1, "the batch norm has negative outputs"
assert smallest >= 0, "and our tap does not see them"
assert apart["with attention"] < min(apart["before"], apart["soft targets alone"])
assert asked["dark"] < healthy - 2, "asking in training mode spoils the teacher"
assert asked["ordinary"] > healthy - 2, "but not where anybody would see it"
assert share["blocks.4", "stage3"] > share["blocks.4", "stage2"] + 0.1, (
    "depth, not size"
)

# %% [markdown]
# ## Your turn
#
# Write the attention map of {eq}`eq-attention`: from features (B, C, H, W) to (B, H·W), each
# row of length one. Replace the `...` and run the cell.


# %%
def attention_map(features):
    return ...


distilling.attention_map(attention_map)

# %% [markdown]
# ## Summary
#
# Teacher and student have no channels in common, so each method finds something else to
# compare: a regression, the place of the activity, distances and angles, or parts of the
# logits' divergence. Each has to show what it adds to plain soft targets. A teacher may be the
# student itself, or larger, or the dense ancestor of a pruned network. It must be in eval mode, and
# taps must copy.
#
# ## Check yourself
#
# ```{exercise}
# :label: ex-features-regressor
# The student's map has 64 channels, the teacher's 64 as well. Why does a hint still need a
# regressor?
# ```
#
# ```{solution} ex-features-regressor
# :class: dropdown
# Equal numbers do not mean equal meanings: the channels could be permuted, or any other mixture.
# Without a regressor the student would have to copy an arbitrary basis.
# ```
#
# ```{exercise}
# :label: ex-features-attention
# All channels of a map are multiplied by −2. What happens to the attention map?
# ```
#
# ```{solution} ex-features-attention
# :class: dropdown
# Nothing: squares forget the sign, and the scaling to length one forgets the factor.
# ```
#
# ```{exercise}
# :label: ex-features-decoupled
# The teacher is sure: $p^\text{t} = 0.99$. By how much is NCKD turned down in plain soft
# targets, and what does a higher temperature do to that?
# ```
#
# ```{solution} ex-features-decoupled
# :class: dropdown
# It is multiplied by 0.01. A higher temperature softens the teacher, so $1 - p^\text{t}$ grows:
# temperature and decoupling are two ways to hear the other classes.
# ```
#
# ```{exercise}
# :label: ex-features-recovery
# You fine-tune a pruned network with its dense ancestor as the teacher and gain 0.4 points over
# the pruned network. Which control is missing?
# ```
#
# ```{solution} ex-features-recovery
# :class: dropdown
# The same pruned network fine-tuned for as many steps on labels alone.
# ```
#
# ## Where next
#
# - [Next chapter](../05-low-rank/matrices.ipynb): weights as matrices and tensors of low rank.
# - {cite:t}`zagoruyko2017paying` for the pictures of what networks look at.
# - {cite:t}`mirzadeh2020improved`: what to do if the teacher is too far away.
