# %% [markdown]
# # Assignment: pruning
#
# Pruning is a choice, and then a proof. You choose weights and channels under a budget, write a file
# that is smaller for real, decide whether a gain belongs to pruning or to the epochs that came with
# it, and mend a training whose zeros do not stay.
#
# | task | what | points |
# |---|---|---|
# | 1 | a mask with as many weights in every filter | 3 |
# | 2 | channels that are worth their MACs | 3 |
# | 3 | a smaller file, by fewer channels | 4 |
# | 4 | what did pruning itself do? | 3 |
# | 5 | find the bug: pruned, and as good as before | 3 |
# | 6 | open question | 3 |
#
# **After it you can** turn scores into masks and into channels under a budget, make a pruned
# network small on disk, and tell what pruning did from what training did.
#
# **You need** the lessons of chapter 2: [weights](../../../chapters/02-pruning/magnitude.ipynb) and
# [channels](../../../chapters/02-pruning/structured.ipynb).
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
import torch

from slimcnn import checkpoints, data, metrics, pruning, training
from slimcnn.checks import plain
from slimcnn.checks.assignments import pruning as checks

# %% tags=["parameters"]
LAYER = "stage2.1.conv1"  # task 1: a layer to try the mask on
KEPT = 58  # task 1: so many weights stay in each of its filters
KILOBYTES = 1_130  # task 3: the file may have so many kB (1 kB = 1,000 bytes)
ACCURACY = 92.0  # task 3: and must still reach so many percent on the validation images
MOST_LOST = 0.4  # task 4: points that a run may lose
CLAIMED = "B"  # task 4: the run that is said to be better than the dense network
# Task 4: run, what, epochs after the baseline, accuracy (%) with seeds 0, 1, 2, latency in ms.
RUNS = [
    ["dense 0", "the baseline, as it was", 0, 93.50, 93.71, 93.62, 0.41],
    ["dense 6", "nothing removed", 6, 93.90, 94.02, 93.93, 0.41],
    ["dense 18", "nothing removed", 18, 94.24, 94.31, 94.20, 0.41],
    ["A", "90 % of the weights masked", 6, 93.61, 93.70, 93.66, 0.41],
    ["B", "half of the MACs, channels in 16s", 18, 93.94, 94.05, 93.87, 0.23],
    ["C", "half of the MACs, any channels", 18, 93.98, 94.02, 93.96, 0.43],
    ["D", "a quarter of the MACs, in 16s", 6, 93.22, 93.41, 93.30, 0.15],
]

# %% [markdown]
# ## 1 A mask with as many weights in every filter
#
# One threshold for a whole layer may leave one filter whole and another one empty. Some hardware
# wants every filter to do the same work. So in *each* filter the $k$ weights of the largest
# magnitude stay. For a weight $\mathbf{W}$ with the shape $(C_\text{out}, \dots)$, seen as
# $C_\text{out}$ rows of $n$ numbers, the mask is
#
# $$
# M_{o,i} = 1 \;\text{ if }\; |W_{o,i}| \text{ is one of the } k \text{ largest of row } o,
# \qquad \textstyle\sum_i M_{o,i} = k \;\text{ for every } o .
# $$
#
# Of equal magnitudes, those that come first in the row stay (rows are read as `flatten(1)` reads
# them); $k$ goes from 0 to $n$.
#
# Example: of $(3, -4, 0, 1)$ and $(0.1, 0.2, -0.3, 0.4)$, with $k = 2$, stay $(3, -4)$ and
# $(-0.3, 0.4)$; of $(1, -1, 1, 2)$ stay the first $1$ and the $2$.
#
# Write `keep_largest`. It gives a mask of the shape of the weight, of a convolution or a linear
# layer. (Lesson *weights*, "From scratch".)


# %% task="keep_largest"
def keep_largest(weight, k):
    """(C_out, ...) -> mask of that shape, True for the k largest weights of each filter."""
    ### BEGIN SOLUTION
    order = weight.abs().flatten(1).argsort(dim=1, descending=True, stable=True)
    mask = torch.zeros(order.shape, dtype=torch.bool)
    mask.scatter_(1, order[:, :k], True)
    return mask.view(weight.shape)
    ### END SOLUTION


