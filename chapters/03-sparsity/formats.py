# %% [markdown]
# # What zeros are worth
#
# Nine of ten weights of a network are zero. How much smaller can its file be, and how much
# faster its layers? This lesson changes two numbers of a sparse network: its bytes, and
# the time of its matrix products.
#
# **You will**
#
# - write one small matrix by hand in five sparse formats: COO, CSR, BSR, bitmask, and
#   relative index;
# - derive the sparsity from which a format is smaller than the dense tensor, and check it
#   on real files;
# - save a sparse network so that its zeros take next to no room, and load it back bit by bit;
# - time sparse products against dense ones, and say from which sparsity they win.
#
# **You need** [What a network costs](../01-measuring/cost.ipynb) and
# [Latency](../01-measuring/latency.ipynb). Symbols are on the
# [notation page](../../book/notation.md).
#
# **Time** 35 minutes to read, about half a minute to run on a CPU.

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
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse
import torch
import torchvision

from slimcnn import (
    checkpoints,
    data,
    latency,
    metrics,
    plotting,
    pruning,
    sparsity,
    training,
)
from slimcnn.checks import sparse_formats
from slimcnn.sparsity.kernels import matmul_kernels

plotting.use_style()
_ = torch.manual_seed(0)

# %% [markdown]
# ## Measure first
#
# We need a sparse network. The quickest way to one is to set the smallest weights to zero,
# over all layers together; chapter 2 does it with care and gets the accuracy back, here
# only the zeros matter. Nine of ten weights go.


# %%
def pruned(zeros):
    """ResNet-14 with a share `zeros` of its smallest weights set to zero."""
    model = checkpoints.load("resnet14")
    masks = pruning.global_masks(pruning.magnitude(model), zeros)
    return pruning.finalize(pruning.apply_masks(model, masks))


networks = {"dense": pruned(0.0), "90 % zeros": pruned(0.9)}

# %% [markdown]
# What did we save? The non-zeros fell by a factor of ten. The file, and the arithmetic,
# did not notice:

# %% tags=["nbval-check-output"]
print(f"{'':12}{'non-zeros':>10}{'file, bytes':>13}{'MACs':>12}")
for name, model in networks.items():
    costs = (metrics.count_nonzeros, metrics.saved_bytes, metrics.count_macs)
    nonzeros, size, macs = (count(model) for count in costs)
    print(f"{name:12}{nonzeros:10,}{size:13,}{macs:12,}")

# %% [markdown]
# A tensor stores its zeros like all other numbers, four bytes each. To leave them out, a
# file must say *where the others are*, and that costs bytes as well. The whole lesson is
# about this price.
#
# ## The idea
#
# Look at a weight as a matrix: each filter is a row. With $R$ rows and $C$ columns there
# are $R\,C$ numbers of $v$ bits, of which $n = (1 - s)\,R\,C$ are not zero; $s$ is the
# sparsity. Five ways to write it down:
#
# - **COO** (coordinates): for every non-zero its row, its column, and its value.
# - **CSR** (compressed sparse rows): columns and values row by row. The row need not be
#   written for each number: one *pointer* a row says how many numbers come before it, and
#   a last one how many there are in all.
# - **BSR** (block sparse rows): CSR of small dense blocks. One index serves a whole block,
#   and a block with any non-zero is stored with all its numbers.
# - **bitmask**: one bit for every number, zero or not; then the non-zero values.
# - **relative index**: for every non-zero how many zeros lie before it. Such gaps are
#   small, so a few bits do {cite:p}`han2016deep`. A gap too long for these bits is bridged
#   by storing a zero as if it were a value.
#
# With row indices of $r$ bits, column indices of $c$ bits and pointers of $p$ bits, and for
# BSR $n_B$ stored blocks of $B$ numbers in $R_B$ rows of blocks, the sizes in bits are
#
# $$
# \begin{aligned}
# S_\text{dense} &= R\,C\,v \\
# S_\text{COO} &= n\,(v + r + c) \\
# S_\text{CSR} &= n\,(v + c) + (R + 1)\,p \\
# S_\text{BSR} &= n_B\,(B\,v + c) + (R_B + 1)\,p \\
# S_\text{bitmask} &= n\,v + R\,C .
# \end{aligned}
# $$ (eq-format-sizes)
#
# The relative index has no such formula: how many gaps are too long depends on where the
# zeros lie, and so does the number of blocks. A format pays as soon as it is smaller than
# the dense tensor. Set both sizes equal and solve for the sparsity. For COO,
# $n\,(v + r + c) = R\,C\,v$ gives $1 - s = v / (v + r + c)$; in the same way CSR and the
# bitmask. These are the **break-even points**
#
# $$
# s_\text{COO} = \frac{r + c}{v + r + c},
# \qquad
# s_\text{CSR} = \frac{c + (R+1)\,p / (R\,C)}{v + c},
# \qquad
# s_\text{bitmask} = \frac{1}{v} .
# $$ (eq-break-even)
#
# Read {eq}`eq-break-even` as a statement about the *ratio* of index and value. With 32-bit
# values an index is a small extra. When chapter 6 has made the values 8 bits, or 4, the
# index is as large as what it points to, and the break-even moves up.
#
# The figure draws {eq}`eq-format-sizes` for one layer of ResNet-14, 128 filters of 1,152
# weights.


