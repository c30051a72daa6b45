# %% [markdown]
# # Accuracy, and how far to trust it
#
# ResNet-14 gets some share of 10,000 test images right. How far could that number be off,
# and when is one network really better than another? This lesson gives the accuracy in
# the table its interval, and makes the comparison that every later chapter uses.
#
# **You will**
#
# - give an accuracy with its 95 % interval, and say what the interval promises;
# - find the classes that a network confuses, and whether its confidence can be trusted;
# - compare two networks image by image, and say whether a difference is real;
# - recognize a result that was chosen on the test set.
#
# **You need** the lesson [What a network costs](cost.ipynb).
#
# **Time** 35 minutes to read, under a minute to run on a CPU.

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
import matplotlib.pyplot as plt
import scipy.stats
import torch
import torch.nn.functional as F

from slimcnn import checkpoints, data, metrics, plotting, report, training
from slimcnn.checks import measuring

plotting.use_style()
_ = torch.manual_seed(0)

# %% [markdown]
# ## Measure first
#
# The records of the trained networks, with every seed behind them. (A *seed* fixes the
# initial weights, the order of the images and their augmentation: another seed is
# another run of the same recipe. `resnet14-unsmoothed` is a teacher for chapter 4; what it
# was trained without, this lesson explains.)

# %%
for record in report.load_records("baselines"):
    print(f"{record.model:20} seed {record.seed}  {record.accuracy:.2f} % on test")

# %% [markdown]
# Another seed would have given another number {cite:p}`bouthillier2021accounting`, and so
# would other test images. Anything that a technique changes has to be seen against both.
#
# ## The idea
#
# Imagine the test set as a draw of $N$ images from all images of this kind, a share $p$ of
# which the network gets right. Whether a drawn image is right is 1 or 0 with mean $p$ and
# variance $p(1-p)$; a mean of $N$ independent ones has $1/N$ of that variance. So the
# measured accuracy $\hat p$ scatters around $p$ with the standard deviation
# $\sqrt{p(1-p)/N}$. For $p = 94\,\%$ and $N = 10{,}000$ that is 0.24 points. A sum of so many
# draws is nearly normal, and a normal variable stays within $z = 1.96$ deviations in 95 % of
# the cases: $\hat p$ is usually within half a point of $p$.
#
# Turning this around, from $\hat p$ back to $p$, takes some care: the deviation depends
# on the $p$ that we do not know. Wilson {cite:p}`wilson1927probable` asks which values of
# $p$ are compatible with the observation, those with
# $|\hat p - p| \le z \sqrt{p(1-p)/N}$. Squared, this is a quadratic inequality in $p$, which
# holds between the two roots
#
# $$
# p_\pm = \frac{\hat p + \frac{z^2}{2N} \pm
#   z\sqrt{\frac{\hat p(1-\hat p)}{N} + \frac{z^2}{4N^2}}}{1 + \frac{z^2}{N}},
# \qquad z = 1.96 \text{ for } 95\,\% .
# $$ (eq-wilson)
#
# What the interval promises: over many test sets, 95 % of the intervals so computed
# contain $p$. What it does not promise: anything about images of another kind, or about
# another seed.
#
# ## By hand
#
# Ten images, eight right. The shortcut $\hat p \pm z\sqrt{\hat p(1-\hat p)/N}$ gives
# $0.8 \pm 0.248$, which ends above 100 %. Wilson's interval stays inside, and is not
# symmetric.

# %% tags=["nbval-check-output"]
shortcut = 1.96 * (0.8 * 0.2 / 10) ** 0.5
print(f"shortcut {80 - 100 * shortcut:.1f} to {80 + 100 * shortcut:.1f} %")
print("Wilson   {:.1f} to {:.1f} %".format(*metrics.wilson_interval(8, 10)))

# %% [markdown]
# ## From scratch
#
# Equation {eq}`eq-wilson` in Python:


# %%
def wilson(correct, total, z=1.959964):
    """95 % interval of an accuracy, in percent."""
    p = correct / total
    center = p + z**2 / (2 * total)
    half = z * (p * (1 - p) / total + z**2 / (4 * total**2)) ** 0.5
    return tuple(100 * (center + sign * half) / (1 + z**2 / total) for sign in (-1, 1))


# %% [markdown]
# The equality cell includes the edges, where nothing or everything is right:

# %%
for correct, total in ((8, 10), (0, 5), (5, 5), (9_400, 10_000)):
    torch.testing.assert_close(
        torch.tensor(wilson(correct, total)),
        torch.tensor(metrics.wilson_interval(correct, total)),
        atol=1e-5,
        rtol=0,
    )

# %% [markdown]
# Does it keep its promise? We play test set: choose $p = 94\,\%$, draw many test sets
# of $N$ images, and count how often each interval contains the 94 %.


# %%
def draw(shape, total):
    """How many of `total` images are right, for a network that is right on 94 %."""
    generator = torch.Generator().manual_seed(0)
    trials = torch.full(shape, float(total))
    return torch.binomial(trials, torch.full(shape, 0.94), generator=generator)


# %% [markdown]
# Twenty thousand test sets of each size:

# %%
sizes = (20, 50, 100, 200, 500, 1_000, 10_000)
coverage = {"shortcut": [], "Wilson": []}
for n in sizes:
    hits = draw((20_000,), n)
    half = 196 * (hits / n * (1 - hits / n) / n).sqrt()  # percent
    for name, (low, high) in {
        "shortcut": (100 * hits / n - half, 100 * hits / n + half),
        "Wilson": wilson(hits, n),
    }.items():
        inside = (low <= 94) & (94 <= high)
        coverage[name].append(100 * inside.float().mean().item())

# %% [markdown]
# The dashed line is what both promise.

# %%
fig, ax = plt.subplots()
for (name, values), marker in zip(coverage.items(), "os", strict=True):
    ax.plot(sizes, values, marker=marker, label=name)
ax.axhline(95, color="black", linewidth=1, linestyle="--", label="promised")
ax.set(xscale="log", xlabel="images in the test set")
ax.set(ylabel="intervals that contain the truth (%)")
_ = ax.legend()

# %% [markdown]
# The shortcut breaks its promise badly for small sets, and is good enough from about a
# thousand images on. Wilson keeps it closely everywhere, so there is no need to choose.
#
# ## On the network
#
# We run ResNet-14 over the 10,000 test images once and keep the logits: everything below
# is computed from them.

# %%
test, validation = data.load("test"), data.load("validation")
resnet14, student = checkpoints.load("resnet14"), checkpoints.load("student")
logits = {
    "ResNet-14": training.predict(resnet14, test.images),
    "student": training.predict(student, test.images),
}

# %% [markdown]
# Accuracy with its interval:

# %%
right = {name: z.argmax(1) == test.labels for name, z in logits.items()}
for name, correct in right.items():
    low, high = metrics.wilson_interval(int(correct.sum()), len(test))
    accuracy = metrics.accuracy(logits[name], test.labels)
    print(f"{name:10}{accuracy:.2f} % ({low:.2f} to {high:.2f} %)")

# %% [markdown]
# The interval is about half a point to each side. Remember it when a table shows two
# decimals.
#
# ### Which classes?
#
# One number hides ten. Each class has 1,000 test images, so its interval is
# wider.

# %%
per_class = metrics.per_class_accuracy(logits["ResNet-14"], test.labels)
bounds = torch.tensor(
    [metrics.wilson_interval(round(10 * a), 1000) for a in per_class.tolist()]
)
fig, ax = plt.subplots()
ax.errorbar(range(10), per_class, (bounds.T - per_class).abs(), fmt="o", capsize=3)
ax.set(ylabel="accuracy on the test set (%)", xticks=range(10))
_ = ax.set_xticklabels(data.CLASSES, rotation=40, ha="right")