# %% test="keep_largest" points=3
checks.keep_largest(keep_largest).require()
weight = checkpoints.load("resnet14").get_submodule(LAYER).weight.detach()
mask = torch.as_tensor(keep_largest(weight, KEPT))
print(
    f"{LAYER}: {100 * (1 - mask.float().mean()):.1f} % zeros, the same in each filter"
)
### BEGIN HIDDEN TESTS
checks.keep_largest(keep_largest, seed=SECRET).require()
### END HIDDEN TESTS

# %% [markdown]
# ## 2 Channels that are worth their MACs
#
# A channel of an early layer is computed at many positions and costs more MACs than one of a late
# layer. Who ranks channels by their score $q_i$ alone pays the same for both. Under a budget of
# MACs, the fair rank is the score **per MAC**, $q_i / m_i$. The rule:
#
# 1. Each layer keeps its channel of the highest score (the first, if scores are equal), for a
#    layer without channels lets nothing pass. The budget always suffices for these.
# 2. Go through the other channels from the highest $q_i / m_i$ to the lowest (equal ones in the
#    order of their indices). Keep a channel if all that is kept costs no more than the budget with
#    it; otherwise skip it and **go on**, since a cheaper one may still fit.
#
# Example: layer 0 has three channels of 4 MACs with the scores 8, 2, 6; layer 1 has two of 1 MAC
# with 1 and 3; the budget is 8. The first rule keeps channels 0 and 4, for 5 MACs. Then comes channel
# 2 (6/4 = 1.5 a MAC): 9 MACs, too many. Channel 3 (1 a MAC) fits, and channel 1 does not. The mask
# is (1, 0, 0, 1, 1), for 6 MACs.
#
# Write `affordable`. Scores, MACs and the number of the layer come for $n$ channels in any order,
# those of a layer not always side by side; channels of one layer cost the same. (Here a channel's
# cost does not depend on what else stays; in a network it does: lesson *channels*, "The idea".)


# %% task="affordable"
def affordable(scores, macs, layer, budget):
    """Tensors (n,), (n,), (n,), and a number -> mask (n,), True for channels that stay."""
    ### BEGIN SOLUTION
    mask = torch.zeros(len(scores), dtype=torch.bool)
    for number in layer.unique():
        best = torch.where(layer == number, scores, -torch.inf).argmax()
        mask[best] = True
    spent = macs[mask].sum()
    for i in (scores / macs).argsort(descending=True, stable=True):
        if not mask[i] and spent + macs[i] <= budget:
            mask[i] = True
            spent += macs[i]
    return mask
    ### END SOLUTION


# %% test="affordable" points=3
checks.affordable(affordable).require()
### BEGIN HIDDEN TESTS
checks.affordable(affordable, seed=SECRET).require()
### END HIDDEN TESTS

# %% [markdown]
# ## 3 A smaller file, by fewer channels
#
# Now a real file. Write `prune(path)`: it takes ResNet-14, removes channels for good, and saves the
# smaller network with `checkpoints.save_weights(model, path)`, in at most `KILOBYTES` kB. The check
# reads the file with `pruning.load_pruned`, into a new ResNet-14, and asks for `ACCURACY` percent on
# the validation images; when it is graded, half a point less on the test images, which you may not
# use.
#
# Here all functions of the package are open to you; the plan is yours. Three things to think about:
#
# - The budget is of *bytes*. Which layers hold them? (`pruning.allocate` has a `resource`.)
# - The same share of every group is a poor plan, a point or more below a good one. A scan of the
#   sensitivity makes a better one; 300 validation images are enough to see what hurts.
# - What helps afterwards: batch-norm statistics measured anew, and a very short fine-tuning with a
#   low rate. One epoch on 5,000 training images (`training.Recipe(epochs=1, lr=0.02, average=0.0)`)
#   takes some seconds. All in all `prune` should need less than half a minute.
#
# The reference reaches more than half a point above what is asked. (Lesson *channels*, "On the network".)


