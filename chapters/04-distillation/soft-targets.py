# %% [markdown]
# # Soft targets
#
# A small network learns from labels. Could it learn more from the *answers* of a large one?
# This lesson tries to raise the accuracy of the student, 54,346 parameters, without adding
# a single one of them.
#
# **You will**
#
# - say what a teacher's answer knows that a label does not;
# - derive the gradient of the distillation loss, and from it where the factor $T^2$ comes
#   from;
# - train a student with a teacher, in a loop that you know already;
# - judge the gain against three controls: label smoothing, longer training, and the student
#   alone;
# - find three bugs that make a method look better or worse than it is.
#
# **You need** chapter 1, above all [Accuracy](../01-measuring/accuracy.ipynb), and how
# `training.fit` is used in [Pruning single weights](../02-pruning/magnitude.ipynb). Symbols are
# on the [notation page](../../book/notation.md).
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
import warnings
from dataclasses import replace

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
import torchvision

from slimcnn import (
    checkpoints,
    data,
    distillation,
    metrics,
    models,
    plotting,
    report,
    training,
)
from slimcnn.checks import distilling
from slimcnn.data import Augmentation
from slimcnn.training import Recipe

plotting.use_style()
_ = torch.manual_seed(0)

# %% [markdown]
# ## Measure first
#
# The teacher is a ResNet-14, the student the small network of chapter 1. All were trained on labels
# alone, and there are two ResNet-14: the book's own, whose labels were smoothed, and one whose labels
# were not. It is the second that teaches here; a section below compares them.

# %%
report.table(report.load_records("baselines"))

# %% [markdown]
# The student has a thirteenth of the weights. The gap between the two is what a teacher could
# hope to close.
#
# ## The idea
#
# A label says: this is a shirt. A trained network says: most likely a shirt, perhaps a
# T-shirt, hardly a coat, no sandal. The second answer holds more. We look at a test image of which
# the teacher is about 60 % sure, and at its softmax. ($T$, the second color, comes next.)

# %%
teacher, test = checkpoints.load("resnet14-unsmoothed"), data.load("test")
logits = training.predict(teacher, test.images)
doubtful = logits.softmax(1).amax(1).sub(0.6).abs().argmin().item()

# %% [markdown]
# The image, and both answers:

# %%
fig, axes = plt.subplots(1, 2, figsize=(6.8, 3), width_ratios=(1, 2))
axes[0].imshow(test.images[doubtful, 0], cmap="gray")
axes[0].set(title=data.CLASSES[test.labels[doubtful]], xticks=[], yticks=[])
for shift, temperature in ((-0.2, 1.0), (0.2, 4.0)):
    soft = (logits[doubtful] / temperature).softmax(0)
    rows = [row + shift for row in range(10)]
    axes[1].barh(rows, 100 * soft, 0.4, label=f"T = {temperature:g}")
axes[1].set(yticks=range(10), yticklabels=data.CLASSES, xlabel="probability (%)")
axes[1].invert_yaxis()
_ = axes[1].legend()

# %% [markdown]
# The classes that look alike get the rest of the probability. On most images, though, the
# teacher is sure of one class, and the others get little. So the logits $\mathbf{z}$ are divided by a
# **temperature** $T$ before the softmax {cite:p}`hinton2015distilling`:
#
# $$
# p_k = \frac{e^{z_k / T}}{\sum_j e^{z_j / T}} .
# $$ (eq-soft)
#
# At $T = 1$ that is the usual softmax. A higher temperature makes the answer **softer**: the
# order of the classes stays, the differences shrink, and the small probabilities come out.
# What do they know? Averaged over all test images of a class:

# %%
soft = (logits / 4).softmax(1)
means = torch.stack([soft[test.labels == k].mean(0) for k in range(10)])
means.fill_diagonal_(float("nan"))  # what is given to the *other* classes
fig, ax = plt.subplots(figsize=(5, 4.2))
image = ax.imshow(100 * means, cmap="viridis")
ax.set(xticks=range(10), yticks=range(10), ylabel="the label is", xlabel="given to")
ax.set_xticklabels(data.CLASSES, rotation=45, ha="right")
ax.set_yticklabels(data.CLASSES)
ax.grid(False)
_ = fig.colorbar(image, label="mean probability at T = 4 (%)")

