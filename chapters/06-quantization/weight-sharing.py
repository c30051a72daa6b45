# %% [markdown]
# # One small file
#
# A network on its way to a phone is a file. How few bytes can hold ResNet-14, all bytes counted?
# This lesson goes after the whole of it: zeros, shared values, short words for what occurs often.
#
# **You will**
#
# - find a few values that many weights can share, by k-means;
# - train the shared values;
# - build a Huffman code, and say how near it comes to the best possible one;
# - write a network into one file, account for every byte of it, and load it back bit by bit.
#
# **You need** [Pruning single weights](../02-pruning/magnitude.ipynb),
# [What zeros are worth](../03-sparsity/formats.ipynb) and [Integers](integers.ipynb). Symbols are
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
import copy
import heapq
import tempfile
import time
import zlib
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torchvision
from safetensors.torch import save as to_bytes

from slimcnn import (
    checkpoints,
    coding,
    data,
    metrics,
    plotting,
    pruning,
    report,
    sparsity,
    training,
)
from slimcnn import quantization as quant
from slimcnn.checks import codes
from slimcnn.training import Recipe

plotting.use_style()
_ = torch.manual_seed(0)

# %% [markdown]
# ## Measure first
#
# The dense network, and the same with nine of ten weights gone, one of the finalists of chapter 2.
# Batch norms are folded: what they do is in the weights then, and of their four numbers a channel one
# is left, a bias.

# %%
validation = data.load("validation").subset(1000)
dense = checkpoints.load("resnet14")
finalist = report.weights_path("gradual 90")
sparse = sparsity.load_encoded(checkpoints.load("resnet14"), finalist)
sparse = quant.fold_batch_norm(sparse)
for name, model in (("dense", dense), ("90 % zeros", sparse)):
    accuracy, nonzeros = (
        training.evaluate(model, validation),
        metrics.count_nonzeros(model),
    )
    print(f"{name:12}{nonzeros:9,} numbers, {accuracy:.1f} % on validation")
dense_bytes = metrics.saved_bytes(dense)
print(f"{dense_bytes:,} bytes dense")

# %% [markdown]
# ## The idea
#
# {cite:t}`han2016deep` call it **Deep Compression**: prune, share, code. A weight that is not zero
# costs two *words*, a few bits each: one stands for its value, one for where it is. With $n$ of them,
#
# $$
# S \approx n\,\frac{\bar{\ell}_\text{value} + \bar{\ell}_\text{gap}}{8}
#   + S_\text{books} + S_\text{rest} ,
# $$ (eq-slim-bytes)
#
# with the mean lengths $\bar{\ell}$ of both words in bits, $S_\text{books}$ for the tables that are
# needed to read them, and $S_\text{rest}$ for the biases. What must hold for a file forty times
# smaller, 70 kB? With $n \approx 69{,}000$ and 5 kB for the rest, each weight may take about 7.5
# bits for both words. So *values* must fit three or four bits, and gaps, too.
#
# ### Shared values
#
# In the lessons before, levels were evenly spaced, so that a processor can compute with integers.
# A file needs no arithmetic. It may store, for each weight, an index into a **codebook** of $k$
# arbitrary values, $\log_2 k$ bits each, and the book itself. The best book has the least square
# error:
#
# $$
# \min_{c_1 \dots c_k} \sum_i \min_j (w_i - c_j)^2 .
# $$ (eq-kmeans)
#
# That is **k-means** on a line. Two facts about a solution: each weight takes the nearest value,
# and each value is the mean of its weights, since a mean has the least square distance. Do one,
# then the other, in turn: no step can make the error larger, and there are finitely many ways to
# assign the weights, so it ends, in a local minimum that depends on the start
# {cite:p}`lloyd1982least`.
#
# ## By hand
#
# Six weights, two values: −1.0, −0.8, 0.1, 0.2, 0.3, 1.2. Start at both ends, −1.0 and 1.2. The
# middle is 0.1, so that −1.0, −0.8 and 0.1 take the lower value (0.1 is as near to both; ties go
# down). Means: −0.567 and 0.567. Now the middle is 0, and 0.1 changes sides. Means:
# −0.9 and 0.45. The middle, −0.225, moves no one any more. The sums of squares were 3.06, then 1.07,
# then 0.79.