# %% task="prune"
def prune(path):
    """Save a ResNet-14 with fewer channels."""
    ### BEGIN SOLUTION
    dense = checkpoints.load("resnet14")
    few, train = data.load("validation").subset(300), data.load("train")
    groups = pruning.find_groups(dense, (1, 1, 28, 28))
    scores = pruning.group_scores(groups, pruning.filter_l1(dense))
    scan = pruning.channel_sensitivity(
        dense, groups, scores, (0.25, 0.5, 0.75), lambda m: training.evaluate(m, few)
    )
    counts = pruning.allocate(
        groups,
        pruning.damage_curves(scan),
        budget=0.99 * 1000 * KILOBYTES / metrics.saved_bytes(dense),
        resource="bytes",
        round_to=8,
    )
    keep = pruning.keep_best(groups, scores, counts)
    smaller = pruning.shrink(dense, groups, keep)
    recipe = training.Recipe(epochs=1, lr=0.02, average=0.0)
    tuned, _ = training.fit(
        smaller, train.subset(5_000), recipe, seed=0, progress=False
    )
    checkpoints.save_weights(tuned, path)
    ### END SOLUTION


# %% test="prune" points=4
print(checks.small_file(prune, KILOBYTES, ACCURACY).require())
### BEGIN HIDDEN TESTS
checks.measured(KILOBYTES, ACCURACY - 0.5, "test").require()
### END HIDDEN TESTS

# %% [markdown]
# ## 4 What did pruning itself do?
#
# A team has a trained network, its baseline, and reports: "Run `CLAIMED` is *more accurate* than
# the dense network. Pruning regularizes." These are all its runs, from the same three baselines,
# measured on the test set:

# %%
print(f"{'run':10}{'what':35}{'epochs':>6}{'accuracy with seeds 0, 1, 2':>29}{'ms':>7}")
for name, what, epochs, *accuracies, ms in RUNS:
    shown = "".join(f"{x:9.2f}" for x in accuracies)
    print(f"{name:10}{what:35}{epochs:6}  {shown}{ms:7.2f}")

# %% [markdown]
# A dense run that was trained on for as many epochs as a pruned one is that run's **control**.
# Fill in the dictionary `findings`:
#
# - `"change"`: what pruning did to the accuracy of the run `CLAIMED`, in points, negative if it
#   lost: the mean over the seeds of *run minus control*, to two decimals;
# - `"verdict"`: `"gain"` if the run is better than its control with every seed, `"loss"` if it is
#   worse with every seed, `"open"` otherwise;
# - `"ship"`: the name of the pruned run with the lowest latency, among those that lose at most
#   `MOST_LOST` points, on the mean, against *their own* control.
#
# (Lesson *weights*, "Fine-tuning, at once or gradually"; lesson *channels*, "and the controls".)


# %% task="findings"
findings = {"change": 0.0, "verdict": "?", "ship": "?"}  # your turn
### BEGIN SOLUTION
runs = {row[0]: row for row in RUNS}
changes = {}
for name, _, epochs, *accuracies, _ in RUNS:
    control = runs[f"dense {epochs}"][3:6]
    changes[name] = [a - b for a, b in zip(accuracies, control, strict=True)]
means = {n: sum(c) / 3 for n, c in changes.items() if "dense" not in n}
signs = {change > 0 for change in changes[CLAIMED]}
findings = {
    "change": round(means[CLAIMED], 2),
    "verdict": "open" if len(signs) == 2 else "gain" if True in signs else "loss",
    "ship": min((runs[n][6], n) for n in means if means[n] >= -MOST_LOST)[1],
}
### END SOLUTION


# %% test="findings" points=3
findings = plain(findings)
assert set(findings) == {"change", "verdict", "ship"}, "three keys, as above"
assert isinstance(findings["change"], (int, float)), "change is a number, in points"
assert findings["verdict"] in ("gain", "loss", "open"), "verdict: gain, loss or open"
pruned = [row[0] for row in RUNS if not row[0].startswith("dense")]
assert findings["ship"] in pruned, f"ship is one of {pruned}"
### BEGIN HIDDEN TESTS
rows = {row[0]: row for row in RUNS}


def against_control(name):
    run, control = rows[name], rows[f"dense {rows[name][2]}"]
    return [a - b for a, b in zip(run[3:6], control[3:6], strict=True)]


lost = {name: -sum(against_control(name)) / 3 for name in rows if "dense" not in name}
fits = [name for name in lost if lost[name] <= MOST_LOST + 1e-9]
signs = {difference > 0 for difference in against_control(CLAIMED)}
verdict = "open" if len(signs) > 1 else "gain" if True in signs else "loss"
off = abs(findings["change"] + lost[CLAIMED])
upside_down = abs(findings["change"] - lost[CLAIMED]) < 0.0101 < off
assert not upside_down, "change: negative if it lost"
assert off < 0.0101, "change: the control is the dense run with the same epochs"
assert findings["verdict"] == verdict, "verdict: seed by seed, against the control"
assert findings["ship"] == min(fits, key=lambda n: rows[n][6]), "ship: own controls"
### END HIDDEN TESTS