# %% [markdown]
# A row is the images of one label, bright is much. A map of similarity that nobody typed in:
# sandals, sneakers and boots are one family, T-shirts, pullovers, coats and shirts another. A student that is asked to reproduce it gets
# ten numbers from each image instead of one.
#
# ### The loss
#
# Let $\mathbf{p}^\text{t}$ and $\mathbf{p}^\text{s}$ be the softened answers of teacher and
# student. How far the student's is from the teacher's is measured by the **Kullback–Leibler
# divergence** (KL), the sum in the equation below. It is 0 if both are equal and positive
# otherwise; it is not symmetric, the teacher's probabilities weigh the classes. The loss of an
# image gives it the share $\alpha$, and the rest to the usual cross-entropy with the label $y$, at
# $T = 1$; over a batch we take the mean:
#
# $$
# \mathcal{L} = \alpha\, T^2 \sum_k p^\text{t}_k \log \frac{p^\text{t}_k}{p^\text{s}_k}
#   \;+\; (1 - \alpha)\, \mathcal{L}_\text{CE}(\mathbf{z}^\text{s}, y) .
# $$ (eq-distill)
#
# Why the factor $T^2$? Ask the gradient. The divergence depends on the student through
# $-\sum_k p^\text{t}_k \log p^\text{s}_k$, and $\log p^\text{s}_k = z^\text{s}_k / T - \log
# \sum_j e^{z^\text{s}_j / T}$, so
#
# $$
# \frac{\partial}{\partial z^\text{s}_i} \Bigl( -\sum_k p^\text{t}_k \log p^\text{s}_k \Bigr)
# = -\frac{p^\text{t}_i}{T} + \frac{1}{T}\, \frac{e^{z^\text{s}_i / T}}{\sum_j e^{z^\text{s}_j / T}}
# = \frac{p^\text{s}_i - p^\text{t}_i}{T} .
# $$ (eq-soft-gradient)
#
# And for a high temperature both answers are nearly uniform: $e^{z/T} \approx 1 + z / T$, so
# with logits of mean zero $p_i \approx (1 + z_i / T) / K$, and the gradient becomes
#
# $$
# \frac{p^\text{s}_i - p^\text{t}_i}{T} \;\approx\; \frac{z^\text{s}_i - z^\text{t}_i}{K\, T^2} .
# $$ (eq-high-temperature)
#
# It falls with $1 / T^2$. Without the factor, a higher temperature would silently turn the
# teacher down beside the labels; with it, $\alpha$ keeps its meaning when $T$ changes. The
# right side says something else as well: at high temperatures the student learns to copy the
# teacher's *logits*.
#
# ## By hand
#
# Three classes, one image. The teacher's logits are $(2, 1, 0)$, the student's are all zero.
# At $T = 1$ the teacher says $e^2 : e : 1$, that is 66.5, 24.5 and 9.0 %; at $T = 2$ it says
# $e : \sqrt e : 1$, which is softer. The student says a third each.

# %% tags=["nbval-check-output"]
z_t, z_s = torch.tensor([[2.0, 1.0, 0.0]]).double(), torch.zeros(1, 3).double()
for temperature in (1.0, 2.0, 100.0):
    p_t, p_s = (z_t / temperature).softmax(1), (z_s / temperature).softmax(1)
    divergence = (p_t * (p_t / p_s).log()).sum().item()
    shown = ", ".join(f"{100 * p:.1f} %" for p in p_t[0].tolist())
    print(f"T {temperature:3g}: teacher {shown}", end="; ")
    print(f"KL {divergence:.5f}, times T squared {temperature**2 * divergence:.3f}")

# %% [markdown]
# With $T^2$ the loss settles at half the mean square of $z^\text{s} - z^\text{t}$ around its
# mean, here $\tfrac12 \cdot \tfrac{1 + 0 + 1}{3} = \tfrac13$.
#
# ## From scratch
#
# Equation {eq}`eq-distill` for a batch is five lines. PyTorch's `kl_div` takes the *student*
# first, as logarithms, and `batchmean` divides by the number of images.


