# %% [markdown]
# # Features, relations, and students that were pruned
#
# A teacher's last layer says what it thinks. Do its middle layers say how? This lesson tries to
# raise the accuracy that [soft targets](soft-targets.ipynb) have reached, by four more losses, and
# then uses teachers for what the other chapters need: getting back what compression has cost.
#
# **You will**
#
# - tap a network in the middle, whatever its architecture, and know the trap in it;
# - code hints, attention transfer, relational and decoupled distillation, and derive the last;
# - say what changes when the teacher is larger, or the student itself;
# - recover a pruned or a quantized network with a dense teacher, and measure whether the teacher
#   helped.
#
# **You need** [Soft targets](soft-targets.ipynb) and
# [Pruning channels](../02-pruning/structured.ipynb). Symbols are on the
# [notation page](../../book/notation.md).
#
# **Time** 40 minutes to read, half a minute to run on a CPU.

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
from itertools import product

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
columns = ("settings.variant", "accuracy")
report.table(report.summarize(baseline, by=by), columns)

# %% [markdown]
# ## The idea
#
# Between image and logits a network makes feature maps. Teacher and student make different
# ones, with other channels, and nobody says that channel 5 of one has anything to do with
# channel 5 of the other. Each method below is an answer to the question *what can be compared
# all the same*. Let $\mathbf{X}^\text{s}$ and $\mathbf{X}^\text{t}$ be maps of student and
# teacher with the same height and width. (Where they differ, the larger map is pooled first.)
#
# **Hints** (FitNets, {cite:t}`romero2015fitnets`) let a small convolution $r$, the *regressor*,
# predict the teacher's channels from the student's. It is trained with the student and thrown away.
# (Ours is 1×1, theirs has a kernel that makes the sizes meet. And there the hint comes first and
# alone; here it stands beside the other losses.)
#
# $$
# \mathcal{L}_\text{hint} = \operatorname{mean}\,
#   \bigl( r(\mathbf{X}^\text{s}) - \mathbf{X}^\text{t} \bigr)^2 .
# $$ (eq-hint)
#
# **Attention transfer** {cite:p}`zagoruyko2017paying` forgets the channels and keeps *where*
# the network is active. (It has nothing to do with the attention of transformers.) The attention
# map is the mean of squares over channels, as one vector over all positions, scaled to length one:
#
# $$
# \mathbf{a} = \frac{\mathbf{u}}{\lVert \mathbf{u} \rVert_2}, \quad
# u_{hw} = \frac1C \sum_c X_{chw}^2,
# \qquad
# \mathcal{L}_\text{att} = \lVert \mathbf{a}^\text{s} - \mathbf{a}^\text{t} \rVert_2^2 .
# $$ (eq-attention)
#
# (Their paper has the length of the difference, their code the square of each position's difference,
# averaged. Ours is summed over the positions, so a weight of theirs means another thing here.)
#
# **Relational** distillation {cite:p}`park2019relational` compares no features at all, but how
# images lie relative to each other. An **embedding** $\mathbf{e}_i$ is the vector that stands for
# image $i$, in our networks what the pooling gives. Distances between the images of a batch, in units
# of their mean, shall agree, and the angles of their triangles, too. The loss is the mean of
# $\ell(d^\text{s} - d^\text{t})$ plus twice the mean of $\ell(c^\text{s} - c^\text{t})$, where
# $\ell(u)$ is $u^2 / 2$ up to 1 and $|u| - 1/2$ beyond (*smooth L1*), with
#
# $$
# d_{ij} = \frac{\lVert \mathbf{e}_i - \mathbf{e}_j \rVert}{\operatorname{mean}_{i<j}
#   \lVert \mathbf{e}_i - \mathbf{e}_j \rVert},
# \qquad
# c_{ijk} = \cos \angle(\mathbf{e}_i - \mathbf{e}_j,\; \mathbf{e}_k - \mathbf{e}_j) .
# $$ (eq-relation)
#
# (Triangles grow as the cube of the batch; the package takes them in groups of at most 64 images.)
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
# $1 - p^\text{t}$: the surer the teacher, the quieter. (TCKD and NCKD: target-class and
# non-target-class knowledge distillation.) Decoupled distillation gives the two parts weights of
# their own, which are no shares and need not sum to one, and adds them to the cross-entropy of the
# labels:
#
# $$
# \mathcal{L} = T^2 (\alpha\, \text{TCKD} + \beta\, \text{NCKD}) + \mathcal{L}_\text{CE} .
# $$ (eq-decoupled-loss)
#
# How quiet does the factor make a teacher? Over 500 validation images:

# %%
teacher = checkpoints.load("resnet14-unsmoothed")
few = data.load("validation").subset(500)
answers = training.predict(teacher, few.images)
quiet = {}
for temperature in (1.0, 4.0):
    p = (answers / temperature).softmax(1).gather(1, few.labels[:, None])
    quiet[temperature] = (1 - p).median().item()
    print(f"T = {temperature:.0f}: median of 1 - p {quiet[temperature]:.4f}")

# %% [markdown]
# At $T = 1$ this teacher says next to nothing about other classes; the temperature alone turns it up
# more than a hundredfold.
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

# %%
assert abs(distillation.attention_loss(even, left) - 0.586) < 0.001

# %% [markdown]
# And {eq}`eq-decoupled` on three classes. The teacher says 80, 15, 5 %, the student 60, 20,
# 20 %, and the label is the first class:

# %% tags=["nbval-check-output"]
p_t, p_s = torch.tensor([0.8, 0.15, 0.05]), torch.tensor([0.6, 0.2, 0.2])
whole = (p_t * (p_t / p_s).log()).sum()
tckd = 0.8 * torch.log(p_t[0] / p_s[0]) + 0.2 * torch.log(torch.tensor(0.2 / 0.4))
hat_t, hat_s = p_t[1:] / 0.2, p_s[1:] / 0.4
nckd = (hat_t * (hat_t / hat_s).log()).sum()
print(f"KL {whole:.4f} = TCKD {tckd:.4f} + 0.2 x NCKD {nckd:.4f}")
torch.testing.assert_close(whole, tckd + 0.2 * nckd)

# %% [markdown]
# NCKD is the larger of the two and counts less than a quarter of the whole.
#
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
images, naive = data.normalize(few.images[:100]), {}
handle = tap(teacher, "stage2.0.bn1", naive)
with torch.no_grad():
    teacher(images)
handle.remove()
with torch.no_grad(), distillation.tapped(teacher, ["stage2.0.bn1"]) as honest:
    teacher(images)
smallest = naive["stage2.0.bn1"].min().item()
print(f"our tap: smallest value {smallest:.2f}", end="; ")
print(f"tapped: {honest['stage2.0.bn1'].min():.2f}")

# %% [markdown]
# Our tap saw no negative value. The ReLU behind the batch norm works *in place*: it writes
# over the very tensor that we have kept. `distillation.tapped` keeps copies, refuses a module
# that is used twice in a pass, and takes its hooks away again.
#
# The losses are short. A hint, whose regressor is any 1×1 convolution from the student's channels
# to the teacher's (`distill` makes it itself):


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
# Ours against the package's:

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
z_s, z_t, classes = torch.randn(6, 10), torch.randn(6, 10), torch.randint(10, (6,))
theirs = distillation.decoupled_loss(z_s, z_t, classes, 4.0, 1.0, 2.0)
torch.testing.assert_close(decoupled(z_s, z_t, classes, 4.0, 1.0, 2.0), theirs)

# %% [markdown]
# ## On the network
#
# Which maps should be compared? The student has five blocks, the teacher three stages; we take three
# pairs at the same *depth*, from the first third to the last. (In the last pair the student's 7×7
# positions are pooled to the teacher's 4×4. A section below asks what happens if one goes by size instead.) What do
# the attention maps of the trained networks look like, in the middle?

# %%
student = checkpoints.load("student")
names = {"teacher": (teacher, "stage2"), "student": (student, "blocks.2")}
maps = {}
for who, (network, name) in names.items():
    with torch.no_grad(), distillation.tapped(network, [name]) as middle:
        network(images)
    maps[who] = distillation.attention_map(middle[name]).view(-1, 7, 7)

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
# Top to bottom: an image of each class, where the teacher is active, where the student is; bright is
# much, within a map. They were never asked to agree. One short epoch with attention transfer, to
# see how it is used; the student that `distill` returns is the plain student.

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
    with torch.no_grad(), distillation.tapped(tuned, ["blocks.2"]) as middle:
        tuned(images)
    made = distillation.attention_map(middle["blocks.2"]).view(-1, 7, 7)
    apart[name] = (made - maps["teacher"]).flatten(1).norm(dim=1).mean()
for name, distance in apart.items():
    print(f"distance of the attention maps, {name:18} {distance:.3f}")