# %% tags=["nbval-check-output"]
weights = torch.tensor([-1.0, -0.8, 0.1, 0.2, 0.3, 1.2])
book = coding.kmeans(weights, 2)
print([round(v, 2) for v in book.values.tolist()], book.indices.tolist())
print([round(e, 3) for e in book.errors])
assert torch.allclose(book.values, torch.tensor([-0.9, 0.45]))

# %% [markdown]
# ## From scratch


# %%
def lloyd(weights, values, rounds=100):
    """(n,), (k,) -> values (k,), indices (n,)."""
    for _ in range(rounds):
        distance = (weights[:, None] - values[None]).abs()  # (n, k)
        indices = distance.argmin(1)
        new = values.clone()
        for j in range(len(values)):
            if (indices == j).any():
                new[j] = weights[indices == j].mean()
        if torch.equal(new, values):
            break
        values = new
    return values, indices


# %% [markdown]
# The equality cell, on a real layer; `kmeans` sorts once and is much faster.

# %%
layer = sparse.stage2[1].conv2.weight.detach()
filled = layer[layer != 0].double()
values, indices = lloyd(filled, torch.linspace(filled.min(), filled.max(), 8).double())
package = coding.kmeans(filled, 8)
torch.testing.assert_close(package.values, values)
assert torch.equal(package.indices, indices)

# %% [markdown]
# ### Where to start
#
# The end depends on the start. Three are in use: evenly spaced from the smallest to the largest
# weight (**linear**); at quantiles, where the weights are dense (**density**); at random weights.

# %%
fig, axes = plt.subplots(1, 2, figsize=(6.8, 3))
axes[0].hist(filled.numpy(), bins=60, color="lightgray")
ends = {}
for place, start in enumerate(("linear", "density", "random")):
    made = coding.kmeans(filled, 8, start=start)
    ends[start] = made
    axes[0].plot(made.values, [20 + 25 * place] * len(made.values), "o", label=start)
    axes[1].plot(made.errors, label=start)
axes[0].set(xlabel="weight", ylabel="how often")
axes[1].set(xlabel="iteration", ylabel="square error", xscale="symlog", yscale="log")
_ = axes[1].legend()

# %% [markdown]
# A network of few bits, by start: $k$ values for each layer, and the accuracy without any training.

# %%
shared_accuracy = {}
for k in (4, 8, 16):
    for start in ("linear", "density", "random"):
        model = pruning.finalize(coding.share_weights(sparse, k, start))
        shared_accuracy[k, start] = training.evaluate(model, validation)
    row = ", ".join(f"{s} {shared_accuracy[k, s]:.1f} %" for s in ends)
    print(f"{k:3} values: {row}")

# %% [markdown]
# Even spacing beats quantiles for every number of values, as Han and colleagues report
# {cite:p}`han2016deep`. k-means does not know which weights matter: they found large ones, of which
# there are few, to matter most, and quantiles have few values for them. A random start is close to the
# even one, here and by this one draw; with four values all three are far from useful.
#
# ### Shared values that are trained
#
# A value is used by many weights, so its gradient is the sum of theirs. Autograd does that by
# itself if the weight is *looked up* from the values. In PyTorch, indexing is differentiable:

# %%
values = torch.tensor([-0.9, 0.45], requires_grad=True)
looked_up = values[book.indices]
upstream = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
(gradient,) = torch.autograd.grad(looked_up, values, upstream)
print(gradient.tolist())  # 1 + 2, and 3 + 4 + 5 + 6
assert gradient.tolist() == [3.0, 18.0]

# %% [markdown]
# `share_weights` makes a network of that kind; zeros have index 0 and stay zero. Four values a
# layer, trained for a short epoch, with a small learning rate: the sum of thousands of gradients is
# large.

# %%
recipe = Recipe(epochs=1, lr=0.0002, average=0.0)
train = data.load("train").subset(10_000)
few = coding.share_weights(sparse, 4)
tuned, _ = training.fit(few, train, recipe, seed=0, progress=False)
four = training.evaluate(tuned, validation)
print(f"{shared_accuracy[4, 'linear']:.1f} % -> {four:.1f} %")