# %%
def distillation_loss(z_s, z_t, labels, temperature, alpha):
    """Soft targets and labels; logits are (B, K)."""
    log_s = (z_s / temperature).log_softmax(1)
    log_t = (z_t / temperature).log_softmax(1)
    soft = F.kl_div(log_s, log_t, reduction="batchmean", log_target=True)
    hard = F.cross_entropy(z_s, labels)
    return alpha * temperature**2 * soft + (1 - alpha) * hard


# %% [markdown]
# The equality cell: value against the package, gradient against {eq}`eq-soft-gradient`. (At
# $T = 20$ our value is off in the fifth digit: nearly equal probabilities are subtracted, and
# what is left is multiplied by 400. The package computes it in float64.)

# %%
z_s, z_t = torch.randn(6, 10, requires_grad=True), torch.randn(6, 10)
labels = torch.randint(10, (6,))
for temperature, alpha in ((1.0, 0.5), (4.0, 0.9), (20.0, 1.0)):
    mine = distillation_loss(z_s, z_t, labels, temperature, alpha)
    theirs = distillation.distillation_loss(z_s, z_t, labels, temperature, alpha)
    torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-3)
(gradient,) = torch.autograd.grad(mine, z_s)  # of the last: T = 20, teacher alone
p_s, p_t = (z_s / 20).softmax(1), (z_t / 20).softmax(1)
torch.testing.assert_close(gradient, 20 * (p_s - p_t) / 6, atol=1e-6, rtol=1e-3)

# %% [markdown]
# Does the factor do what it promises? We measure the length of the gradient at several
# temperatures, with and without it, for the answers of our two networks on 1,000 images.

# %%
few = data.load("validation").subset(1000)
z_t = training.predict(teacher, few.images)
z_s = training.predict(checkpoints.load("student"), few.images)
z_s = z_s.clone().requires_grad_()

# %% [markdown]
# The gradient's length, for rising temperatures:

# %%
temperatures = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
lengths = {"with $T^2$": [], "without": []}
for temperature in temperatures:
    loss = distillation.soft_target_loss(z_s, z_t, temperature)
    (gradient,) = torch.autograd.grad(loss, z_s)
    lengths["with $T^2$"].append(gradient.norm().item())
    lengths["without"].append(gradient.norm().item() / temperature**2)

# %% [markdown]
# Both axes are logarithmic.

# %%
fig, ax = plt.subplots()
for (name, found), marker in zip(lengths.items(), "os", strict=True):
    ax.plot(temperatures, found, marker=marker, label=name)
ax.set(xscale="log", yscale="log", xlabel="temperature T")
ax.set(ylabel="length of the gradient", xticks=temperatures)
ax.set_xticklabels([f"{t:g}" for t in temperatures])
_ = ax.legend()

# %% [markdown]
# With the factor the gradient stays within a factor of ten: at $T = 1$ both answers are nearly
# one-hot, so that there is little to learn. Without it, it falls by a factor of hundreds.
#
# ## On the network
#
# Training needs no new loop. `training.fit` takes an `objective`, a function of network and
# batch that returns the loss and the logits, and it may ask a teacher:


# %%
def objective(student, batch):
    """What `fit` minimizes: the teacher sees the same augmented images."""
    z_s = student(batch.images)
    with torch.no_grad():
        z_t = teacher(batch.images)
    return distillation_loss(z_s, z_t, batch.labels, 4.0, 0.9), z_s


# %% [markdown]
# `distillation.distill` wraps exactly this, and refuses what would go wrong in silence: a
# teacher in training mode, another number of classes, a teacher that shares parameters with the
# student. Both, from the same student and over the same images, must end at the same network:

# %%
train = data.load("train").subset(5_000)
once = Recipe(epochs=1, batch_size=64, lr=0.1, average=0.0)
with training.seeded(0):
    student = models.build("student")
