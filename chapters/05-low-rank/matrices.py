# %% [markdown]
# # Layers as matrices of low rank
#
# A weight matrix of 128 rows rarely has 128 things to say. This lesson replaces one layer by
# two thin ones, and changes MACs and bytes without removing a single channel that the next
# layer could see.
#
# **You will**
#
# - approximate a matrix by one of lower rank, and check that nothing of that rank is nearer;
# - compute the rank from which two thin layers are no longer cheaper than one;
# - read a convolution as a matrix in three ways, and build the two layers that each gives;
# - let the *data* decide what a layer may forget;
# - compare the error of a layer with the accuracy of the network, and not confuse them.
#
# **You need** [What a network costs](../01-measuring/cost.ipynb),
# [Pruning single weights](../02-pruning/magnitude.ipynb), and some linear algebra: eigenvectors,
# orthogonal matrices. Symbols are on the [notation page](../../book/notation.md).
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
import matplotlib.pyplot as plt
import torch
import torchvision
from torch import nn

from slimcnn import checkpoints, data, lowrank, metrics, plotting, pruning, training
from slimcnn.checks import low_rank

plotting.use_style()
_ = torch.manual_seed(0)

# %% [markdown]
# ## Measure first
#
# ResNet-14, its costs, and its accuracy on 500 validation images, which decide everything in
# this lesson:

# %%
dense = checkpoints.load("resnet14")
validation = data.load("validation").subset(500)


def accuracy(model):
    return training.evaluate(model, validation)


print(f"{metrics.count_parameters(dense):,} parameters", end=", ")
print(f"{metrics.count_macs(dense):,} MACs, {accuracy(dense):.1f} %")

# %% [markdown]
# ## The idea
#
# A linear layer computes $\mathbf{y} = \mathbf{W}\mathbf{x}$ with an $m \times n$ matrix:
# $m\,n$ weights, $m\,n$ MACs. If $\mathbf{W}$ were a product of an $m \times r$ and an
# $r \times n$ matrix, two layers could do the same work with $r\,(m + n)$. Every matrix is
# such a product: the **singular value decomposition** (SVD) writes it as
#
# $$
# \mathbf{W} = \mathbf{U} \operatorname{diag}(\boldsymbol\sigma) \mathbf{V}^\top
#   = \sum_{i} \sigma_i\, \mathbf{u}_i \mathbf{v}_i^\top ,
# \qquad \sigma_1 \ge \sigma_2 \ge \dots \ge 0,
# $$ (eq-svd)
#
# with orthonormal columns in $\mathbf{U}$ and $\mathbf{V}$. Keep the first $r$ terms. Eckart
# and Young proved that no matrix of rank $r$ is nearer {cite:p}`eckart1936approximation`, and
# that what is lost is the rest of the spectrum ($\lVert\cdot\rVert_2$ is the root of the sum of
# all squared entries):
#
# $$
# \min_{\operatorname{rank} \hat{\mathbf W} \le r}
#   \lVert \mathbf{W} - \hat{\mathbf W} \rVert_2^2 = \sum_{i > r} \sigma_i^2 .
# $$ (eq-eckart-young)
#
# So everything depends on how fast the singular values fall. Here they are, for three layers
# of the trained network and for a random matrix of the size of `stage3.1.conv2`:

# %%
shown = {n: dense.get_submodule(n) for n in ("stage1.1.conv2", "stage3.1.conv2", "fc")}
fig, ax = plt.subplots()
for name, layer in shown.items():
    values = torch.linalg.svdvals(layer.weight.detach().flatten(1))
    ax.plot((values / values[0]).numpy(), label=name)
noise = torch.linalg.svdvals(torch.randn(128, 1152))
ax.plot((noise / noise[0]).numpy(), "k:", label="random 128×1152")
ax.set(xlabel="index", ylabel="singular value (largest = 1)")
_ = ax.legend()

# %% [markdown]
# A trained layer is not a random one: a few directions are large and most are small. But the
# convolutions' curves fall slowly, and not to zero: there is no rank at which the rest is nothing.
# (The classifier's last value *is* almost zero: softmax does not see what is added to all ten
# logits, and weight decay has taken it away. A convolution's kernel was read as a matrix here, one
# filter a row; more of that below.)
#
# ### When do two layers cost less than one?
#
# Two thin layers pay if $r\,(m + n) < m\,n$, so below the **break-even rank**
#
# $$
# r^* = \frac{m\,n}{m + n} .
# $$ (eq-break-even-rank)
#
# For a square matrix that is $m / 2$: half of the full rank. A square layer that needs 60 % of
# its rank becomes *larger* by this "compression". (As a whole number the break-even rank is the
# largest one that still saves something, strictly below $r^*$.)
#
# ## By hand
#
# A matrix that looks full and has rank one, and one step beyond it:

# %% tags=["nbval-check-output"]
outer = torch.outer(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])).double()
near = torch.tensor([[3.0, 4.0], [6.0, 8.1]], dtype=torch.float64)
for name, matrix in (("rank one", outer), ("nearly", near)):
    values = torch.linalg.svdvals(matrix)
    print(f"{name:9}{matrix.tolist()}: {values[0]:.3f}, {values[1]:.3f}")

# %% [markdown]
# $(1, 2)^\top (3, 4)$ has the singular value $\sqrt{5} \cdot \sqrt{25} = 11.18$ and no other.
# Changing one entry by 0.1 gives a second one, smaller than 0.1: that is all that the best
# matrix of rank one would lose.
#
# ## From scratch
#
# The factors share the singular values, $\sqrt{\sigma_i}$ each, so that both have columns of
# the same size: kinder to fine-tuning and to quantization than one large and one small factor.


# %%
def truncated_svd(matrix, rank):
    """(m, n) -> left (m, rank) and right (rank, n)."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vh[:rank]


# %% [markdown]
# The equality cell checks three things: our product is the package's, the error is
# {eq}`eq-eckart-young`, and no other matrix of that rank that we try is nearer.

# %%
weight = dense.stage3[1].conv2.weight.detach().flatten(1)  # (128, 1152)
left, right = truncated_svd(weight, 32)
theirs = lowrank.truncated_svd(weight, 32)
torch.testing.assert_close(left @ right, theirs[0] @ theirs[1], atol=1e-4, rtol=1e-4)
error = (weight - left @ right).square().sum()
tail = torch.linalg.svdvals(weight)[32:].square().sum()
torch.testing.assert_close(error, tail, atol=1e-3, rtol=1e-3)

# %% [markdown]
# No other pair of factors near these is better, and no other 32 directions are:

# %%
for _ in range(20):
    shaken = [f + 0.01 * torch.randn_like(f) for f in (left, right)]
    assert (weight - shaken[0] @ shaken[1]).square().sum() > error
    basis = torch.linalg.qr(torch.randn(1152, 32)).Q  # any other 32 directions
    assert (weight - weight @ basis @ basis.T).square().sum() > error

# %% [markdown]
# Two layers from one. The bias stays in the second:


# %%
def thin_linear(layer, rank):
    """nn.Linear -> two of them."""
    first = nn.Linear(layer.in_features, rank, bias=False)
    second = nn.Linear(rank, layer.out_features)
    left, right = truncated_svd(layer.weight.detach(), rank)
    first.weight.data, second.weight.data = right, left
    second.bias.data = layer.bias.detach().clone()
    return nn.Sequential(first, second)


# %% [markdown]
# The package's:

# %%
x = torch.randn(5, 128)
mine, package = thin_linear(dense.fc, 6), lowrank.svd_linear(dense.fc, 6)
torch.testing.assert_close(mine(x), package(x), atol=1e-4, rtol=1e-4)

# %% [markdown]
# ### A convolution is a matrix, three times
#
# A kernel has four axes, $(C_\text{out}, C_\text{in}, k_h, k_w)$. To make a matrix of it, put
# some of them into the rows and the others into the columns. Each way gives another pair of
# layers.
#
# | rows × columns | first layer | second layer | weights |
# |---|---|---|---|
# | **channel**: $C_\text{out} \times C_\text{in} k_h k_w$ | $k_h \times k_w$ to $r$ channels | 1×1 | $r\,(C_\text{in} k_h k_w + C_\text{out})$ |
# | **input**: $C_\text{out} k_h k_w \times C_\text{in}$ | 1×1 to $r$ channels | $k_h \times k_w$ | $r\,(C_\text{in} + C_\text{out} k_h k_w)$ |
# | **spatial**: $C_\text{in} k_h \times C_\text{out} k_w$ | $k_h \times 1$ to $r$ channels | $1 \times k_w$ | $r\,(C_\text{in} k_h + C_\text{out} k_w)$ |
#
# The channel scheme {cite:p}`zhang2016accelerating` is the convolution as the matrix product
# that it is. Cut every patch out of the input and write it as a column (*im2col*): filters as rows
# times patches as columns are the outputs.

# %%
conv, x = dense.stage2[0].conv1, torch.randn(2, 32, 14, 14)  # 32 -> 64, stride 2
patches = nn.functional.unfold(x, 3, padding=1, stride=2)  # (2, 32 * 9, 7 * 7)
with torch.no_grad():
    by_product = (conv.weight.flatten(1) @ patches).unflatten(2, (7, 7))
    torch.testing.assert_close(by_product, conv(x), atol=1e-4, rtol=1e-4)

# %% [markdown]
# To this matrix {eq}`eq-svd` applies as it stands: a convolution to $r$ channels, then a mixture of
# these. The spatial one
# {cite:p}`jaderberg2014speeding` is the least obvious. It splits the *kernel*: first along
# columns, then along rows. (Its rows are inputs, so here the *left* factor becomes the first
# layer.) With
#
# $$
# W_{oiyx} \approx \sum_{q=1}^{r} A_{oqx}\, B_{qiy}
# $$ (eq-spatial)
#
# the sum over $i, y, x$ can be done in two steps, over $i$ and $y$ first, then over $q$ and $x$.


# %%
def spatial_pair(conv, rank):
    """Conv2d (O, I, kh, kw) -> a kh×1 and a 1×kw convolution."""
    o, i, kh, kw = conv.weight.shape
    matrix = conv.weight.detach().permute(1, 2, 0, 3).reshape(i * kh, o * kw)
    left, right = truncated_svd(matrix, rank)
    (sh, sw), (ph, pw) = conv.stride, conv.padding
    first = nn.Conv2d(i, rank, (kh, 1), (sh, 1), (ph, 0), bias=False)
    second = nn.Conv2d(rank, o, (1, kw), (1, sw), (0, pw), bias=False)
    first.weight.data = left.T.reshape(rank, i, kh, 1)
    second.weight.data = right.view(rank, o, kw).transpose(0, 1).unsqueeze(2)
    return nn.Sequential(first, second)


# %% [markdown]
# At full rank it is the convolution itself, at rank 24 what the package makes:

# %%
whole = lowrank.largest_rank(conv, "spatial")
with torch.no_grad():
    torch.testing.assert_close(
        spatial_pair(conv, whole)(x), conv(x), atol=1e-4, rtol=1e-4
    )
    theirs = lowrank.factorize_layer(conv, "spatial", 24)(x)
    torch.testing.assert_close(spatial_pair(conv, 24)(x), theirs, atol=1e-4, rtol=1e-4)

# %% [markdown]
# At full rank two layers compute what one did: that is the test that any factorization has to
# pass before it may forget anything.
#
# ## On the network
#
# Where is the break-even for each scheme, and how much of a layer is lost there?

# %% tags=["nbval-check-output"]
conv = dense.stage3[1].conv2  # 128 -> 128, 3×3
for method in ("channel", "input", "spatial"):
    full, rank = (
        lowrank.largest_rank(conv, method),
        lowrank.break_even_rank(conv, method),
    )
    kept = 1 - lowrank.relative_errors(conv, method)[rank // 2]
    print(f"{method:8} full rank {full:3}, break-even {rank:3}", end="; ")
    print(f"half of the weights keep {100 * kept:.0f} % of the squares")

# %% [markdown]
# At about the same number of weights the spatial scheme loses least of this kernel: a quarter of its
# 384 directions keep more than nearly half of the other schemes' 128. Now the whole network, every 3×3 layer at
# half of its weights, or the next rank below:

# %%
images = data.load("train").images[:1000]
layers = [
    n
    for n, m in lowrank.candidates(dense, ("channel",)).items()
    if m.kernel_size[0] == 3
]
layers = layers[1:]  # not the stem, which has a single input channel


# %% [markdown]
# Each way at half of the weights, accuracy without any training:


# %%
def halved(method, moments=None):
    """Every 3×3 layer at half of its weights, batch norms measured anew."""
    plan = {
        n: lowrank.Choice(method, lowrank.rank_at(dense.get_submodule(n), method, 0.5))
        for n in layers
    }
    return pruning.recalibrate(lowrank.factorize(dense, plan, moments), images)


# %% [markdown]
# All three:


# %%
def hits(model, split):
    """Correct or not, for each image of one seed."""
    return (training.predict(model, split.images).argmax(1) == split.labels)[None]


found = {method: halved(method) for method in ("channel", "input", "spatial")}
raw = {method: accuracy(model) for method, model in found.items()}
for method, model in found.items():
    macs = metrics.count_macs(model) / metrics.count_macs(dense)
    print(f"{method:8} {100 * macs:.1f} % of the MACs, {raw[method]:.1f} %")
ahead = {
    name: metrics.paired_bootstrap(
        hits(found["channel"], validation), hits(found[name], validation)
    )
    for name in ("input", "spatial")
}
for name, difference in ahead.items():
    print(f"{name:8} minus channel {difference}")

# %% [markdown]
# No training yet. (Batch-norm statistics were measured anew, as chapter 2 has taught.) The channel
# scheme loses most; between the other two, 500 images cannot tell. Yet of `stage3.1.conv2` the
# channel and the input scheme kept the same share: a first sign that the error of a kernel is not the
# error of the network.
#
# The MACs differ, for two reasons. Ranks are whole numbers, and some use up the half that they may
# have, others less. And in layers with a stride, the first layer of the input scheme works before
# it, and that of the spatial scheme before its horizontal half.
#
# ### What may a layer forget? Ask the data
#
# {eq}`eq-eckart-young` treats all inputs alike. The network does not: what comes into a layer
# lies mostly in a few directions. So minimize the error of the *outputs* instead, for inputs
# with the second moment $\mathbf{G} = \mathbb{E}[\mathbf{x}\mathbf{x}^\top]$:
#
# $$
# \mathbb{E}\,\lVert \mathbf{W}\mathbf{x} - \hat{\mathbf W}\mathbf{x} \rVert^2
# = \lVert (\mathbf{W} - \hat{\mathbf W})\, \mathbf{G}^{1/2} \rVert_2^2 .
# $$ (eq-data-aware)
#
# (For a convolution, $\mathbf{x}$ is a patch, and the mean is over positions, too.)
# $\hat{\mathbf W}\mathbf{G}^{1/2}$ has at most the rank of $\hat{\mathbf W}$, so this is the old
# problem for the matrix $\mathbf{W}\mathbf{G}^{1/2}$, whose best rank-$r$ approximation is $\mathbf{U}_r \mathbf{U}_r^\top \mathbf{W}\mathbf{G}^{1/2}$, with its first
# left singular vectors in $\mathbf{U}_r$. So $\hat{\mathbf W} = \mathbf{U}_r \mathbf{U}_r^\top
# \mathbf{W}$, and nothing has to be inverted. And these vectors are the eigenvectors of
# $\mathbf{W}\mathbf{G}\mathbf{W}^\top$, the second moment of the layer's *outputs*: keep the
# directions in which the outputs are strong, and drop the rest.

# %%
g_half = torch.diag(torch.tensor([1.0, 1.0, 0.01]))  # the third input hardly ever moves
matrix = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 3.0]])
left, right = lowrank.truncated_svd(matrix, 2)
aware = lowrank.whitened_svd(matrix, 2, g_half @ g_half)
for name, (a, b) in {"weights": (left, right), "data": aware}.items():
    lost = ((matrix - a @ b) @ g_half).square().sum()
    print(f"best for the {name:8} loses {lost:.4f} of the outputs")

# %% [markdown]
# The best matrix for the weights keeps the large 3, which is multiplied by almost nothing. For
# the network, we let 500 training images pass and note the second moment of each layer's
# outputs:

# %%
moments = lowrank.output_moments(dense, images[:500])
aware, whole = halved("channel", moments), data.load("validation")
gain = metrics.paired_bootstrap(hits(found["channel"], whole), hits(aware, whole))
print(f"data-aware minus plain, on all 5,000 validation images: {gain}")

# %% [markdown]
# No labels were used, and no gradient. And no gain can be told. The formula keeps the *outputs of a
# layer*, each direction by its strength; the network after it may need others. (Zhang and colleagues
# also adapt each layer to the approximated ones before it, and account for the ReLU.)
#
# ## Why it works, when it does not
#
# **An error of a layer is not an error of the network.** For every layer by itself: how much of
# its kernel is lost at half of its weights, and what does that do to the network? A single layer
# changes the accuracy by a few images, so we take the loss, image by image, of 2,000 validation images.


# %%
def losses(model, split):
    """Cross-entropy of each image."""
    logits = training.predict(model, split.images)
    return nn.functional.cross_entropy(logits, split.labels, reduction="none")


part, single, lost, added = whole.subset(2000), {}, {}, {}
unchanged = losses(dense, part)
for name in layers:
    layer = dense.get_submodule(name)
    rank = lowrank.rank_at(layer, "channel", 0.5)
    lost[name] = 100 * lowrank.relative_errors(layer, "channel")[rank]
    one = lowrank.factorize(dense, {name: lowrank.Choice("channel", rank)})
    single[name] = pruning.recalibrate(one, images)
    added[name] = losses(single[name], part) - unchanged


# %% [markdown]
# Against each other. The bars are 95 % intervals of the mean over images:


# %%
def mean_and_margin(values):
    """The mean, and 1.96 standard errors of it."""
    return values.mean().item(), 1.96 * (values.std() / len(values) ** 0.5).item()


fig, ax = plt.subplots()
for place, name in enumerate(sorted(lost, key=lost.get)):
    mean, margin = mean_and_margin(added[name])
    ax.errorbar(lost[name], mean, margin, fmt="o", color=plotting.PALETTE[0])
    ax.annotate(
        name.removeprefix("stage"),
        (lost[name], mean),
        fontsize=7,
        xytext=(-4, -9) if place % 2 else (4, 3),  # neighbors' names on other sides
        ha="right" if place % 2 else "left",
        textcoords="offset points",
    )
_ = ax.set(xlabel="squares lost of the kernel (%)", ylabel="validation loss added")

# %% [markdown]
# Each dot is a layer, 3.1.conv2 that of `stage3.1.conv2`. If the error of the kernel told what the
# network loses, the dots would rise from left to right in a line. They do not. Two of them, compared
# image by image on all 5,000:

# %%
harsh, gentle = "stage1.0.conv1", "stage2.1.conv1"
more, margin = mean_and_margin(
    losses(single[harsh], whole) - losses(single[gentle], whole)
)
print(
    f"{harsh} loses {lost[harsh]:.0f} % of its squares, {gentle} {lost[gentle]:.0f} %"
)
print(f"the first adds {more:.4f} ± {margin:.4f} more to the loss")

# %% [markdown]
# So a plan for the whole network should not be made from energies alone. The
# [next lesson](tensors.ipynb) makes one from what the network loses.
#
# **Too much rank.** A layer "compressed" to half, to 90 % and to all of its rank:

# %% tags=["nbval-check-output"]
for rank in (64, 115, 128):
    made = lowrank.factorize_layer(dense.stage3[1].conv2, "channel", rank)
    share = metrics.count_parameters(made) / dense.stage3[1].conv2.weight.numel()
    print(f"rank {rank:3} of 128: {100 * share:.1f} % of the weights")

# %% [markdown]
# ### Find the bug
#
# A tutorial's function for "SVD compression of a network":


# %%
def compress(model, rank):
    factors = {}
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            u, s, v = torch.svd(weight)
            factors[name] = u[:, :rank], s[:rank], v[:, :rank]
    return factors


factors = compress(dense, 4)
print(f"{metrics.count_parameters(dense):,} parameters, {accuracy(dense):.1f} %")

# %% [markdown]
# Nothing was replaced. The network is as large as before, and there are three more tensors
# beside it, which no layer uses. Also, it looks at matrices only, and ResNet-14 has a single
# one: 1,280 of its weights. An experiment that had measured the *file* would have shown it.
#
# ## What practitioners use
#
# `torch.linalg.svd` is exact; for very large matrices `torch.svd_lowrank` computes the first
# directions only, by random projections {cite:p}`halko2011finding`. On one of our layers, how
# far is it from the best?

# %%
u, s, v = torch.svd_lowrank(weight, q=32, niter=2)
random_error = (weight - u * s @ v.T).square().sum() / error
print(f"randomized: {random_error:.4f} times the least error")

# %% [markdown]
# A network that is not ours: torchvision's VGG-11 for color images, famous for its linear
# layers. What do its three of them weigh, and what at a rank of 128?

# %% tags=["nbval-check-output"]
vgg = torchvision.models.vgg11(weights=None)
names = ("classifier.0", "classifier.3", "classifier.6")
before = sum(p.numel() for n in names for p in vgg.get_submodule(n).parameters())
after = sum(
    lowrank.factorized_parameters(vgg.get_submodule(n), "svd", 128) for n in names
)
total = metrics.count_parameters(vgg)
print(f"{before:,} of {total:,} parameters -> {after:,}")

# %% [markdown]
# ```{admonition} What changes at ImageNet scale
# :class: note
# Old networks had most of their weights in linear layers, where the SVD saves most
# {cite:p}`denton2014exploiting`. Modern ones end with global pooling, and most of their
# weights are in 1×1 convolutions, which are plain matrices. Deep networks add up the errors of
# their layers: {cite:t}`zhang2016accelerating` factorize one layer after the other, each for the
# outputs of the part that is approximated already, and reach 4 times the speed of VGG-16 at 0.3
# points of top-5 accuracy.
# ```
#
# ## Paper and us
#
# | | reports | we measured |
# |---|---|---|
# | {cite:t}`zhang2016accelerating`, VGG-16 | 4 times faster at 0.3 points (top 5), with more than is in this lesson: nonlinear units, a spatial split | the interval of the data-aware section |
# | {cite:t}`jaderberg2014speeding`, text recognition | spatial scheme 2.5 times faster without loss, 4.5 times at less than one point | the table of the three schemes |
#
# The claims of the text:

# %% tags=["claims"]
assert all(difference.low > 0 for difference in ahead.values()), "channel loses most"
assert gain.low < 0 < gain.high, "no difference to be told"
macs = {method: metrics.count_macs(model) for method, model in found.items()}
assert macs["spatial"] > macs["input"] > macs["channel"]
assert 1 <= random_error < 1.1
assert lost[harsh] < lost[gentle] and more > margin, "less of the kernel, more harm"

# %% [markdown]
# ## Your turn
#
# Write the break-even rank of the *channel* scheme: the largest whole $r$ at which the two
# layers have fewer weights than the one, or 0 if there is none. Replace the `...` and run the
# cell.


# %%
def channel_break_even(c_in, c_out, kernel):
    return ...


low_rank.channel_break_even(channel_break_even)

# %% [markdown]
# ## Summary
#
# The SVD gives the best matrix of a rank, and the singular values say what it loses. Two thin
# layers pay below the break-even rank only. A convolution's kernel can be read as a matrix in
# three ways, each of which is another pair of layers. The data may decide what is kept: then the
# first directions of the outputs matter, not those of the weights; here that gained nothing. And the error of a layer does
# not tell what the network loses.
#
# ## Check yourself
#
# ```{exercise}
# :label: ex-matrices-square
# A linear layer has 1,000 inputs and 10 outputs. Up to which rank do two layers pay?
# ```
#
# ```{solution} ex-matrices-square
# :class: dropdown
# $10{,}000 / 1{,}010 = 9.9$: up to rank 9 of 10, where they save 9 %. Rank 5 would save half;
# whether five of ten directions are enough, the singular values say.
# ```
#
# ```{exercise}
# :label: ex-matrices-spatial
# Which 3×3 kernels does the spatial scheme with one input and one output channel reproduce at
# rank one? Name one that it does not.
# ```
#
# ```{solution} ex-matrices-spatial
# :class: dropdown
# Those that are a column times a row, like a box or a Gaussian blur, or a Sobel edge. The
# identity matrix as a kernel has rank three and needs three.
# ```
#
# ```{exercise}
# :label: ex-matrices-bias
# The bias of a factorized layer is put into the second of the two. Could it be in the first?
# ```
#
# ```{solution} ex-matrices-bias
# :class: dropdown
# In general not: a bias $\mathbf{b}$ with $r$ entries before the second layer adds
# $\mathbf{L}\mathbf{b}$, and only vectors in the span of its $r$ columns can be had that way.
# ```
#
# ```{exercise}
# :label: ex-matrices-data
# For which inputs are the data-aware and the plain SVD the same?
# ```
#
# ```{solution} ex-matrices-data
# :class: dropdown
# Always for inputs whose second moment is a multiple of the identity, all directions equally
# strong; for others if the strongest directions of the outputs happen to be those of the weights.
# ```
#
# ## Where next
#
# - [Assignment: low-rank](../../assignments/release/low-rank/low-rank.ipynb): factors, ranks under a budget, and layers that were never replaced.
# - Next lesson: [tensors](tensors.ipynb), kernels without being flattened, and a plan for the
#   whole network.
# - {cite:t}`zhang2016accelerating` for networks of many layers, where errors add up.
# - {cite:t}`eckart1936approximation`: eight pages, still readable.