# %%
def predicted(format, shape, share, value_bits=32):
    """Bytes of a tensor in one format, divided by the bytes of the dense tensor."""
    numbers = int(np.prod(shape))
    stored = round((1 - share) * numbers)
    size = sparsity.encoded_bytes(format, shape, stored, value_bits)
    return 8 * size / (numbers * value_bits)


# %% [markdown]
# The same layer twice: with 32-bit values on the left, with 8-bit values on the right.

# %%
shape, shares = (128, 1152), np.linspace(0, 0.99, 100)
fig, axes = plt.subplots(1, 2, sharey=True, figsize=(6.4, 3))
for ax, bits in zip(axes, (32, 8), strict=True):
    ax.axhline(1, color="black", label="dense")
    for name in ("coo", "csr", "bitmask"):
        curve = [predicted(name, shape, share, bits) for share in shares]
        ax.plot(100 * shares, curve, label=name)
    ax.set(xlabel="zeros (%)", title=f"{bits}-bit values", ylim=(0, 2))
axes[0].set_ylabel("size (dense = 1)")
_ = axes[0].legend()

# %% [markdown]
# Where a line crosses the black one, its format begins to pay. The bitmask pays almost at
# once, and it wins over CSR as long as one bit for each number is less than one index for
# each non-zero. Far to the right the bitmask runs into its floor: it never gets below
# $1/v$ of the dense size, however empty the matrix is.
#
# ## By hand
#
# A matrix of four rows and four columns with four non-zeros:

# %%
matrix = torch.tensor(
    [
        [5.0, 0.0, 0.0, 1.0],
        [0.0, 0.0, 0.0, 0.0],
        [0.0, 2.0, 0.0, 3.0],
        [0.0, 0.0, 0.0, 0.0],
    ]
)
rows, columns = matrix.nonzero(as_tuple=True)
values = matrix[rows, columns]

# %% [markdown]
# Take a pencil and write it in all formats before you read on. COO lists
# $(0, 0, 5)$, $(0, 3, 1)$, $(2, 1, 2)$, $(2, 3, 3)$. CSR keeps columns and values, and the
# pointers $0, 2, 2, 4, 4$: row 0 has the numbers from 0 up to 2, row 1 those from 2 up to
# 2, so none, row 2 those from 2 up to 4, row 3 none. The mask is
# $1001\;0000\;0101\;0000$. The gaps are $0, 2, 5, 1$; zeros at the end need none. BSR with
# 2×2 blocks finds a non-zero in each of the four blocks: the pointers $0, 2, 4$, the block
# columns $0, 1, 0, 1$, and all sixteen numbers.

# %% tags=["nbval-check-output"]
counts = torch.bincount(rows, minlength=4)
pointers = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
places = matrix.flatten().nonzero().flatten()
gaps = torch.diff(places, prepend=torch.tensor([-1])) - 1
print("COO  rows", rows.tolist(), "columns", columns.tolist())
print("CSR  pointers", pointers.tolist(), "columns", columns.tolist())
print("mask", "".join(str(int(x != 0)) for x in matrix.flatten()))
print("gaps", gaps.tolist(), "values", values.tolist())

# %% [markdown]
# SciPy has CSR and BSR types of its own. Their arrays must be those of our pencil:

# %%
csr = scipy.sparse.csr_array(matrix.numpy())
assert csr.indptr.tolist() == pointers.tolist()
assert csr.indices.tolist() == columns.tolist()
assert csr.data.tolist() == values.tolist()
assert pointers.tolist() == [0, 2, 2, 4, 4] and gaps.tolist() == [0, 2, 5, 1]
bsr = scipy.sparse.bsr_array(matrix.numpy(), blocksize=(2, 2))
assert bsr.indptr.tolist() == [0, 2, 4] and bsr.indices.tolist() == [0, 1, 0, 1]
assert bsr.data.size == 16

# %% [markdown]
# ## From scratch
#
# An index takes 8, 16 or 32 bits, whichever is enough for the largest value that it can
# have. That one rule is half of the savings: PyTorch's and SciPy's arrays take 32 or 64
# bits for a column that never exceeds 1,151.


# %%
def smallest(largest):
    """The narrowest unsigned type that holds `largest`."""
    return np.uint8 if largest < 256 else np.uint16 if largest < 65536 else np.uint32


# %% [markdown]
# CSR in bytes: pointers, columns, values, one array after the other, and before them the
# number of values. A reader needs it first: it decides how wide the pointers are.


# %%
def csr_bytes(matrix):
    """(rows, columns) float32 -> bytes."""
    rows, columns = np.nonzero(matrix)
    counts = np.bincount(rows, minlength=len(matrix))
    pointers = np.concatenate([[0], np.cumsum(counts)])
    return b"".join(
        [
            np.uint32(len(rows)).tobytes(),
            pointers.astype(smallest(len(rows))).tobytes(),
            columns.astype(smallest(matrix.shape[1] - 1)).tobytes(),
            matrix[rows, columns].tobytes(),
        ]
    )


# %% [markdown]
# The bitmask is even shorter: NumPy packs eight booleans into a byte.


# %%
def bitmask_bytes(matrix):
    """(rows, columns) float32 -> bytes."""
    stays = matrix.ravel() != 0
    return np.packbits(stays).tobytes() + matrix.ravel()[stays].tobytes()


# %% [markdown]
# The relative index needs more thought. With $b$ bits a gap can be $0 \dots 2^b - 1$. A
# longer one is cut: every $2^b$ steps a *filler* is stored, an entry with gap $2^b - 1$
# and value zero.


# %%
def relative_pairs(values, bits):
    """A flat list of numbers -> pairs (gap, value), fillers included."""
    longest, gap, pairs = 2**bits - 1, 0, []
    for value in values:
        if value == 0 and gap < longest:
            gap += 1
        else:
            pairs.append((gap, value))  # a non-zero, or a filler
            gap = 0
    while pairs and pairs[-1][1] == 0:
        pairs.pop()  # zeros at the end need no entry
    return pairs


# %% [markdown]
# On our small matrix with 2 bits, the gap of 5 zeros does not fit: it takes a filler.

# %% tags=["nbval-check-output"]
print(relative_pairs(matrix.flatten().tolist(), bits=2))
print(relative_pairs(matrix.flatten().tolist(), bits=3))

# %% [markdown]
# `sparsity.encode` writes all five formats, each after a header that names the format, the
# type and the shape, and `sparsity.decode` reads them back. The equality cell: what follows
# the header is what we have just written.