options = {"seed": 0, "progress": False}
small = train.subset(500)
by_hand, _ = training.fit(student, small, once, objective=objective, **options)
loss = distillation.SoftTargets(4.0, 0.9)
wrapped, _ = distillation.distill(student, teacher, small, once, loss=loss, **options)
mine, theirs = (training.predict(m, few.images) for m in (by_hand, wrapped))
torch.testing.assert_close(mine, theirs, atol=0.02, rtol=0.02)

# %% [markdown]
# Now two short epochs on 5,000 images, from the same initial weights and over the same images:
# on labels alone, and with the teacher alone. The second student never sees a label ($\alpha$
# is 1, and we replace the labels by zeros to be sure).

# %%
short = Recipe(epochs=2, batch_size=64, lr=0.1, average=0.0, label_smoothing=0.0)
labeled, _ = training.fit(student, train, short, **options)

# %% [markdown]
# The same student, images without labels, and the teacher's answers alone:

# %%
unlabeled = data.Split("no labels", train.images, torch.zeros_like(train.labels))
teacher_only = distillation.SoftTargets(temperature=4.0, alpha=1.0)
taught, _ = distillation.distill(
    student, teacher, unlabeled, short, loss=teacher_only, **options
)
for name, network in (("on labels", labeled), ("on answers", taught)):
    print(f"{name:11}{training.evaluate(network, few):.1f} % on validation images")

# %% [markdown]
# So few steps decide nothing, but they show that it runs, and that the *student* needs no labels.
# (The teacher has seen the labels of these very pictures; the real use are pictures of the same
# kind that nobody has labeled.) What is that worth? Suppose that only 500 of the pictures have
# labels. The student learns from these, or from the teacher's answers to all 5,000, in as many
# steps:

# %%
twenty = replace(short, epochs=20)
scarce, _ = training.fit(student, train.subset(500), twenty, **options)
print(f"500 labels: {training.evaluate(scarce, few):.1f} %", end="; ")
print(f"5,000 pictures without: {training.evaluate(taught, few):.1f} %")

# %% [markdown]
# The long runs, fifteen epochs on all
# images, were made by `scripts/sweep_distillation.py`. First, which teacher, which $T$ and which
# $\alpha$? Short runs (six epochs, one seed), judged on *validation*: no full grid but crosses, the
# temperatures at one $\alpha$ and the shares at one $T$.

# %%
for r in sorted(report.load_records("distillation-screen"), key=lambda r: -r.accuracy):
    print(f"{r.settings['variant']:36} {r.accuracy:.2f} % on validation")

# %% [markdown]
# Seeds of one recipe differ by some tenths, as chapter 1 has shown, so that neighbors in this
# list cannot be told apart: the long runs use the first point, $T = 4$ and $\alpha = 0.9$ with the
# unsmoothed teacher, and others would have done as well. Their controls, all with the same number of
# steps, except the one that is trained longer:
#
# - **alone**: the student's own recipe, labels with smoothing;
# - **no smoothing**: the same without. Label smoothing is a teacher as well, a very dull one:
#   it says that all other classes are equally likely;
# - **twice as long**: a teacher costs time in each step. What would the student have done
#   with that time? (It is generous: a step with this teacher takes less than twice the time.)
#
# All have fifteen epochs, the student of chapter 1 had forty: compare within this table first. In
# "soft targets" the labels' part is not smoothed.

# %%
records = report.load_records("distillation")
names = ("alone", "no smoothing", "twice as long", "soft targets")
table = [r for r in records if r.settings["variant"] in names]
by = ("model", "technique", "settings.variant")
columns = ("settings.variant", "settings.epochs", "accuracy", "parameters", "bytes")
report.table(
    report.summarize(table, by=by),
    columns,
    caption="The student with and without a teacher.",
)

# %% [markdown]
# (Where n is 1, only seed 0 was trained.) Is it a gain? Image by image, over the three seeds:

# %%
labels = test.labels


def right(variant):
    """Correct or not, for each seed and test image."""
    return report.load_predictions("distillation", variant) == labels


# %% [markdown]
# Each rival of soft targets, on the same images:

# %%
gain = {}
for name in names[:3]:
    rival = right(name)
    same_seeds = right("soft targets")[: len(rival)]
    gain[name] = metrics.paired_bootstrap(rival, same_seeds)
for name, difference in gain.items():
    print(f"soft targets - {name:14} {difference}")

# %% [markdown]
# In as many steps the teacher is worth half a point and a little: the interval, over images and seeds,
# lies above zero. It is no matter of smoothing. But the last line is one that papers often leave out. The
# student that was trained alone for twice as long is as good, or better: one seed cannot say. So a
# teacher makes a *step* worth more, and the same accuracy can be had without one. Where steps are what
# is scarce (a large student, few pictures, pictures without labels) that is a lot; where they
# are cheap, as here, train longer first.

# %% [markdown]
# ## Why it works, when it does not
#
# **A smoothed teacher.** Label smoothing asks the *teacher* to treat all wrong classes alike,
# which rubs out the similarities that the student should learn {cite:p}`muller2019when`. How much is
# left of them? Take the class that it chooses away, and ask how *even* the shares of the others are:
# their entropy, as a part of the largest one, $\log 9$. An answer whose evenness is 1 knows no
# similarities.


# %%
def evenness(z, temperature):
    """Median entropy of the other classes' shares over log(K - 1); logits (B, K)."""
    others = (z / temperature).scatter(1, z.argmax(1, True), -torch.inf).softmax(1)
    most = torch.tensor(z.shape[1] - 1.0).log()
    return (torch.special.entr(others).sum(1).median() / most).item()


# %% [markdown]
# Of both teachers, on the 1,000 validation images; the tenth of which a teacher is least sure, and
# the others:

# %%
even = {}
for name in ("resnet14", "resnet14-unsmoothed"):
    z = training.predict(checkpoints.load(name), few.images)
    order = z.softmax(1).amax(1).argsort()
    for part, chosen in (("least sure", order[:100]), ("others", order[100:])):
        found = [evenness(z[chosen], temperature) for temperature in (1.0, 2.0, 4.0)]
        even[name, part] = found
        shown = ", ".join(f"{share:.3f}" for share in found)
        print(f"{name:20}{part:11}evenness at T = 1, 2, 4: {shown}")

# %% [markdown]
# About nine of ten images the smoothed teacher, which is the more accurate network, has nothing to
# tell that label smoothing would not say. Of the last tenth it does say what else they might be, and
# loudest at $T = 1$, which the choice above has found best for it. What is that worth? The long runs, each
# teacher at its own best point, paired as before:

# %%
smoothed = right("other teacher")
seeds = len(smoothed)
gain["by a smoothed one"] = metrics.paired_bootstrap(right("alone")[:seeds], smoothed)
lost = metrics.paired_bootstrap(smoothed, right("soft targets")[:seeds])
print(f"smoothed teacher - alone:              {gain['by a smoothed one']}")
print(f"unsmoothed teacher - smoothed teacher: {lost}")

# %% [markdown]
# So even a smoothed teacher is worth something: its gain over labels is smaller, and lies above zero. The
# unsmoothed one may be worth a little more, but three seeds cannot tell: the last interval holds zero.
# The choice above, which put more than a point between the two, was made on one seed of six epochs,
# on the best of several points.

# %% [markdown]
# **The cache that teaches the wrong thing.** A teacher gives the same answer each time, so why
# ask it in every epoch? Because it is not asked the same question: the student sees an
# *augmented* picture, flipped and shifted. Somebody caches the answers by the
# number of the image, taken in the first epoch. How far are these from the truth in the
# second one?

# %%
shaken, pupil, answers = Augmentation(), checkpoints.load("student"), []
for epoch in (0, 1):
    found = torch.zeros(2, len(train), 10)  # of the teacher, of the trained student
    for batch in data.batches(train, 500, seed=0, epoch=epoch, augmentation=shaken):
        with torch.no_grad():
            found[0, batch.index] = teacher(batch.images)
            found[1, batch.index] = pupil(batch.images)
    answers.append(found)