# %% [markdown]
# The long runs: fifteen epochs on all images, test set. The feature losses stand beside the soft
# targets, so the question is what they *add*: attention with the weight 10, hints with 1, relations
# with 25 (their paper's weight of distances; angles have twice that), none of them tuned by us.
# Decoupled takes the place of the soft targets, at the same temperature, with $\alpha = 1$ and
# $\beta = 2$; that also gives labels ten times their weight. Soft targets and attention have three seeds, the
# others one (n = 1):

# %%
ours = ("soft targets", "attention", "hints", "relations", "decoupled")
chosen = [r for r in records if r.settings["variant"] in ours]
report.table(
    report.summarize(chosen, by=by),
    columns,
    caption="What features add to soft targets.",
)

# %% [markdown]
# What does each add? Image by image on the test set, over the seeds that both have:

# %%
labels = data.load("test").labels


def right(variant):
    """Correct or not, for each seed and test image."""
    return report.load_predictions("distillation", variant) == labels


def difference(variant, control):
    """In points, over the seeds that both have."""
    a, b = right(control), right(variant)
    seeds = min(len(a), len(b))
    return metrics.paired_bootstrap(a[:seeds], b[:seeds])


# %% [markdown]
# Against soft targets alone:

# %%
added = {name: difference(name, "soft targets") for name in ours[1:]}
for name, gain in added.items():
    print(f"{name:10} - soft targets: {gain}")

# %% [markdown]
# Not one of the four has been shown to add anything here: every interval holds zero, that of attention
# after three seeds. What the maps could say is perhaps in the answers already. (No weight was tuned,
# and a choice on validation might find a little.) Before you take over a feature loss with its code and
# its memory, ask for such a line.
#
# ### Other teachers
#
# **Itself.** In *born-again* training {cite:p}`furlanello2018born` teacher and student have
# the same architecture: the student that was trained alone, here without label smoothing, teaches a
# new one. **Larger.** A ResNet-14 of 1.5 times the width has more than twice the weights. A
# larger teacher is not always a better one: its answers may be too far from what the student
# can do {cite:p}`cho2019efficacy`. One remedy is a *teacher assistant* of a size between both, taught
# by the one and teaching the other {cite:p}`mirzadeh2020improved`. (Ours had twelve epochs, the usual
# teacher thirty.) One seed each, test set:

# %%
seed_0 = {r.settings["variant"]: r for r in records if r.seed == 0}
for name in ("no smoothing", "itself", "soft targets", "wide teacher"):
    record = seed_0[name]
    taught_by = record.settings.get("teacher", "labels alone")
    print(f"{name:14}{record.accuracy:.2f} %, taught by {taught_by}", end="")
    its = record.settings.get("teacher_on_validation")
    print(f" ({its:.2f} % on validation)" if its else "")

# %% [markdown]
# Each against what it should be better than:

# %%
others = {
    "itself": difference("itself", "no smoothing"),
    "wide teacher": difference("wide teacher", "soft targets"),
}
print(f"itself - no smoothing:       {others['itself']}")
print(f"wide teacher - soft targets: {others['wide teacher']}")

# %% [markdown]
# As its own teacher the student brings nothing: the interval holds zero and leans to the wrong side. The
# student of the wide teacher is worse, and its interval excludes zero. But do not blame the width: after
# twelve epochs that teacher is the less accurate one on validation, too. Size and training cannot be
# told apart by this run; it shows no more than that a larger teacher is not a better one by itself.

# %% [markdown]
# ### Recovery
#
# A use that needs no new student: a network that was made smaller is a student that begins close to
# a teacher of its own architecture. We train three ResNet-14 on, with labels alone and with the teacher
# of this chapter, at its best $T = 4$: the 90 % sparse and the quarter-MAC network of chapter 2 for
# six epochs, and one whose weights have two bits for three. (Two bits are four levels; the first and
# the last layer and all activations keep eight. The forward pass sees rounded weights, and their
# gradients go to the real weights behind them, as if nothing had been rounded; chapter 6 has the
# details. That network is not trained before, so there is no accuracy to begin with.) Labels alone are
# smoothed, as in chapter 2; the lesson before found no difference. All on the test set, seed 0:

# %%
pruned = {
    r.settings["variant"]: r.accuracy
    for r in report.load_records("pruning")
    if r.seed == 0
}
pruned_ones = ("gradual 90", "channels L1 25")
for start in pruned_ones:
    print(f"{start:34} {pruned[start]:.2f} % before")
    longer = f"{start} longer"
    print(f"{longer:34} {pruned[longer]:.2f} % in chapter 2, 18 epochs")