# %%
layer = networks["90 % zeros"].stage3[1].conv2.weight.detach()
flat = layer.flatten(1).numpy()  # (128, 1152)
header = sparsity.header_bytes(layer.ndim)
assert sparsity.encode(layer, "csr")[header:] == csr_bytes(flat)
assert sparsity.encode(layer, "bitmask")[header:] == bitmask_bytes(flat)
pairs = relative_pairs(flat.ravel().tolist(), bits=4)
body = sparsity.encode(layer, "relative", index_bits=4)[header:]
assert len(body) == 4 + -(-len(pairs) // 2) + 4 * len(pairs)  # two 4-bit gaps a byte

# %% [markdown]
# And a format that does not give back every value is no format:

# %%
formats = ("coo", "csr", "bsr", "bitmask", "relative")
for name in formats:
    assert torch.equal(sparsity.decode(sparsity.encode(layer, name)), layer)

# %% [markdown]
# ## On the network
#
# First the break-even. We raise the sparsity of the layer step by step, encode it each time,
# and note the first sparsity at which its bytes fall below the dense tensor's.


# %%
def measured_break_even(name, weight):
    """The smallest sparsity, in steps of 0.1 %, at which the format is smaller."""
    dense = len(sparsity.encode(weight, "dense"))
    for share in np.arange(0, 1, 0.001):
        thinned = weight * pruning.mask_of(weight.abs(), share)
        if len(sparsity.encode(thinned, name)) < dense:
            return share
    return 1.0


# %% [markdown]
# The layer is $128 \times 1152$, so rows need 8 bits and columns 16; at the break-even there
# are more than 65,535 non-zeros, so pointers need 32. By {eq}`eq-break-even`, COO pays from
# $24/56$, CSR from $(16 + 129 \cdot 32 / 147{,}456)/48$, the bitmask from $1/32$.

# %% tags=["nbval-check-output"]
whole = checkpoints.load("resnet14").stage3[1].conv2.weight.detach()
for name in ("coo", "csr", "bitmask"):
    formula = sparsity.break_even(name, whole.shape)
    found = measured_break_even(name, whole)
    print(f"{name:8} formula {100 * formula:5.1f} %   measured {100 * found:5.1f} %")

# %% [markdown]
# Formula and file agree. (A trap on the way: a mask of zeros and ones *times* a negative
# weight is −0.0, whose sign bit is set. A format that asks "are all bits zero?" would store
# half of our zeros; `encode` asks for the value.) Now the whole network, at six sparsities and in every format. The
# bytes are those of all weights and of all that is not pruned: batch norms stay dense.


# %%
def network_bytes(model, name):
    """Bytes of all tensors, weights in one format, all else dense."""
    total = 0
    for tensor in model.state_dict().values():
        if tensor.ndim:  # counters of the batch norms have no dimension
            kind = name if tensor.ndim > 1 else "dense"
            total += len(sparsity.encode(tensor, kind))
    return total


# %% [markdown]
# Each format gets a line; the black one is the dense file.

# %%
levels = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
sizes = {name: [] for name in ("dense", *formats)}
for level in levels:
    model = pruned(level)
    for name, found in sizes.items():
        found.append(network_bytes(model, name) / 1e3)

# %% [markdown]
# To the right there are more zeros, and lower is smaller, on a logarithmic axis. The numbers
# stand below the figure, one column for each sparsity.

# %%
fig, ax = plt.subplots()
for (name, found), marker in zip(sizes.items(), plotting.MARKERS, strict=False):
    color = "black" if name == "dense" else None
    ax.plot([100 * x for x in levels], found, marker=marker, color=color, label=name)
ax.set(xlabel="zeros (%)", ylabel="bytes of the network (kB)", yscale="log")
ax.legend()
plt.show()
print(f"{'kB':9}" + "".join(f"{100 * x:6.0f} %" for x in levels))
for name, found in sizes.items():
    line = "".join(f"{x:8.0f}" for x in found)
    print(f"{name:9}{line}")

# %% [markdown]
# Three things to see. The bitmask is best until about 90 %; then formats that store
# nothing at all for a zero overtake it. The relative index with its 4-bit gaps follows the
# bitmask until there, and then falls behind: in a nearly empty layer the gaps need fillers.
# And BSR is the worst by far: our zeros are scattered, so up to 80 % of them leave most 4×4
# blocks with some non-zero inside, and BSR stores such a block whole. A format fits a *pattern*; the next lesson
# makes patterns that fit BSR.
#
# The smallest format differs from tensor to tensor, so `sparsity.save_encoded` takes the
# smallest for each. It writes a real file, whose size we ask of the file system.

# %%
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "sparse.safetensors"
    sparsity.save_encoded(networks["90 % zeros"], path)
    sparse_size = path.stat().st_size
    back = sparsity.load_encoded(checkpoints.load("resnet14"), path)
dense_size = metrics.saved_bytes(networks["dense"])
factor = dense_size / sparse_size
print(f"{dense_size:,} -> {sparse_size:,} bytes, a factor of {factor:.1f}")

# %% [markdown]
# Ten times fewer weights, but the factor is smaller than ten: most of the difference is the
# price of the indices, some of it the batch norms, which stay whole. And what comes back is
# the same network, value by value, so its accuracy is the same to the last image:

# %%
validation = data.load("validation").subset(1000)
for key, tensor in networks["90 % zeros"].state_dict().items():
    assert torch.equal(back.state_dict()[key], tensor)
before = training.predict(networks["90 % zeros"], validation.images)
assert torch.equal(before, training.predict(back, validation.images))

# %% [markdown]
# ## Why it works, when it does not
#
# **Small values make large indices.** Cut the values to 8 bits, as chapter 6 will. The
# file shrinks, and the *relative* gain of sparsity shrinks with it.

# %% tags=["nbval-check-output"]
sparse_layer = whole * pruning.mask_of(whole.abs(), 0.9)
for dtype in (torch.float32, torch.float16, torch.int8):
    number = (sparse_layer / sparse_layer.abs().max() * 127).to(dtype)
    dense = len(sparsity.encode(number, "dense"))
    gains = [dense / len(sparsity.encode(number, name)) for name in ("csr", "bitmask")]
    text = f"csr {gains[0]:4.1f}, bitmask {gains[1]:4.1f}"
    print(f"{number.element_size()} bytes a value: times smaller: {text}")

# %% [markdown]
# With one-byte values a 16-bit column index is twice as large as what it points to. That
# is why low-bit sparse formats use bitmasks, or gaps of a few bits.
#
# **Few bits, many fillers.** The relative index has a knob, the bits of a gap. Too few
# and fillers crowd the file, too many and every entry pays for them.

# %% tags=["nbval-check-output"]
knob = {}
for level in (0.5, 0.9, 0.98):
    weight = whole * pruning.mask_of(whole.abs(), level)
    knob[level] = [
        len(sparsity.encode(weight, "relative", index_bits=b)) for b in range(1, 13)
    ]
for level, found in knob.items():
    best = 1 + int(np.argmin(found))
    print(f"{100 * level:.0f} % zeros: best with {best} bits, {min(found):,} bytes")

# %% [markdown]
# The emptier the layer, the longer its gaps, the more bits they deserve. From one non-zero
# to the next it is $1 / (1 - s)$ places on average. In these three cases the best width is
# the base-2 logarithm of that and two to four bits more, since many gaps are longer than
# the mean.
#
# **Smaller is not faster.** Finally the time. A convolution is a matrix product: the
# weight $(C_\text{out}, C_\text{in} k^2)$ times the patches of the image
# $(C_\text{in} k^2, \text{positions})$. We time the product of one layer of each stage,
# sparse against dense, on one thread. `matmul_kernels` converts the weight beforehand and
# checks that every kernel gives the dense result.


# %%
def products(rows, inner, positions, share):
    """Median milliseconds of each kernel at one sparsity."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, inner, generator=generator)
    weight *= pruning.mask_of(torch.rand(rows, inner, generator=generator), share)
    patches = torch.randn(inner, positions, generator=generator)
    with latency.thread_limit(1):  # for the conversion; `measure` sets its own
        kernels = matmul_kernels(weight, patches)
    times = latency.measure(kernels, rounds=25, warmup=3)
    return {name: t.median for name, t in times.items()}


# %% [markdown]
# The three layers have the same number of MACs, about, and very different shapes.

# %%
layers = {
    "stage 1": (32, 288, 196),
    "stage 2": (64, 576, 49),
    "stage 3": (128, 1152, 16),
}
shares = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
timed = {
    layer: [products(*shape, share) for share in shares]
    for layer, shape in layers.items()
}

# %% [markdown]
# How many times faster than dense is each sparse kernel? Below the black line it is
# slower. Under the figure: the first of our sparsities at which a kernel wins.

# %%
fig, axes = plt.subplots(1, 3, sharey=True, figsize=(6.8, 2.9))
for ax, (layer, times) in zip(axes, timed.items(), strict=True):
    ax.axhline(1, color="black")
    for name, marker in (("torch CSR", "o"), ("scipy CSR", "s"), ("torch BSR", "^")):
        gain = [t["dense"] / t[name] for t in times]
        ax.plot([100 * s for s in shares], gain, marker=marker, label=name)
    ax.set(title=layer, xlabel="zeros (%)", ylim=(0, 4))
axes[0].set_ylabel("speed-up over dense")
axes[0].legend()
plt.show()
for layer, times in timed.items():
    for name in ("torch CSR", "scipy CSR", "torch BSR"):
        wins = [s for s, t in zip(shares, times, strict=True) if t[name] < t["dense"]]
        text = f"from {100 * wins[0]:.0f} % zeros" if wins else "never"
        print(f"{layer}: {name} wins {text}")

# %% [markdown]
# The file paid from a third of zeros on; the time pays much later. Dense kernels use the
# vector units of the processor, read memory in order, and use each number several times
# while it is at hand. A CSR kernel fetches a column index, then a short row of the patches
# (196, 49 or 16 numbers here) from wherever that index points, of which little is used again
# before the next jump. It does $1 - s$ of the work at a fraction of the speed, so it must
# save most of the work before it wins. BSR, on scattered zeros, computes nearly everything
# and adds its overhead: it stays slower at most sparsities.
#
# ## What practitioners use
#
# `torch.sparse` and `scipy.sparse` store the same arrays, for computing rather than for
# shipping: their indices are 64 and 32 bits wide.

# %% tags=["nbval-check-output"]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # "Sparse CSR tensor support is in beta state"
    in_torch = sparse_layer.flatten(1).to_sparse_csr()
parts = (in_torch.crow_indices(), in_torch.col_indices(), in_torch.values())
torch_bytes = sum(part.numel() * part.element_size() for part in parts)
ours = len(sparsity.encode(sparse_layer, "csr"))
print(f"torch {torch_bytes:,} bytes, ours {ours:,}: {torch_bytes / ours:.2f} times")

# %% [markdown]
# A network that is not ours: torchvision's MobileNetV2 {cite:p}`sandler2018mobilenetv2`,
# here with random weights, since sizes do not care. At 90 % zeros in each layer, which
# format is smallest, and how often?

# %% tags=["nbval-check-output"]
foreign = torchvision.models.mobilenet_v2(weights=None)
winners, total, dense_total = {}, 0, 0
for weight in foreign.parameters():
    if weight.ndim < 2:
        continue
    thinned = weight.detach() * pruning.mask_of(torch.rand(weight.shape), 0.9)
    found = {name: len(sparsity.encode(thinned, name)) for name in formats}
    best = min(found, key=found.get)
    winners.setdefault(best, []).append(weight[0].numel())  # columns
    total, dense_total = total + found[best], dense_total + 4 * weight.numel()
print({name: len(columns) for name, columns in winners.items()}, end=", ")
print(f"{dense_total / total:.1f} times smaller")

# %% [markdown]
# CSR wins where a column index has 8 bits (the 0.8 bits a number that it then costs at 90 %
# zeros are less than the bitmask's one) and rows are long enough to share their pointers
# among many numbers; the bitmask wins everywhere else.

# %% [markdown]
# ```{admonition} What changes at ImageNet scale
# :class: note
# The factor hardly depends on the size of the network: it is a matter of sparsity and of
# the bits of a value. Time does depend on it. Larger layers amortize the overhead of a
# sparse kernel, and on GPUs {cite:t}`gale2020sparse` reach 1.2 to 2.1 times the speed of
# dense networks with kernels written for deep learning, at sparsities that they can keep
# without losing accuracy.
# ```
#
# ## Paper and us
#
# | | paper reports | we measured |
# |---|---|---|
# | {cite:t}`han2016deep`, AlexNet and VGG-16 | 9 to 13 times fewer connections; with sharing and Huffman coding 35 and 49 times smaller files | a tenth of the weights; the file above, without sharing and coding yet (chapter 6) |
# | {cite:t}`gale2020sparse`, Transformer and MobileNet on a V100 | 1.2 to 2.1 times faster | one product at a time, on a CPU: the figure above |
#
# The claims of the text:

# %% tags=["claims"]
for name, found in sizes.items():
    assert abs(found[0] - sizes["dense"][0]) < 1 or name != "dense"
at_90 = {name: found[levels.index(0.9)] for name, found in sizes.items()}
assert min(at_90, key=at_90.get) == "bitmask", "the smallest until about 90 %"
assert sizes["bsr"][2] > 0.7 * sizes["dense"][2], "most blocks are stored at 80 %"
assert at_90["bsr"] == max(v for k, v in at_90.items() if k != "dense")
assert sizes["bitmask"][2] < sizes["csr"][2], "bitmask before CSR at 80 %"
at_98 = {name: found[levels.index(0.98)] for name, found in sizes.items()}
assert at_98["csr"] < at_98["bitmask"], "a bit for each zero is too much at 98 %"
assert 6 < factor < 9.5, "less than the tenfold of the non-zeros"
stored = [
    t.count_nonzero() if t.ndim > 1 else t.numel() for t in back.state_dict().values()
]
free = dense_size / (4 * float(sum(stored)))  # if indices took no bytes
assert free - factor > 10 - free, "most of the difference is the price of the indices"
assert 1 < torch_bytes / ours < 2.2
assert max(winners["csr"]) <= 256, "CSR wins only with 8-bit columns"
for times in timed.values():
    assert times[0]["dense"] < times[0]["torch CSR"], "CSR is slower at 50 %"
    assert max(t["dense"] / t["torch BSR"] for t in times[:5]) < 1, "BSR up to 95 %"
best_98 = max(t[-1]["dense"] / t[-1]["torch CSR"] for t in timed.values())
assert best_98 > 1.2, "and faster at 98 % in some layer"

# %% [markdown]
# ## Your turn
#
# Decode a relative index: from the pairs (gap, value), fillers included, and the length of
# the tensor, give back the flat list of numbers. Replace the `...` and run the cell.


# %%
def from_pairs(pairs, length):
    return ...


sparse_formats.from_pairs(from_pairs)

# %% [markdown]
# ## Summary
#
# A zero is free only if the format can say where the others are for less. COO, CSR,
# bitmask and relative index differ in what they pay: an index for every non-zero, or a bit
# for every number. The break-even is a ratio of index bits and value bits, derived in one
# line and met by real files. In time, the break-even lies far higher, since a sparse
# kernel multiplies slower; and a format for blocks is wasted on scattered zeros.
#
# ## Check yourself
#
# ```{exercise}
# :label: ex-formats-bits
# A tensor of 4-bit values, 80 % zeros: which is smaller, the dense tensor or a bitmask?
# And CSR with 16-bit columns?
# ```
#
# ```{solution} ex-formats-bits
# :class: dropdown
# The bitmask pays from $s > 1/4$: per number it needs $1 + 0.2 \cdot 4 = 1.8$ bits instead
# of 4. CSR needs $0.2 \cdot (4 + 16) = 4$ bits a number, as many as the dense tensor, and
# pointers on top.
# ```
#
# ```{exercise}
# :label: ex-formats-pointers
# A depthwise convolution has 960 filters of 9 weights each. Why is CSR a poor format for
# it, even at 90 % zeros?
# ```
#
# ```{solution} ex-formats-pointers
# :class: dropdown
# It has a pointer for each row, and a row has less than one non-zero on average: 961
# pointers of 16 bits for 864 values. Nine columns need 8 bits, so the term $(R + 1)\,p$ of
# {eq}`eq-format-sizes` is more than twice as large as the columns, and half as large as the
# values.
# ```
#
# ```{exercise}
# :label: ex-formats-claim
# A blog reports "pruned to 90 %, file ten times smaller", and measures the file after
# `zip`. What would you ask?
# ```
#
# ```{solution} ex-formats-claim
# :class: dropdown
# What the network takes when it is loaded. Zip finds the zeros in transit, but the
# unpacked tensor is as large and as slow as before. Also: whether the factor counts all
# tensors of the file, and whether the dense file was zipped as well.
# ```
#
# ```{exercise}
# :label: ex-formats-gap
# Relative index with gaps of 4 bits, so that a gap holds up to 15 zeros. A row starts with 40
# zeros. How many entries does the first non-zero take, and at which sparsity does this begin to hurt?
# ```
#
# ```{solution} ex-formats-gap
# :class: dropdown
# Three: two padding entries, each 15 zeros and a stored zero, cover 32 numbers, and the third has the
# gap 8. Padding becomes frequent when the mean gap $s / (1 - s)$ comes near 15, at $s = 94\,\%$.
# ```
#
# ## Where next
#
# - [Assignment: sparsity](../../assignments/release/sparsity/sparsity.ipynb): a format, a pattern, and the bytes that were forgotten.
# - Next lesson: patterns of zeros that hardware can use.
# - {cite:t}`han2016deep`, section 2: the relative index, in half a page.
# - {cite:t}`gale2020sparse`: what a fast sparse kernel has to do.