# %% [markdown]
# One class stands apart. What are its images taken for? We count the pairs of true and
# predicted class among the errors.

# %%
wrong = logits["ResNet-14"].argmax(1) != test.labels
pairs = torch.stack([test.labels, logits["ResNet-14"].argmax(1)], 1)[wrong]
kinds, counts = pairs.unique(dim=0, return_counts=True)
for k in counts.argsort(descending=True)[:4].tolist():
    true, predicted = (data.CLASSES[i] for i in kinds[k].tolist())
    print(f"{counts[k].item():4} of {len(pairs)} errors: {true} taken for {predicted}")

# %% [markdown]
# Shirts carry much of the error: they are taken for T-shirts and coats. A compressed network that keeps the mean accuracy may still
# have sacrificed one class, so later chapters look at the change class by class.
#
# ### Is its confidence right?
#
# The softmax of the logits looks like probabilities; the largest of them is the network's
# **confidence** in its answer. It is a probability if, among all images with confidence
# 80 %, the network is right on 80 %: then it is **calibrated**. The *expected calibration
# error* (ECE) sorts the images into bins $b$ by confidence (15 of equal width, as usual) and
# averages the gap {cite:p}`guo2017calibration`:
#
# $$
# \text{ECE} = \sum_b \frac{n_b}{N}\,\bigl|\,\text{accuracy}_b - \text{confidence}_b\bigr| .
# $$ (eq-ece)
#
# A single *temperature* $T$ repairs most of it: divide all logits by $T$. That changes no
# prediction, since the largest logit stays the largest; $T < 1$ raises the confidence,
# $T > 1$ lowers it. We choose $T$ on the validation images, and judge it on the test images.

# %%
chosen_on = training.predict(resnet14, validation.images)


def validation_loss(t):
    """Cross-entropy on the validation images at temperature t."""
    return F.cross_entropy(chosen_on / t, validation.labels).item()


best = min(torch.linspace(0.4, 2.0, 33).tolist(), key=validation_loss)
ece = {
    t: metrics.expected_calibration_error(logits["ResNet-14"] / t, test.labels)
    for t in (1.0, best)
}
print(f"T = {best:.2f}: calibration error {ece[1.0]:.1f} -> {ece[best]:.1f} points")

# %% [markdown]
# A *reliability diagram* shows the bins: accuracy against confidence, at both
# temperatures. (Ten bins here, without those of at most 20 images, which would only jump.)

# %%
fig, ax = plt.subplots(figsize=(4.4, 4))
ax.plot([25, 100], [25, 100], "k--", linewidth=1, label="calibrated")
for t, marker in ((1.0, "o"), (best, "s")):
    bins = metrics.reliability(logits["ResNet-14"] / t, test.labels, bins=10)
    filled = bins.count > 20
    curve = bins.confidence[filled], bins.accuracy[filled]
    ax.plot(*curve, marker=marker, label=f"T = {t:.2f}")
ax.set(xlabel="confidence (%)", ylabel="accuracy (%)")
_ = ax.legend()

# %% [markdown]
# As trained, the curve lies *above* the diagonal: the network is right more often than
# it claims. That is the mark of **label smoothing**, part of our recipe: the target of the
# training is 91 % for the right class and 1 % for each other, so the network learns never to
# be quite sure.
# Networks trained without it usually lie below {cite:p}`guo2017calibration`. Distillation
# (chapter 4) learns from these probabilities, so it will matter.
#
# ### Comparing two networks
#
# Two networks can have the same accuracy and be right on different images. Their
# **agreement** is the share of images that get the same answer from both, right or
# wrong. If you replace a network in a product, the disagreements are the answers that
# your users see change.

# %%
agreement = metrics.agreement(logits["ResNet-14"], logits["student"])
fixed = int((~right["student"] & right["ResNet-14"]).sum())
broken = int((right["student"] & ~right["ResNet-14"]).sum())
print(f"agreement {agreement:.2f} %")
print(f"only ResNet-14 is right on {fixed} images, only the student on {broken}")