# %% [markdown]
# How far is an old answer from the new one, and how far is the trained student?

# %%
stale = distillation.soft_target_loss(answers[0][0], answers[1][0], 1.0)
honest = distillation.soft_target_loss(answers[1][1], answers[1][0], 1.0)
changed = (answers[0][0].argmax(1) != answers[1][0].argmax(1)).double().mean()
print(f"{100 * changed:.1f} % of the answers name another class in the second epoch")
print(
    f"divergence of old answer and new: {stale:.3f}; student and teacher: {honest:.3f}"
)

# %% [markdown]
# The stale answers are not those of this picture, by an amount that can be compared with what the
# student still has to learn. `distillation.TeacherCache` uses the *pixels* as the key. It
# pays where the same pictures come again, as in the grid above, whose runs share a seed. Two
# batches in each of three epochs, the third of which repeats the first:

# %% tags=["nbval-check-output"]
cache = distillation.TeacherCache()
for epoch in (0, 1, 0):
    some = data.batches(
        train.subset(500), 250, seed=0, epoch=epoch, augmentation=shaken
    )
    for batch in some:
        cache.logits(teacher, batch.images)
print(f"known {cache.hits} batches, asked {cache.misses}")

# %% [markdown]
# ### Find the bug
#
# Three versions of the loss. What is wrong with them?


# %%
def first(z_s, z_t, labels, temperature=4.0):
    log_s = (z_s / temperature).log_softmax(1)
    return F.kl_div(log_s, (z_t / temperature).softmax(1), reduction="mean")


# %% [markdown]
# The second:


# %%
def second(z_s, z_t, labels, temperature=4.0):
    log_s = (z_t / temperature).log_softmax(1)
    soft = F.kl_div(log_s, (z_t / temperature).softmax(1), reduction="batchmean")
    return temperature**2 * soft + F.cross_entropy(z_s, labels)


# %% [markdown]
# The third:


# %%
def third(z_s, z_t, labels, temperature=4.0):
    return distillation_loss(z_s.relu(), z_t.relu(), labels, temperature, 0.9)


# %% [markdown]
# Look at the numbers before you read on: the length of each gradient at the student's logits,
# beside that of the right loss.

# %%
z_t, z_s = z_t[:256].clone(), z_s.detach()[:256].requires_grad_()
right_loss = distillation.soft_target_loss(z_s, z_t, 4.0)
(true_gradient,) = torch.autograd.grad(right_loss, z_s)
share, reached = {}, {}
for bug in (first, second, third):
    with warnings.catch_warnings():  # PyTorch warns of one of them
        warnings.simplefilter("ignore")
        loss = bug(z_s, z_t, few.labels[:256])
    (gradient,) = torch.autograd.grad(loss, z_s)
    share[bug.__name__] = (gradient.norm() / true_gradient.norm()).item()
    reached[bug.__name__] = 100 * (gradient != 0).double().mean().item()
    print(f"{bug.__name__:7} {share[bug.__name__]:7.4f} times the length,", end=" ")
    print(f"{reached[bug.__name__]:.0f} % of the logits get a gradient")

# %% [markdown]
# The **first** divides by images *and* classes, ten times too much here, and forgets $T^2$,
# sixteen times too much; `labels` is an argument that nobody reads. The gradient is 160 times too
# short, as if the learning rate were; weight decay is not made smaller with it. The **second** compares the teacher with itself: the soft term is zero, and so is its
# gradient. It trains as well as any student on labels, which is why nobody notices. The
# **third** puts a ReLU on the logits. Negative ones, most of them, get no gradient from either
# term. If the student *trained alone* has this bug, it can fail for some seeds; what a teacher then
# "gains" is mostly the repair of a broken baseline.
#
# ## What practitioners use
#
# PyTorch has the loss, `nn.KLDivLoss`, with the traps that you have seen; torchao,
# which holds PyTorch's tools for quantization and sparsity, has no distillation loss. Whole
# recipes for many published methods are in torchdistill {cite:p}`matsubara2021torchdistill`, as
# files of this kind:
#
# ```yaml
# criterion:
#   key: 'WeightedSumLoss'
#   kwargs:
#     sub_terms:
#       kd:
#         criterion:
#           key: 'KDLoss'
#           kwargs:
#             student_module_path: '.'
#             student_module_io: 'output'
#             teacher_module_path: '.'
#             teacher_module_io: 'output'
#             temperature: 4.0
#             alpha: 0.1
#             reduction: 'batchmean'
#         weight: 1.0
# ```
#
# Look at `alpha`: there it is the share of the *labels*, so this is our 0.9. Who copies a number
# from one library to the other turns the teacher down to a tenth. We compare our loss with
# `nn.KLDivLoss`, on a network that is not ours: torchvision's MobileNetV2 on color images, as a
# student of ResNet-18, both untrained.