# %% [markdown]
# ### Short words for frequent values
#
# The indices are not equally frequent: most weights are small. A **Huffman code**
# {cite:p}`huffman1952method` gives frequent symbols short words. Take the two rarest symbols, put
# them together as the two branches of a new one, and repeat; a symbol's word is as long as its
# path. By hand, for counts of 5, 2, 1 and 1: the two 1s make a 2, two 2s make a 4, with 5 a 9.
# Lengths 1, 2, 3, 3, so $5 \cdot 1 + 2 \cdot 2 + 3 + 3 = 15$ bits, where two bits each would be
# 18. No word is the beginning of another one, so a reader knows where each of them ends. No code
# of whole bits for each symbol is shorter on average, and none that treats symbols one by one is
# shorter than the **entropy**, with $p_j$ the share of symbol $j$,
#
# $$
# H = -\sum_j p_j \log_2 p_j .
# $$ (eq-entropy)
#
# And it is near: less than one bit a symbol above it {cite:p}`huffman1952method`. (For a word length of
# $\lceil -\log_2 p_j \rceil$, which a prefix code can have, is less than a bit too long for each symbol,
# and Huffman's code is no worse.)


# %%
def lengths(counts):
    """Lengths of the words of a Huffman code; symbols that do not occur get 0."""
    heap = [(n, j, (j,)) for j, n in enumerate(counts) if n > 0]
    heapq.heapify(heap)
    found, fresh = [0] * len(counts), len(counts)
    while len(heap) > 1:
        a, _, left = heapq.heappop(heap)
        b, _, right = heapq.heappop(heap)
        for symbol in left + right:
            found[symbol] += 1
        heapq.heappush(heap, (a + b, fresh, left + right))
        fresh += 1
    return found


# %% [markdown]
# Trees of equal cost may differ, so the equality cell compares what counts, the bits. And the
# entropy, which is a bound from below:

# %%
assert lengths([5, 2, 1, 1]) == [1, 2, 3, 3]
shared, inside = pruning.finalize(coding.share_weights(sparse, 16)), {}


def inside_bits(weight):
    """Bits that a Huffman code of the values takes for all non-zeros of a weight."""
    _, counts = weight[weight != 0].unique(return_counts=True)
    mine = (counts * torch.tensor(lengths(counts.tolist()))).sum()
    theirs = coding.huffman.code_lengths(counts.tolist())
    assert mine == (counts * torch.tensor(theirs)).sum()
    return mine.item()


# %% [markdown]
# Bits a value, of the larger layers:

# %%
for name, weight in shared.named_parameters():
    if weight.ndim > 1 and weight.numel() > 10_000:
        _, counts = weight[weight != 0].unique(return_counts=True)
        p = counts / counts.sum()
        entropy = float(-(p * p.log2()).sum())
        inside[name] = inside_bits(weight) / counts.sum().item(), entropy
for name, (bits, entropy) in inside.items():
    print(f"{name:24}{bits:6.3f} bits a value, entropy {entropy:.3f}")

# %% [markdown]
# Less than the four bits that sixteen values take, and within a tenth of a bit of the entropy.
#
# How does a reader know the code? The lengths are enough, if all agree on one rule: words of the
# same length count upwards in the order of their symbols, and the first longer one is the next
# number with zeros appended: 0, then 10, then 110 and 111.
# That is the **canonical** code.

# %% tags=["nbval-check-output"]
example = [1, 2, 3, 3]
words = coding.huffman.code_words(example)
print([f"{word:0{n}b}" for word, n in zip(words, example, strict=True)])

# %% [markdown]
# Reading is collecting bits until they are a word. The last byte is filled up with zeros, and zeros
# may be a word, too: so a reader has to know how many symbols there are.


# %%
def decode(content, lengths, count):
    """Bytes -> the first `count` symbols."""
    words = coding.huffman.code_words(lengths)
    known = {
        f"{w:0{n}b}": j for j, (w, n) in enumerate(zip(words, lengths, strict=True))
    }
    symbols, word = [], ""
    for bit in "".join(f"{byte:08b}" for byte in content):
        word += bit
        if word in known:
            symbols.append(known[word])
            word = ""
    return symbols[:count]


# %% [markdown]
# Eight symbols, there and back, by both:

# %%
symbols = [0, 1, 0, 3, 2, 0, 0, 1]
coded = coding.huffman.encode(np.array(symbols), example)
assert decode(coded, example, len(symbols)) == symbols
assert coding.huffman.decode(coded, example, len(symbols)).tolist() == symbols
print(f"{len(symbols)} symbols in {len(coded)} bytes")