# %% [markdown]
# ## 5 Find the bug: pruned, and as good as before
#
# A blog announces that a linear layer with 90 % zeros, trained on for a moment, fits its data as
# well as the dense one had. This is its code. It goes on from the dense training, with the velocity
# that momentum had built up, and it runs:


# %%
def announced(weight, velocity, mask, inputs, targets, steps):
    """Prune, then train on: weights (C_in, 1), and their share of zeros."""
    weight = weight * mask
    for _ in range(steps):
        gradient = inputs.T @ (inputs @ weight - targets) / len(inputs)
        velocity = 0.9 * velocity + gradient + 0.01 * weight
        weight = weight - 0.05 * velocity
    zeros = 1 - mask.double().mean().item()
    return weight, zeros


# %%
generator = torch.Generator().manual_seed(0)
inputs = torch.randn(200, 40, dtype=torch.float64, generator=generator)
truth = torch.randn(40, 1, dtype=torch.float64, generator=generator)
mask = pruning.mask_of(truth.abs(), 0.9)
trained, zeros = announced(truth, 0 * truth, mask, inputs, inputs @ truth, steps=100)
error = (inputs @ (trained - truth)).square().mean()
print(f"{100 * zeros:.0f} % zeros, mean squared error {error:.4f}")

# %% [markdown]
# The data were made with all 40 weights, so four of them cannot do this well. Write
# `train_sparse`, with the same arguments, the same rates (0.9, 0.01, 0.05) and the same kind of
# result, so that
#
# - a pruned weight is zero at *every* step, also while gradients are computed; there is more than
#   one thing that could move it;
# - the weights that stay are trained as before;
# - the share of zeros is counted in the weights that are given back, whatever the mask says.
#
# (Lesson *weights*, "Masks that survive the optimizer".)


# %% task="train_sparse"
def train_sparse(weight, velocity, mask, inputs, targets, steps):
    """Prune, then train on with zeros that stay: weights (C_in, 1), share of zeros."""
    ### BEGIN SOLUTION
    weight, velocity = weight * mask, velocity * mask
    for _ in range(steps):
        gradient = inputs.T @ (inputs @ weight - targets) / len(inputs)
        velocity = 0.9 * velocity + gradient * mask + 0.01 * weight
        weight = weight - 0.05 * velocity
    return weight, (weight == 0).double().mean().item()
    ### END SOLUTION


# %% test="train_sparse" points=3
checks.train_sparse(train_sparse).require()
### BEGIN HIDDEN TESTS
checks.train_sparse(train_sparse, seed=SECRET).require()
### END HIDDEN TESTS

# %% [markdown]
# ## 6 Open question
#
# An app has to answer in half the time that its CNN takes now, on the phone's CPU, with a runtime
# that you cannot change. A colleague has set 90 % of the weights to zero by magnitude, fine-tuned for
# twenty epochs, and says: "No accuracy lost, ten times fewer weights: we are done." In at most 150
# words: are you? Say what this pruning changes and what not, what you would do instead or beside
# it, and which comparison would convince you that no accuracy was lost.
#
# | points | what the answer does |
# |---|---|
# | 1 | says that masked weights are neither faster nor, in a dense file, smaller, with the reason |
# | 2 | and proposes channels removed for real: tied groups, multiples of the vector width, a budget by sensitivity |
# | 3 | and names the controls: the dense network trained as long, the small one from scratch (one is enough), paired or over seeds, and a latency measured in that runtime |

# %% [markdown] open="advice" points=3
# Not yet. The kernel multiplies zeros like other numbers, so the app is as slow as before, and the
# file is as large unless it is written in a sparse format. Fewer weights are not fewer operations in
# a dense runtime. For time I would remove whole channels: find the groups that have to go together
# in the residual blocks, divide a budget of about half the MACs by sensitivity, keep multiples of 8
# or 16 channels, shrink the tensors, export, and time it beside the dense network in that runtime,
# interleaved. "No accuracy lost" compares twenty epochs with none: the control is the dense network
# trained on for the same twenty epochs, image by image, over at least three seeds. And a small
# network of the same MACs trained from scratch tells whether the pruned weights are worth anything.