# %%
photos = torch.randn(8, 3, 64, 64)
with torch.no_grad():
    big = torchvision.models.resnet18(weights=None).eval()(photos)
    small = torchvision.models.mobilenet_v2(weights=None).eval()(photos)
criterion = torch.nn.KLDivLoss(reduction="batchmean", log_target=True)
industrial = 9 * criterion((small / 3).log_softmax(1), (big / 3).log_softmax(1))
ours = distillation.soft_target_loss(small, big, 3.0)
print(f"1,000 classes: nn.KLDivLoss {industrial:.5f}, slimcnn {ours:.5f}")

# %% [markdown]
# And two steps of training, through `distill`, on pictures of noise and without labels:

# %%
pixels = torch.randint(256, (16, 3, 64, 64), dtype=torch.uint8)
album = data.Split("album", pixels, torch.zeros(16, dtype=torch.long))
tiny = Recipe(epochs=1, batch_size=8, lr=0.01, average=0.0, augmentation=None)
_, history = distillation.distill(
    torchvision.models.mobilenet_v2(weights=None),
    torchvision.models.resnet18(weights=None).eval(),
    album,
    tiny,
    loss=distillation.SoftTargets(3.0, 1.0),
    **options,
)
print(f"MobileNetV2 taught by ResNet-18: loss {history.loss[0]:.3f}")

# %% [markdown]
# ```{admonition} What changes at ImageNet scale
# :class: note
# A thousand classes have more to say about each other than ten. {cite:t}`beyer2022knowledge` find
# that two things decide there: teacher and student must see exactly the same crop, and patience;
# with both, and 9,600 epochs, a ResNet-50 reached 82.8 % on ImageNet. {cite:t}`cho2019efficacy` find that the largest teacher is often not the
# best one.
# ```
#
# ## Paper and us
#
# | | reports | we measured |
# |---|---|---|
# | {cite:t}`hinton2015distilling`, MNIST, two hidden layers of 800 units | 146 test errors alone, 74 with a teacher's soft targets at $T = 20$ (the teacher: 67) | the intervals above |
# | {cite:t}`muller2019when` | teachers trained with label smoothing distil worse | the difference of both teachers above |
#
# The claims of the text:

# %% tags=["claims"]
assert gain["alone"].low > 0 and gain["no smoothing"].low > 0
assert gain["twice as long"].low < 0, "no gain over longer training"
assert gain["by a smoothed one"].low > 0 > lost.low, "smoothed, and worth something"
assert 0 < gain["by a smoothed one"].difference < gain["alone"].difference
assert max(lengths["with $T^2$"]) < 12 * min(lengths["with $T^2$"])
assert min(even["resnet14", "others"]) > 0.99, "nothing to tell"
assert even["resnet14", "least sure"][0] < 0.7 < even["resnet14", "least sure"][1]
assert max(even["resnet14-unsmoothed", "others"]) < 0.95
screen = report.load_records("distillation-screen")
chosen = max(screen, key=lambda r: r.accuracy).settings
assert (chosen["teacher"], chosen["temperature"], chosen["alpha"]) == (
    "resnet14-unsmoothed",
    4.0,
    0.9,
), "chosen on validation"
assert max(lengths["without"]) > 100 * min(lengths["without"])
assert changed > 0.02 and stale > 0.2 * honest, "stale answers are no answers"
assert abs(share["first"] - 1 / 160) < 1e-4, "a teacher that is not heard"
assert reached["third"] < 50, "most logits are negative"
assert training.evaluate(taught, few) > 50, "labels are not needed"
assert training.evaluate(taught, few) > training.evaluate(scarce, few) + 1
footwear = [data.CLASSES.index(name) for name in ("Sandal", "Sneaker", "Ankle boot")]
for k in footwear:
    assert means[k].nan_to_num().argmax().item() in footwear, "one family"