# %% [markdown]
# ## On the network
#
# The places of the zeros are the other half of the cost. Between two weights that are not zero
# there is a **gap** (chapter 3), and gaps are not equally frequent either: they get a Huffman code
# of their own. `save_slim` writes everything into one file: a header with a fingerprint of the names,
# shapes and types of all tensors (who loads it must have the same network), each tensor in the smallest
# of six ways (as it is among them), a checksum. Sixteen values a layer, trained for a short epoch. What
# is left of real numbers then, the books and the biases, is rounded to float16
# ([Integers](integers.ipynb)); the file notices, and gives them two bytes each:

# %%
sixteen, _ = training.fit(
    coding.share_weights(sparse, 16), train, recipe, seed=0, progress=False
)
shared = pruning.finalize(sixteen)
final = copy.deepcopy(shared).half().float()
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "resnet14.slim"
size = coding.save_slim(final, path)
print(f"{dense_bytes:,} -> {size:,} bytes, {dense_bytes / size:.1f} times smaller")

# %% [markdown]
# And back. Whoever has the architecture, here ours without batch norms, gets the weights.

# %%
back = coding.load_slim(path, quant.fold_batch_norm(checkpoints.load("resnet14")))
for name, tensor in final.state_dict().items():
    bits = (t.view(torch.int32) for t in (back.state_dict()[name], tensor))
    assert torch.equal(*bits), "the same bits: −0.0 would equal 0.0"

# %% [markdown]
# How long does decoding take, and what does the network from the file answer?

# %%
clock = time.perf_counter()
coding.load_slim(path, quant.fold_batch_norm(checkpoints.load("resnet14")))
print(f"bit-exact; decoded in {time.perf_counter() - clock:.2f} s")
print(f"{training.evaluate(back, validation):.1f} % from the file")

# %% [markdown]
# Where do the bytes go? The file is a header, a checksum, and a block for each tensor. The words of
# the values and of the gaps can be told from the blocks by the codes' mean lengths:

# %%
state = final.state_dict()
blocks = {name: len(coding.blocks.smallest_block(t)) for name, t in state.items()}
values = sum(inside_bits(state[n]) for n in state if state[n].ndim > 1) / 8
weights = sum(blocks[name] for name in state if state[name].ndim > 1)
biases = sum(blocks.values()) - weights
text = int.from_bytes(path.read_bytes()[5:9], "little")  # how long the header's text is
account = {
    "weights, words of values": round(values),
    "weights, gaps and tables": weights - round(values),
    "biases": biases,
    "header and checksum": 4 + 1 + 4 + text + 16,  # magic number, version, length
}
for name, count in account.items():
    print(f"{name:26}{count:8,} bytes{100 * count / size:6.1f} %")

# %% [markdown]
# Where a weight stands costs as much as what it is. And the stages, each saved alone:

# %%
pruned_only = sparsity.load_encoded(checkpoints.load("resnet14"), finalist)
stages = {
    "dense": dense,
    "pruned": pruned_only,
    "pruned, folded": sparse,
    "folded, shared": pruning.finalize(
        coding.share_weights(quant.fold_batch_norm(dense), 16)
    ),
    "pruned, folded, shared": shared,
    "all of it, in float16": final,
}

# %% [markdown]
# How many bytes each takes:

# %%
slim = {}
for name, model in stages.items():
    slim[name] = coding.save_slim(model, Path(folder.name) / "stage.slim")
    print(
        f"{name:24}{slim[name]:10,} bytes{dense_bytes / slim[name]:7.1f} times smaller"
    )

# %% [markdown]
# The factors of both do not multiply. Shared values make the words of values shorter; the words of gaps
# stay as long as they were, and in the end half of the file says where weights are. The
# recipe with all stages, each followed by training, on the test set (three seeds for 90 % zeros and
# 16 values, with and without float16):

# %%
records = report.load_records("compression")
rows = report.summarize(records, by=("model", "technique", "settings.variant"))
report.table(rows, ("settings.variant", "accuracy", "bytes"))

# %% [markdown]
# How much smaller is that than the dense network, on the three seeds of the whole recipe?

# %%
best = [r for r in records if r.settings["variant"] == "zeros 90, values 16, halves"]
times = [dense_bytes / r.bytes for r in best]
print("times smaller:", ", ".join(f"{t:.2f}" for t in times))