# %% [markdown]
# To decide whether one is better, only the images on which exactly one is right matter;
# on the others they tie. If the networks were equally good, each of these would be a
# coin toss. **McNemar's test** {cite:p}`mcnemar1947note` asks how likely a split at
# least this uneven is for a fair coin: that is its **p-value**. Below 5 %, the counterpart
# of a 95 % interval, we say that the difference is real.
#
# We try it where it is needed, on a small difference: ResNet-14 against itself with
# a little noise on every weight.

# %%
noisy = checkpoints.load("resnet14")
generator = torch.Generator().manual_seed(1)
with torch.no_grad():
    for weight in noisy.parameters():
        if weight.ndim > 1:
            noise = torch.randn(weight.shape, generator=generator)
            weight += 0.1 * weight.std() * noise

# %% [markdown]
# The intervals of both, the test (`only_a`: only the first network is right), and one more
# line that we explain below:

# %%
right["noisy"] = training.predict(noisy, test.images).argmax(1) == test.labels
for name in ("ResNet-14", "noisy"):
    low, high = metrics.wilson_interval(int(right[name].sum()), len(test))
    print(f"{name:10} {low:.2f} to {high:.2f} %")
print(metrics.mcnemar(right["ResNet-14"], right["noisy"]))
print(metrics.paired_bootstrap(right["ResNet-14"], right["noisy"]))

# %% [markdown]
# The two Wilson intervals overlap: by themselves they cannot tell the networks apart. The
# comparison *image by image* is sharper, because both networks face the same easy and hard
# images and that shared luck cancels. In numbers: two independent accuracies near 94 % each
# have the deviation 0.24, their difference $\sqrt 2$ times that. Image by image, the
# difference is a mean of $-1$, $0$ and $1$, and only the $n$ images on which exactly one is
# right contribute, so its deviation is about $\sqrt n / N$.

# %%
n = int((right["ResNet-14"] != right["noisy"]).sum())
unpaired = 196 * (2 * 0.94 * 0.06 / len(test)) ** 0.5  # points
half_width = 196 * n**0.5 / len(test)
print(f"half-width of the interval: unpaired {unpaired:.2f}, paired {half_width:.2f}")

# %% [markdown]
# The last line above is a **bootstrap** {cite:p}`efron1993introduction`: draw 10,000 images
# from the test set with replacement, compute the difference in points (second network minus
# first), repeat ten thousand times, and take the middle 95 %. It needs no formula, and comes
# to the same width. If the interval excludes zero, we call the difference real.
#
# ### Images and seeds
#
# The image is not the only thing that is drawn: so is the seed. A technique that helped
# seed 0 may not help seed 1. With several seeds of both candidates we resample both,
# seeds *and* images. Stored predictions let us do it without training again. The first
# line of the output says how many seeds there are; with one, only images are resampled.

# %%
stored = {
    name: checkpoints.predictions(name) == test.labels
    for name in ("resnet14", "student")
}
paired = metrics.paired_bootstrap(stored["student"], stored["resnet14"])
print(f"seeds of each network: {len(stored['student'])}")
print(f"ResNet-14 - student: {paired}")

# %% [markdown]
# This interval, over all seeds and images, is what later chapters print beside a gain or
# a loss. With few seeds it is still too narrow: resampling $S$ seeds shows only $(S-1)/S$ of
# their variance, two thirds for three. Bouthillier and colleagues measured how much each source contributes in real
# benchmarks, and found that ignoring seeds makes many published gains look more certain
# than they are {cite:p}`bouthillier2021accounting`.
#
# ## Why it works, when it does not
#
# All of this assumes that the test images had no say in what we measure. Suppose we
# try twenty variants that are *equally good* and report the best on the test set. Its
# accuracy is the largest of twenty draws:

# %%
draws = draw((5_000, 20), 10_000) / 100  # percent
inflation = draws.max(1).values.mean().item() - 94
print(f"the best of 20 equal variants looks {inflation:.2f} points better than it is")

# %% [markdown]
# Nearly the whole half-width of the interval, for nothing, and a fresh test set would take
# it back. It does not help that each single measurement was honest. (This is the worst case,
# variants whose errors are independent. Those of one network share most of their errors and
# gain less, but they gain.) Choosing the best
# epoch on the test set, or calibrating a quantizer on it, is the same mistake. So this
# book chooses on the 5,000 **validation** images, and looks at the test set once for each
# recipe that is finished.
#
# There is a second limit. The interval speaks of images *like these*. Recht and
# colleagues collected new test sets for CIFAR-10 and ImageNet with the original recipes,
# and every network lost far more than its interval allowed {cite:p}`recht2019imagenet`.
#
# ## What practitioners use
#
# SciPy has the interval and the test. McNemar's exact test is a binomial test on the images
# where one of the two is right.

# %%
correct = int(right["ResNet-14"].sum())
result = scipy.stats.binomtest(correct, len(test)).proportion_ci(method="wilson")
ours = metrics.wilson_interval(correct, len(test))
print(f"Wilson: SciPy {100 * result.low:.4f} to {100 * result.high:.4f} %")
print(f"      slimcnn {ours[0]:.4f} to {ours[1]:.4f} %")

# %% [markdown]
# And the p-value:

# %%
mine = metrics.mcnemar(right["ResNet-14"], right["noisy"])
theirs = scipy.stats.binomtest(mine.only_a, mine.only_a + mine.only_b).pvalue
print(f"McNemar: SciPy {theirs:.4g}, slimcnn {mine.p_value:.4g}")

# %% [markdown]
# ```{admonition} What changes at ImageNet scale
# :class: note
# The validation set of ImageNet has 50,000 images, so its interval is narrower, about 0.4
# points to each side at 75 %. Runs are expensive, and one seed is the rule, so the
# seed's share of the uncertainty is usually not measured at all. Labels err as well: a
# difference of a tenth may be a difference in agreeing with wrong labels.
# ```
#
# ## Paper and us
#
# | | reported | here |
# |---|---|---|
# | {cite:t}`guo2017calibration` | ResNet-110 on CIFAR-100: ECE 16.5 % before, 1.3 % after temperature scaling; overconfident | about half as much before and as little after; *under*confident, since our recipe smooths labels |
# | {cite:t}`recht2019imagenet` | accuracy falls by 3 to 15 points on a new CIFAR-10 test set | not measurable: there is no second Fashion-MNIST |
#
# ## The record
#
# Every chapter ends with records like this one: one network, its accuracy and its costs,
# and where the numbers come from. They are JSON files, so they can be compared later.

# %%
row = report.measure_model(
    student,
    name="student",
    technique="dense",
    seed=0,
    split=test,
    command="chapters/01-measuring/accuracy.py",
)
report.table([row])

# %% [markdown]
# The figure that goes with the table shows accuracy against a cost: a network is worth
# having if no other is both above it and to its left. Those are joined by the dashed line,
# the *Pareto front*.

# %%
report.tradeoff(report.load_records("baselines"), cost="bytes")

# %% [markdown]
# Last, as in every lesson, the claims of the text as assertions:

# %% tags=["claims"]
width = (ours[1] - ours[0]) / 2
assert 0.4 < width < 0.55, "about half a point to each side"
assert coverage["shortcut"][0] < 80 < 93 < min(coverage["Wilson"])
assert min(coverage["shortcut"][-2:]) > 93, "good enough from a thousand images on"
assert 5 < ece[1.0] < 10, "about half of what Guo and colleagues report"
assert ece[best] < 2.5, "as little after"
assert data.CLASSES[per_class.argmin()] == "Shirt", "shirts carry much of the error"
assert best < 1, "ResNet-14 is underconfident: the best temperature sharpens"
assert ece[best] < ece[1.0] / 2, "one temperature repairs most of it"
assert 0.3 < inflation < 0.55, "nearly the half-width of the interval"
assert abs(theirs - mine.p_value) < 1e-9
bounds = {
    name: metrics.wilson_interval(int(right[name].sum()), len(test))
    for name in ("ResNet-14", "noisy")
}
assert bounds["noisy"][1] > bounds["ResNet-14"][0], "the two intervals overlap"
change = metrics.paired_bootstrap(right["ResNet-14"], right["noisy"])
assert change.high < 0, "the paired interval excludes zero"
assert abs((change.high - change.low) / 2 - half_width) < 0.05, "the same width"
assert half_width < unpaired / 1.5, "pairing is sharper"
assert fixed > broken
assert paired.low > 0, "ResNet-14 is better than the student, over images and seeds"

# %% [markdown]
# ## Your turn
#
# Write the pair that McNemar's test needs: how many images are wrong in A and right in B,
# and how many are right in A and wrong in B. The arguments are two tensors of predicted
# classes and the labels.


# %%
def fixed_and_broken(predictions_a, predictions_b, labels):
    return ...


measuring.fixed_and_broken(fixed_and_broken)

# %% [markdown]
# ## Summary
#
# An accuracy on 10,000 images is known to about half a point. Comparing two networks image
# by image is sharper than comparing their intervals, and resampling the seeds as well
# tells whether a *recipe* is better or one run was lucky. The mean hides classes and
# confidence, so we look at both. What chose something cannot judge it: choices are made
# on validation images, and the test set is asked once.
#
# ## Check yourself
#
# ```{exercise}
# :label: ex-accuracy-interval
# A network has 92 % on 2,500 test images. Roughly how wide is its 95 % interval, and how
# many images would halve it?
# ```
#
# ```{solution} ex-accuracy-interval
# :class: dropdown
# The deviation is $\sqrt{0.92 \cdot 0.08 / 2500} = 0.54$ points, so the interval is about
# ±1.1 points. Four times as many images, 10,000, halve it.
# ```
#
# ```{exercise}
# :label: ex-accuracy-promise
# The interval of your network is 93.5 to 94.5 %. Does that mean that a second run with
# another seed falls into it with 95 % probability?
# ```
#
# ```{solution} ex-accuracy-promise
# :class: dropdown
# No. It speaks of this network on other images of the same kind. Another seed is another
# network, with another $p$.
# ```
#
# ```{exercise}
# :label: ex-accuracy-mcnemar
# A pruned network fixes 60 images of the dense one and breaks 80. Both intervals overlap.
# Which numbers does McNemar's test use, and is the difference surely real? (SciPy's
# `binomtest(60, 140)` has the p-value.)
# ```
#
# ```{solution} ex-accuracy-mcnemar
# :class: dropdown
# Only 60 and 80. For a fair coin, 140 tosses give a split at least this uneven about one
# time in nine (p = 0.11), so it may well be chance.
# ```
#
# ```{exercise}
# :label: ex-accuracy-choice
# You train for 40 epochs, evaluate on the test set after each, and report the best
# epoch. The difference to the last epoch is 0.2 points. What do you report instead?
# ```
#
# ```{solution} ex-accuracy-choice
# :class: dropdown
# The last epoch, or the epoch that was best on *validation* images, evaluated once on the
# test set. The best of 40 test accuracies is inflated by chance.
# ```
#
# ## Where next
#
# - [Assignment: measuring](../../assignments/release/measuring/measuring.ipynb): count costs, plan a comparison, mend a stopwatch.
# - Back to the [home page](../../book/index.md) for the map of the book; pruning comes next.
# - {cite:t}`bouthillier2021accounting`: how many runs a comparison needs, and what varies.
# - {cite:t}`guo2017calibration`: why modern networks are overconfident.