tops = [data.CLASSES.index(n) for n in ("T-shirt/top", "Pullover", "Coat", "Shirt")]
for k in tops:
    assert means[k].nan_to_num().argmax().item() in tops, "another"
torch.testing.assert_close(industrial, ours, atol=1e-6, rtol=1e-4)

# %% [markdown]
# ## Your turn
#
# Write the gradient of the soft-target loss, $T^2$ included and averaged over the batch, with
# respect to the student's logits, as {eq}`eq-soft-gradient` has it. Replace the `...` and run
# the cell.


# %%
def soft_gradient(z_s, z_t, temperature):
    return ...


distilling.soft_gradient(soft_gradient)

# %% [markdown]
# ## Summary
#
# A teacher's answer says which classes look alike, and a temperature makes that audible. The
# loss is a divergence between softened answers; its gradient is their difference, divided by
# $T$, and shrinks with $T^2$ unless it is multiplied back. What a teacher is worth can only be
# said beside a student alone, one without smoothing, and one that was trained for longer. Here it
# brought more than half a point in as many steps, and twice as many steps brought as much without it.
# And a loss with a bug can look like a method that works.
#
# ## Check yourself
#
# ```{exercise}
# :label: ex-soft-uniform
# What does a teacher teach at $\alpha = 1$ and $T \to \infty$? And at $T \to 0$?
# ```
#
# ```{solution} ex-soft-uniform
# :class: dropdown
# At infinite temperature its logits: the loss is half the mean squared difference of centered
# logits. Towards zero both softmaxes become one-hot, so only the most likely class is left, and
# with the factor $T^2$ the gradient $T (p^\text{s} - p^\text{t})$ vanishes: nothing is taught.
# ```
#
# ```{exercise}
# :label: ex-soft-smoothing
# Write label smoothing with $\varepsilon = 0.1$ and ten classes as distillation. Who is the
# teacher?
# ```
#
# ```{solution} ex-soft-smoothing
# :class: dropdown
# Its target is 0.9 times the label plus 0.1 times the uniform distribution: a mixture of the
# label with a teacher that finds all classes equally likely, at $\alpha = 0.1$ and $T = 1$. (A
# network whose logits are all zero. Cross-entropy and KL with it differ by a constant.)
# ```
#
# ```{exercise}
# :label: ex-soft-gain
# A paper reports students at 90.1 % alone and 91.0 % with a teacher, each the best of five
# seeds on the test set, and trained for 100 and 200 epochs. What would you ask for?
# ```
#
# ```{solution} ex-soft-gain
# :class: dropdown
# The means over the seeds with an interval of the paired difference, instead of the best on
# the test set; and the student alone for 200 epochs.
# ```
#
# ```{exercise}
# :label: ex-soft-batchmean
# Your data set has 1,000 classes and the soft loss uses `reduction="mean"`. By what factor is
# the teacher too quiet? Which other mistake would make up for it by chance?
# ```
#
# ```{solution} ex-soft-batchmean
# :class: dropdown
# By 1,000. A temperature near 32 with $T^2$ counted twice would: $32^2 = 1024$.
# ```
#
# ## Where next
#
# - [Assignment: distillation](../../assignments/release/distillation/distillation.ipynb): a loss, a student under a budget, and a gain that is none.
# - [Next lesson](features.ipynb): teaching by what lies inside the networks, and students that were
#   pruned.
# - {cite:t}`hinton2015distilling`: nine pages, and the origin of the temperature and of $T^2$.
# - {cite:t}`beyer2022knowledge`: what it takes on ImageNet, told without a new method.