# %% [markdown]
# What has it cost, image by image? All of it, against the dense network; sharing alone, against the
# pruned network trained for as many epochs; training the values, against not; float16, against float32:

# %%
labels = data.load("test").labels


def right(variant):
    """Correct or not, for each seed and test image."""
    return report.load_predictions("compression", variant) == labels


# %% [markdown]
# In points, with an interval over images and seeds:

# %%
in_file = right("zeros 90, values 16, halves")
shared_right = right("zeros 90, values 16")
baseline = checkpoints.predictions("resnet14")[: len(in_file)] == labels
cost = {
    "all of it": metrics.paired_bootstrap(baseline, in_file),
    "sharing": metrics.paired_bootstrap(
        right("zeros 90, two more epochs"), shared_right[:1]
    ),
    "training": metrics.paired_bootstrap(
        right("zeros 90, values 16, not trained"), shared_right[:1]
    ),
    "float16": metrics.paired_bootstrap(shared_right, in_file),
}
for name, change in cost.items():
    print(f"{name:10}{change}")

# %% [markdown]
# On all three seeds the file is more than forty times smaller, for about two tenths of a point, which is at
# the edge of what three seeds can tell from nothing. Nearly all of the price is that of sharing: pruned
# as patiently as here the network had lost next to nothing. Without its training the shared network
# would be more than a point lower; float16 costs nothing. Eight values instead of sixteen save another
# tenth of the bytes and cost more than half a point, four are too few. With 95 % zeros the file is not
# much more than half as large, for more than another point. And look at 80 % zeros, of chapter 2's
# shorter recipe: larger *and* no more accurate than 90 % of the longer one. Patience in pruning pays for
# the whole file.

# %% [markdown]
# ## Why it works, when it does not
#
# **Codes need skew.** Where all symbols are equally frequent, a Huffman code gains nothing. Values
# at quantiles are such a case, by construction: each has about the same number of weights, before
# the iterations move them.

# %%
uniform = coding.kmeans(filled, 16, start="density", iterations=0)
skewed = coding.kmeans(filled, 16)
gain = {}
for name, made in (("quantiles", uniform), ("k-means", skewed)):
    counts = torch.bincount(made.indices.flatten())
    words = torch.tensor(coding.huffman.code_lengths(counts.tolist()))
    gain[name] = float((counts * words).sum() / counts.sum())
    print(f"{name:10}{gain[name]:.2f} bits a value")

# %% [markdown]
# **Smaller is not faster.** The file is decoded into the same float32 tensors as before, and the
# network takes as many MACs. What is gained is the way to the phone, and its storage.

# %% tags=["nbval-check-output"]
as_read = metrics.count_macs(coding.load_slim(path, final), (1, 1, 28, 28))
print(f"{as_read:,} MACs, at first {metrics.count_macs(dense, (1, 1, 28, 28)):,}")
assert as_read == metrics.count_macs(dense, (1, 1, 28, 28))

# %% [markdown]
# **A damaged file** must not become a bad network. One bit of it flipped:

# %%
content = bytearray(path.read_bytes())
content[len(content) // 2] ^= 1
damaged = Path(folder.name) / "damaged.slim"
damaged.write_bytes(content)
try:
    coding.load_slim(damaged, quant.fold_batch_norm(checkpoints.load("resnet14")))
except coding.SlimError as error:
    refused = str(error).split(": ")[-1]
print(refused)

# %% [markdown]
# **Find the bug.** Somebody shares values without `share_weights`, and the file becomes much larger than
# ours. What is wrong?

# %%
careless = quant.fold_batch_norm(
    sparsity.load_encoded(checkpoints.load("resnet14"), finalist)
)
for parameter in careless.parameters():
    if parameter.ndim > 1:
        parameter.data = coding.kmeans(parameter.data, 16).decode()
careless_nonzeros = metrics.count_nonzeros(careless)
careless_bytes = coding.save_slim(careless, Path(folder.name) / "careless.slim")
print(f"{careless_nonzeros:,} numbers are not zero, {careless_bytes:,} bytes")

# %% [markdown]
# ```{dropdown} What is wrong?
# The zeros took part. In many layers the value next to 0 is a mean of zeros and small weights, so it is
# not 0: the pattern of zeros is lost, and with it the gaps.
# ```
#
# ## What practitioners use
#
# Compressors for any bytes know nothing of weights. `zlib`, the one in zip and PNG, on each stage's
# plain tensors:

# %%
zipped = {}
for name, model in stages.items():
    plain = to_bytes({k: v.contiguous() for k, v in model.state_dict().items()})
    zipped[name] = len(zlib.compress(plain, 9))
    print(f"{name:24}{zipped[name]:10,} zipped, {slim[name]:10,} as .slim")

# %% [markdown]
# It finds the zeros and the repetition, and of the shared network it still makes a clearly larger
# file: it works on bytes, and a float is four of them. It does better if it is given *indices*, one
# byte each, with the books and the biases beside them:

# %%
indices = b""
rest = 0
for tensor in final.state_dict().values():
    values, places = tensor.unique(return_inverse=True)
    if tensor.ndim > 1:
        indices += places.to(torch.uint8).numpy().tobytes()
        rest += 2 * len(values)
    else:
        rest += 2 * tensor.numel()
indexed = len(zlib.compress(indices, 9)) + rest
print(f"indices, zipped: {indexed:,} bytes, as .slim {size:,}")

# %% [markdown]
# `zlib` has a Huffman code, too, and one for repetitions. What it lacks is gaps: it comes within a
# quarter or so of our file. Shared values are what Core ML calls *palettization*, and its tools find the
# values by k-means as well {cite:p}`coremltools`. And a network that is not ours: torchvision's MobileNetV3, random
# weights, 80 % of them zero, sixteen values a layer.

# %%
foreign = torchvision.models.mobilenet_v3_small(weights=None).eval()
masks = pruning.layerwise_masks(pruning.magnitude(foreign), 0.8)
foreign_shared = coding.share_weights(pruning.apply_masks(foreign, masks), 16)
foreign_size = coding.save_slim(
    pruning.finalize(foreign_shared), Path(folder.name) / "m.slim"
)
factor = metrics.saved_bytes(foreign) / foreign_size
print(f"{foreign_size:,} bytes, {factor:.1f} times smaller")

# %% [markdown]
# ```{admonition} What changes at ImageNet scale
# :class: note
# Networks with large linear layers compress better: about 90 % of AlexNet's linear weights can go and
# 95 % of VGG-16's, and {cite:t}`han2016deep` share 5 bits there and 8 bits in convolutions.
# ```
#
# ## Paper and us
#
# | | paper reports | we measured |
# |---|---|---|
# | {cite:t}`han2016deep`, AlexNet | 240 MB → 6.9 MB, 35 times, no loss | ResNet-14: the table above |
# | {cite:t}`han2016deep`, VGG-16 | 552 MB → 11.3 MB, 49 times, no loss | |
#
# The claims of the text:

# %% tags=["claims"]
for k in (4, 8, 16):
    assert shared_accuracy[k, "linear"] > shared_accuracy[k, "density"] + 1
assert shared_accuracy[8, "linear"] > shared_accuracy[8, "density"] + 10
assert four > shared_accuracy[4, "linear"] + 30
assert training.evaluate(sparse, validation) - training.evaluate(back, validation) < 1
assert all(entropy <= bits < entropy + 0.1 for bits, entropy in inside.values())
assert all(bits < 4 for bits, _ in inside.values())
assert slim["dense"] / slim["pruned"] > 7 and dense_bytes / size > 40
assert slim["pruned, folded"] / slim["pruned, folded, shared"] > 3
assert gain["quantiles"] > 3.95 > gain["k-means"]

# %% [markdown]
# Of the file and its rivals:

# %% tags=["claims"]
ratio = {name: dense_bytes / slim[name] for name in slim}
both = ratio["pruned, folded, shared"]
assert both < 0.8 * ratio["pruned, folded"] * ratio["folded, shared"]
assert size * 1.1 < indexed < 1.5 * size
assert careless_nonzeros > 4 * metrics.count_nonzeros(final)
assert careless_bytes > 1.3 * size
assert zipped["pruned, folded, shared"] > 1.3 * slim["pruned, folded, shared"]
assert "damaged" in refused and factor > 15
assert sum(account.values()) == size, "every byte is counted"
assert slim["all of it, in float16"] == size < slim["pruned, folded, shared"]

# %% [markdown]
# And of the records:

# %% tags=["claims"]
variants = {r.settings["variant"]: r for r in records if r.seed == 0}
shared_16, eight = variants["zeros 90, values 16"], variants["zeros 90, values 8"]
assert len(times) == 3 and min(times) > 40
assert -0.4 < cost["all of it"].difference < -0.1 < cost["all of it"].high < 0.2
dense_accuracy = checkpoints.entry("resnet14").test_accuracy
assert abs(variants["zeros 90"].accuracy - dense_accuracy) < 0.15
assert -0.5 < cost["sharing"].difference < -0.1 and cost["training"].low > 0.8
assert abs(cost["float16"].difference) < 0.05

# %% [markdown]
# Of fewer values, and of more and fewer zeros:

# %% tags=["claims"]
assert 0.85 < eight.bytes / shared_16.bytes < 0.95
assert shared_16.accuracy - eight.accuracy > 0.5
assert shared_16.accuracy - variants["zeros 90, values 4"].accuracy > 2
assert variants["zeros 95, values 16"].bytes < 0.6 * shared_16.bytes
assert shared_16.accuracy - variants["zeros 95, values 16"].accuracy > 1
assert variants["zeros 80, values 16"].bytes > 1.5 * shared_16.bytes
assert variants["zeros 80, values 16"].accuracy < shared_16.accuracy + 0.1
assert (
    0.5
    < account["weights, words of values"] / account["weights, gaps and tables"]
    < 1.5
)
folder.cleanup()

# %% [markdown]
# ## Your turn
#
# The entropy of a list of counts, in bits a symbol. Counts may be 0. Replace the `...` and run
# the cell.


# %%
def entropy(counts):
    return ...


codes.entropy(entropy)

# %% [markdown]
# ## Summary
#
# A file needs no arithmetic, so its values need not be evenly spaced: k-means finds a few that
# many weights share, and training moves them where the loss wants them. What is frequent gets a
# short word, values and gaps alike, and a Huffman code was within a tenth of a bit of what a code
# for single symbols can do. In the end half of the file says where weights are. The network is not a bit faster for it.
#
# ## Check yourself
#
# ```{exercise}
# :label: ex-share-book
# Is it worth having a codebook of 256 values for a layer of 288 weights?
# ```
#
# ```{solution} ex-share-book
# :class: dropdown
# No. The book takes $256 \cdot 4 = 1024$ bytes and the indices 288, the plain weights 1,152. A
# codebook pays when many weights share a value.
# ```
#
# ```{exercise}
# :label: ex-share-entropy
# 90 % of a layer's weights are zero. How many bits a weight does the mere pattern of zeros take
# at least, if nothing else is known about it?
# ```
#
# ```{solution} ex-share-entropy
# :class: dropdown
# The entropy of a coin with 0.1 and 0.9: $-0.1 \log_2 0.1 - 0.9 \log_2 0.9 = 0.469$ bits. A
# bitmask takes 1. Huffman-coded gaps come near 0.47: $0.1$ gaps for each weight, about 4.7 bits
# each.
# ```
#
# ```{exercise}
# :label: ex-share-one
# A tensor has a single value. How many bits does a Huffman code need for each number?
# ```
#
# ```{solution} ex-share-one
# :class: dropdown
# The entropy is 0, and a word of no bits would do, as the number of symbols is known. With words
# of at least one bit it is 1, and the code is a whole bit above the entropy: Huffman codes are bad
# at very skewed counts. Arithmetic coding, which gives a whole message one number, has no such
# limit.
# ```
#
# ```{exercise}
# :label: ex-share-total
# A report says "4 bits a weight, so eight times smaller", of a network with 20 layers of 5,000 weights
# each and a codebook of 16 float32 values for each layer. What is the factor with the books counted, and
# what else belongs into the file?
# ```
#
# ```{solution} ex-share-total
# :class: dropdown
# Indices $100{,}000 \cdot 4$ bits are 50,000 bytes, books $20 \cdot 64$ are 1,280, of 400,000 bytes:
# 7.8 times. Then come biases, batch norms, names and shapes. With layers of 288 weights instead of
# 5,000, the books alone would be 31 % of the file.
# ```
#
# ## Where next
#
# - [Assignment: quantization](../../assignments/release/quantization/quantization.ipynb): scales that are shifts, an average of integers, a network in 30 kB, and a compression that is not one.
# - [Next chapter](../07-deployment/export.ipynb): the network leaves Python.
# - {cite:t}`han2016deep`: the whole pipeline.