for record in [r for r in records if r.technique == "recovery"]:
    print(f"{record.settings['variant']:34} {record.accuracy:.2f} %")

# %% [markdown]
# The difference that the teacher makes, image by image. The small network's own *ancestor* is the
# smoothed network from which it was made, at its best $T = 1$.

# %%
recovered = {}
for start, how in product(
    (*pruned_ones, "2-bit weights"), ("with teacher", "with its ancestor")
):
    name = f"{start}, {how}"
    recovered[start, how] = difference(name, f"{start}, without teacher")
    print(f"{name:34} {recovered[start, how]}")

# %% [markdown]
# One row is at chance: with the teacher at $T = 4$ the training of the two-bit network has *diverged*.
# Its learning rate was chosen for labels alone, and with two bits the steps between levels learn as well
# (chapter 6); with its ancestor it went well. We have not looked for a rate at which it would not
# diverge, so that this row is no verdict on teachers. Of the others not one interval lies above zero.
# With their ancestors, both pruned networks lean to the better side by two tenths of a point; with the
# other teacher they hardly lean. What has helped them more is time: chapter 2's longer schedule, 18
# epochs instead of 6 and 6 again, is above all of these rows. So in these short trainings a teacher is no remedy; try your network's ancestor,
# beside the control. (The intervals are those of one seed: they speak of these networks, not of the
# recipe.)
#
# ## Why it works, when it does not
#
# **Which maps belong together?** How far is the trained student from being able to predict the
# teacher's maps? We look for the best linear map from its channels to the teacher's, one for all
# positions of 500 images, by least squares. Of interest is $R^2$, the share of the variance that it
# explains.

# %%
tried = [*pairs, ("blocks.4", "stage2")]
images = data.normalize(few.images)
with (
    torch.no_grad(),
    distillation.tapped(student, [mine for mine, _ in tried]) as from_student,
    distillation.tapped(teacher, [other for _, other in tried]) as from_teacher,
):
    student(images)
    teacher(images)

# %% [markdown]
# Channels become columns, positions of images rows:

# %%
share = {}
for mine, other in tried:
    size = from_teacher[other].shape[2:]
    x, y = (
        F.adaptive_avg_pool2d(m, size).movedim(1, -1).flatten(0, 2)
        for m in (from_student[mine], from_teacher[other])
    )
    x, y = x - x.mean(0), y - y.mean(0)
    rest = y - x @ torch.linalg.lstsq(x, y).solution
    share[mine, other] = 1 - (rest.square().sum() / y.square().sum()).item()
    grid = f"{size[0]} x {size[1]}"
    print(f"{mine} explains {100 * share[mine, other]:.0f} % of {other}, {grid}")

# %% [markdown]
# Compare the two lines of `stage2`, the same maps on the same grid. The student's last block, which is
# about to decide, explains less of them than its middle one, although it has as many channels: depth
# matters. (Lines of different grids cannot be compared: on a coarser grid more is explained.) Of the
# first two maps more than a half cannot be had from this student by any 1×1 regressor; a hint asks
# it to change its features, and whether that helps its answers is another question.
#
# ### Find the bug
#
# A training script asks its teacher like this. The loss that follows is right. What is wrong?


# %%
def ask(teacher, images):
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
        ask(spoiled, data.normalize(part // divisor))
    asked[name] = training.evaluate(spoiled, few)
    print(f"teacher {healthy:.1f} %, after {name} pictures {asked[name]:.1f} %")

# %% [markdown]
# `torch.no_grad` stops gradients. It does not stop batch norm in training mode from updating
# its running statistics, and nobody has switched it back. On pictures like its own they hardly move,
# so nobody notices; on others, from a new camera, the teacher becomes another network. And in both
# cases its answer to an image depends on the others in the batch. `distill` refuses such a teacher.
#
# ## What practitioners use
#
# torchdistill {cite:p}`matsubara2021torchdistill` has hints, attention and relations among many more
# losses. As in the lesson before, a run is a configuration; modules are named, as our taps name them:
#
# ```yaml
# criterion:
#   key: 'ATLoss'
#   kwargs:
#     at_pairs:
#       middle:
#         student: {io: 'output', path: 'blocks.2'}
#         teacher: {io: 'output', path: 'stage2'}
#         weight: 1
#     mode: 'code'
# ```
#
# (`mode` asks whether the loss shall be that of the paper or that of its authors' code.)
# Taps do not care whose network it is. Torchvision's DenseNet-121 as the teacher of its MobileNetV2,
# both untrained, on noise:

# %%
photos = torch.randn(2, 3, 64, 64)
small = torchvision.models.mobilenet_v2(weights=None).eval()
big = torchvision.models.densenet121(weights=None).eval()
foreign = [
    ("features.6", "features.transition1"),
    ("features.13", "features.transition2"),
]
names_s, names_t = zip(*foreign, strict=True)

# %% [markdown]
# The maps differ in channels and in size, and all losses take them:

# %%
with (
    torch.no_grad(),
    distillation.tapped(small, names_s) as of_small,
    distillation.tapped(big, names_t) as of_big,
):
    small(photos)
    big(photos)
for mine, other in foreign:
    shapes = tuple(of_small[mine].shape[1:]), tuple(of_big[other].shape[1:])
    print(f"{mine} {shapes[0]} - {other} {shapes[1]}", end="  attention loss ")
    print(f"{distillation.attention_loss(of_small[mine], of_big[other]):.3f}")

# %% [markdown]
# ```{admonition} What changes at ImageNet scale
# :class: note
# {cite:t}`zhao2022decoupled` report 71.70 % for a ResNet-18 taught by a ResNet-34 with the
# decoupled loss, 70.66 % with plain soft targets, 69.75 % alone. Feature losses cost memory: copies
# of the tapped maps of both networks.
# ```
#
# ## Paper and us
#
# | | reports | we measured |
# |---|---|---|
# | {cite:t}`zagoruyko2017paying`, WRN-16-2 taught by WRN-40-2, CIFAR-10, test error | 6.31 % alone, 6.08 with soft targets, 5.71 with both | the first interval of the long runs |
# | {cite:t}`furlanello2018born`, born-again DenseNets, CIFAR-100 | students better than their equal teachers (on CIFAR-10 not all) | "itself - no smoothing", one seed |
#
# The claims of the text:

# %% tags=["claims"]
assert quiet[1.0] < 0.01 and quiet[4.0] > 100 * quiet[1.0], "a quiet teacher"
assert honest["stage2.0.bn1"].min() < -0.1, "the batch norm has negative outputs"
assert smallest >= 0, "and our tap does not see them"
assert apart["with attention"] < min(apart["before"], apart["soft targets alone"])
assert asked["dark"] < healthy - 2, "asking in training mode spoils the teacher"
assert asked["ordinary"] > healthy - 2, "but not where anybody would see it"
assert share["blocks.2", "stage2"] > share["blocks.4", "stage2"] + 0.1, "depth"
assert max(share["blocks.1", "stage1"], share["blocks.2", "stage2"]) < 0.5

# %% [markdown]
# And those on the long runs:

# %% tags=["claims"]
assert all(gain.low < 0 < gain.high for gain in added.values()), "nothing was added"
assert added["attention"].high < 0.3
assert others["itself"].low < 0 and others["wide teacher"].high < 0
widths = [
    seed_0[name].settings["teacher_on_validation"]
    for name in ("wide teacher", "soft targets")
]
assert widths[0] < widths[1] - 0.3, "the wide teacher is the less accurate one"
assert max(gain.low for gain in recovered.values()) < 0
assert seed_0["2-bit weights, with teacher"].accuracy < 20, "diverged"
assert recovered["2-bit weights", "with its ancestor"].high < 0.2
for start in pruned_ones:
    assert 0.1 < recovered[start, "with its ancestor"].difference < 0.3
    assert abs(recovered[start, "with teacher"].difference) < 0.15
    again = [r.accuracy for name, r in seed_0.items() if name.startswith(f"{start},")]
    assert max(again) < pruned[f"{start} longer"]

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
# logits' divergence. Each has to show what it adds to plain soft targets, and here none has added
# anything. Nor has the student as its own teacher, and smaller networks recovered about as well on
# labels alone. A larger teacher is a better one only if it is the better network and its student gains. A
# teacher must be in eval mode, and taps must copy.
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
# The teacher is sure: $p^\text{t} = 0.99$ at $T = 1$. By how much is NCKD turned down in plain soft
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
# - [Assignment: distillation](../../assignments/release/distillation/distillation.ipynb): a loss, a student under a budget, and a gain that is none.
# - [Next chapter](../05-low-rank/matrices.ipynb): weights as matrices and tensors of low rank.
# - {cite:t}`zagoruyko2017paying` for the pictures of what networks look at.
# - {cite:t}`mirzadeh2020improved`: what to do if the teacher is too far away.
