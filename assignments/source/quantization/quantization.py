# %% [markdown]
# # Assignment: quantization
#
# Eight bits were nearly free. Here you go further down: scales that a processor multiplies by
# shifting, an average that no floating-point number takes part in, a network in 30 kB, and a
# published compression that is not one.
#
# | task | what | points |
# |---|---|---|
# | 1 | scales that are powers of two | 3 |
# | 2 | an average of integers | 3 |
# | 3 | which file for this chip? | 2 |
# | 4 | the student in a few kilobytes | 4 |
# | 5 | find the bug: a codebook for each filter | 3 |
# | 6 | open question | 3 |
#
# **After it you can** write a quantizer from its formula, edge cases included, compute a layer with
# integers alone, choose among remedies for few bits and prove the choice by a file, and count what a
# compressed weight really takes.
#
# **You need** chapter 6: [integers](../../../chapters/06-quantization/integers.ipynb),
# [fewer bits](../../../chapters/06-quantization/post-training.ipynb) and
# [one small file](../../../chapters/06-quantization/weight-sharing.ipynb).
#
# **Effort** two to three hours; the notebook runs in less than a minute. Write only where it says
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
import math
from math import frexp, log2

import torch

from slimcnn import checkpoints, coding, data, report, training
from slimcnn import quantization as quant
from slimcnn.checks import plain
from slimcnn.checks.assignments import quantization as checks

# %% tags=["parameters"]
NETWORK = "student"  # task 3: the network, "student" or "resnet14"
SCALES = "per tensor"  # task 3: the scales that the chip can compute with
IMAGES = False  # task 3: whether there are calibration images
MOST_LOST = 1.5  # task 3: points that may be lost, on the validation images
KILOBYTES = 30.0  # task 4: the file may have so many kB (1 kB = 1,000 bytes)
ACCURACY = 92.2  # task 4: and must reach so many percent on the validation images
VALUES = 16  # task 5: shared values of a filter

# %% [markdown]
# ## 1 Scales that are powers of two
#
# A product with a power of two is a shift. With scales $\delta_c = 2^{e_c}$ even the smallest
# processor changes from one scale to another without a multiplication. Symmetric, a scale for each
# output channel $c$: the exponent is the least whole number for which no weight is clipped,
#
# $$
# e_c = \left\lceil \log_2 \frac{\max |\mathbf{W}_c|}{2^{n_\text{bits} - 1} - 1} \right\rceil,
# \qquad
# \mathbf{W}_{\text{int},c} = \operatorname{round}\bigl(\mathbf{W}_c / 2^{e_c}\bigr) ,
# $$
#
# and $e_c = 0$ for a channel that has nothing but zeros.
#
# Example, three bits, so integers from −3 to 3: the channel (1.5, −0.2) has $1.5 / 3 = 2^{-1}$, so
# $e = -1$ and the integers 3 and 0. The channel (0.1, 0.07) has $0.1 / 3 = 0.0333$, between
# $2^{-5}$ and $2^{-4}$, so $e = -4$; $0.1 / 0.0625 = 1.6$ and $0.07 / 0.0625 = 1.12$ give 2 and 1.
# Of the three positive integers one is not used: that is the price.
#
# Write `power_of_two`. The weight has the shape (out, in) or (out, in, kh, kw); it gives the pair of
# the exponents (out,) and the integers in the shape of the weight. (Lesson *integers*, "From scratch".)


# %% task="power_of_two"
def power_of_two(weight, bits):
    """Exponents e of the scales 2^e, (out,), and the integers, in the shape of the weight."""
    ### BEGIN SOLUTION
    largest = weight.abs().flatten(1).amax(1).double()  # (out,)
    high = 2 ** (bits - 1) - 1
    exponents = torch.where(largest > 0, torch.ceil(torch.log2(largest / high)), 0.0)
    along = torch.exp2(exponents).view(-1, *[1] * (weight.ndim - 1))
    return exponents, torch.round(weight / along)
    ### END SOLUTION


# %% test="power_of_two" points=3
checks.power_of_two(power_of_two).require()
### BEGIN HIDDEN TESTS
checks.power_of_two(power_of_two, seed=SECRET).require()
### END HIDDEN TESTS

# %% [markdown]
# ## 2 An average of integers
#
# Before its last layer a network averages each channel. The integers $q_x$ have the scale
# $\delta_x$ and the zero point $\zeta_x$; what is stored has $\delta_y$ and $\zeta_y$:
#
# $$
# q_y = \operatorname{clamp}\bigl(\operatorname{round}(\kappa\, a) + \zeta_y,\; 0,\; 255\bigr),
# \qquad
# a = \sum_{H \cdot W} (q_x - \zeta_x),
# \qquad
# \kappa = \frac{\delta_x}{H\,W\,\delta_y} .
# $$
#
# On a microcontroller $\kappa$ becomes a number of **15 bits** and a shift: $\kappa \approx m / 2^n$
# with $m = \operatorname{round}(2^n \kappa)$ and the largest $n$ for which $m < 2^{15}$. Then
# $\operatorname{round}(\kappa\, a)$ is $(m\,a + 2^{n-1}) \gg n$, integers only. (All of our $n$ are 1 or
# more.) With so few bits the result is at times another one than that of real numbers; the check asks
# for *these* integers.
#
# Example: a map of $2 \times 2$ with 52, 60, 49, 51 and $\zeta_x = 50$ has
# $a = 2 + 10 - 1 + 1 = 12$. With $\delta_x = 0.02$ and $\delta_y = 0.01$, $\kappa = 0.02 / 0.04 = 0.5$,
# so $m = 2^{14}$ and $n = 15$: $(12 \cdot 16{,}384 + 16{,}384) \gg 15 = 6$, and with $\zeta_y = 30$
# the network stores 36.
#
# Write `average`: from uint8 (B, C, H, W) to whole numbers (B, C). `frexp` gives, of a positive
# number, the exponent $k$ with $2^{k-1} \le \kappa < 2^k$. (Lesson *integers*, "From sums to eight bits again".)


# %% task="average"
def average(q, scale, zero_point, new_scale, new_zero_point):
    """uint8 (B, C, H, W) -> whole numbers from 0 to 255, (B, C)."""
    ### BEGIN SOLUTION
    count = q.shape[2] * q.shape[3]
    factor = scale / (count * new_scale)
    n = 15 - frexp(factor)[1]
    if round(factor * 2**n) == 2**15:  # rounded up to a 16th bit
        n -= 1
    m = round(factor * 2**n)
    sums = (q.long() - zero_point).sum((2, 3))
    return (((sums * m + (1 << (n - 1))) >> n) + new_zero_point).clamp(0, 255)
    ### END SOLUTION


# %% test="average" points=3
checks.average(average).require()
### BEGIN HIDDEN TESTS
checks.average(average, seed=SECRET).require()
### END HIDDEN TESTS

# %% [markdown]
# ## 3 Which file for this chip?
#
# The records have every network rounded in many ways, one seed, on the 5,000 validation images:

# %%
screen = [
    (r.settings["variant"], r.bytes, r.accuracy)
    for r in report.load_records("quantization-screen")
    if r.model == NETWORK and r.settings["variant"].startswith("weights")
]
unrounded = checkpoints.entry(NETWORK).validation_accuracy
print(f"{NETWORK} before rounding: {unrounded:.2f} %")
for variant, size, accuracy in sorted(screen, key=lambda row: row[1]):
    print(f"{size:8,} bytes {accuracy:6.2f} %  {variant}")

# %% [markdown]
# "ends 8" leaves the first and the last layer at eight bits, "mse" clips the weights by the least
# square error. A customer has a chip and a condition:

# %%
print(f"The chip computes with scales {SCALES}.")
print(
    "There are",
    "calibration images." if IMAGES else "no images at all: no calibration.",
)
print(f"At most {MOST_LOST} points of the network's accuracy may be lost.")

# %% [markdown]
# Of the files that meet the condition the customer takes the smallest, and of several that are equally
# small the most accurate. Which? Give the name of the variant, word for word. Which remedies look
# at images? (Lesson *fewer bits*, "What is too much on average".)


# %% task="choice"
choice = "?"  # your turn: a variant from the list
### BEGIN SOLUTION
fits = [
    (size, -accuracy, variant)
    for variant, size, accuracy in screen
    if SCALES in variant
    and (IMAGES or "corrected" not in variant)
    and accuracy >= unrounded - MOST_LOST
]
choice = min(fits)[2]
### END SOLUTION


# %% test="choice" points=2
choice = plain(choice)
assert choice in [row[0] for row in screen], f"{choice!r} is not in the list above"
### BEGIN HIDDEN TESTS
from slimcnn import checkpoints, report

records = report.load_records("quantization-screen")
start = checkpoints.entry(NETWORK).validation_accuracy
rows = {
    r.settings["variant"]: (r.bytes, -r.accuracy)
    for r in records
    if r.model == NETWORK and r.settings["variant"].startswith("weights")
}
assert type(choice) is str and choice in rows, "not a variant from the list"
assert SCALES in choice, f"{choice}: the chip computes with scales {SCALES}"
assert IMAGES or "corrected" not in choice, (
    f"{choice}: there are no images to correct biases"
)
assert -rows[choice][1] >= start - MOST_LOST, (
    f"{choice} loses more than {MOST_LOST} points"
)
fits = [
    v
    for v, row in rows.items()
    if SCALES in v and (IMAGES or "corrected" not in v) and -row[1] >= start - MOST_LOST
]
assert choice == min(fits, key=rows.get), (
    f"{choice} meets the condition; a better one does, too"
)
### END HIDDEN TESTS

# %% [markdown]
# ## 4 The student in a few kilobytes
#
# Write `pack_student(path)`: it saves the student, quantized as you see fit, with
# `quant.save_quantized(network, path)`, in at most `KILOBYTES` kB. The check reads the file into an
# untrained student with folded batch norms (`quant.load_quantized`) and asks for `ACCURACY` percent
# on the validation images; when it is graded, for half a point less on the test images. All that counts
# is in the file, scales, biases and header, too.
#
# Everything of the chapter is allowed: other bits for other layers (`quant.Scheme` takes a dictionary),
# one scale or one a channel, even ranges, corrected biases, learned roundings. Weights alone count, so
# activations may stay as they are (`activation_bits=None`). `quant.allocate_bits` counts a scale for each
# channel; with one scale a tensor the file is smaller than its budget. Your function should be done in half a
# minute; choose on validation images, calibrate on training images. To start with, four bits:

# %%
folded = quant.fold_batch_norm(checkpoints.load("student"))
calibration = data.load("train").subset(300).images
four = quant.quantize(folded, quant.Scheme(4, None), calibration[:1])
quant.save_quantized(four, "four.safetensors")

# %% [markdown]
# What does it take, and what is not weights? (Lesson *fewer bits*, "Bits where they help".)

# %%
layers = [name for name, m in folded.named_modules() if hasattr(m, "weight")]
weights = sum(quant.weight_bytes(folded.get_submodule(n), 4) for n in layers[1:-1])
weights += sum(
    quant.weight_bytes(folded.get_submodule(n), 8) for n in (layers[0], layers[-1])
)
size = len(open("four.safetensors", "rb").read())
few = data.load("validation").subset(1000)
print(f"{size:,} bytes, {size - weights:,} of them biases and header")
print(f"{training.evaluate(four, few):.1f} % of a thousand validation images")

# %% [markdown]
# Fewer bytes and a better answer are wanted. Where do bits help, and what mends the means?


# %% task="pack_student"
def pack_student(path):
    """Save the quantized student by quant.save_quantized."""
    ### BEGIN SOLUTION
    train = data.load("train")
    network = quant.equalize(quant.fold_batch_norm(checkpoints.load("student")))
    damages = quant.damages(network, train.subset(150), (8, 5, 4, 3))
    whole = quant.Scheme(8, None, per_channel=False)
    quant.save_quantized(quant.quantize(network, whole, train.images[:1]), path)
    weights = (quant.weight_bytes(network.get_submodule(n), 8, False) for n in damages)
    rest = path.stat().st_size - sum(weights)  # header and biases, and as many scales
    count = sum(len(network.get_submodule(n).weight) - 1 for n in damages)
    budget = (
        1000 * KILOBYTES - rest + 4 * count - 50
    )  # allocate_bits counts them a channel
    bits = quant.allocate_bits(network, damages, budget)
    scheme = quant.Scheme(bits, None, per_channel=False)
    images = train.subset(300).images
    rounded = quant.quantize(network, scheme, images[:1])
    learned = quant.ada_round(rounded, network, images, iterations=100)
    quant.save_quantized(quant.correct_bias(learned, network, images), path)
    ### END SOLUTION


# %% test="pack_student" points=4
print(checks.pack_student(pack_student, KILOBYTES, ACCURACY).require())
### BEGIN HIDDEN TESTS
checks.packed(KILOBYTES, ACCURACY - 0.5, "test").require()
### END HIDDEN TESTS

# %% [markdown]
# ## 5 Find the bug: a codebook for each filter
#
# A paper shares weights: the weights of each *filter* take one of `VALUES` values that k-means has found
# for this filter, so the file holds indices of a few bits. "A codebook for each filter costs no accuracy
# and makes the network many times smaller than with 32 bits." The code that came with it, in short:


# %%
def published(network, values):
    """Shares values in place; gives how many times smaller the weights are."""
    plain = shared = 0
    for layer in network.modules():
        if hasattr(layer, "weight"):
            for row in layer.weight.data:
                row.copy_(coding.kmeans(row, values).decode())
            plain += 32 * layer.weight.numel()
            shared += log2(values) * layer.weight.numel()
    return plain / shared


# %% [markdown]
# On our student:

# %%
network = quant.fold_batch_norm(checkpoints.load("student"))
before = training.evaluate(network, few)
print(f"{published(network, VALUES):.1f} times smaller,", end=" ")
print(f"{before:.1f} -> {training.evaluate(network, few):.1f} %")

# %% [markdown]
# The accuracy is right. The bytes are not: look at a filter of nine weights. Write `shared_bytes`, what
# one weight of a given shape (out, in, …) takes in a file:
#
# - each filter has a codebook of `values` numbers, four bytes each;
# - an index has a whole number of bits, as few as tell the values of a codebook apart (0 for a single
#   value); the indices of all filters stand in one row, which is filled up to a whole byte;
# - a weight that takes no less this way is stored plain, with four bytes a number.
#
# Example: shape (2, 40), 5 values. An index has 3 bits, 80 of them are 240 bits or 30 bytes; two
# codebooks have $2 \cdot 5 \cdot 4 = 40$ bytes: 70 bytes, against 320. Shape (2, 3), 5 values: the codebooks
# alone have 40 bytes, the six weights 24, so 24. (Lesson *one small file*, "Shared
# values", and its exercises on a codebook's bytes.)


# %% task="shared_bytes"
def shared_bytes(shape, values):
    """Bytes of a weight with a codebook for each filter, or plain if that is less."""
    ### BEGIN SOLUTION
    count = math.prod(shape)
    bits = math.ceil(log2(values))
    coded = math.ceil(count * bits / 8) + 4 * shape[0] * values
    return min(coded, 4 * count)
    ### END SOLUTION


# %% test="shared_bytes" points=3
checks.shared_bytes(shared_bytes).require()
shapes = [layer.weight.shape for layer in folded.modules() if hasattr(layer, "weight")]
ratio = sum(4 * s.numel() for s in shapes) / sum(
    shared_bytes(tuple(s), VALUES) for s in shapes
)
print(f"{ratio:.1f} times smaller in truth")
### BEGIN HIDDEN TESTS
checks.shared_bytes(shared_bytes, seed=SECRET).require()
### END HIDDEN TESTS

# %% [markdown]
# ## 6 Open question
#
# A maker of doorbells has a processor without floating-point unit, with 64 kB for the network, and
# pictures from one test household. An engineer proposes: "Weights of four bits, one scale a tensor,
# biases corrected on the same 500 pictures on which we then report the accuracy. It lost 0.1 points, so
# it is as good as before." In at most 150 words: what is right about the plan, what would you change, and
# how would you find out whether it is as good?
#
# | points | what the answer does |
# |---|---|
# | 1 | names the pictures that both calibrate and judge, or says that activations must be integers, too |
# | 2 | both, and says what they do to the number reported or to the product |
# | 3 | and proposes a plan that can be tried: which bits and scales for which layers, which images for what, and a paired comparison with enough images |

# %% [markdown] open="doorbell" points=3
# Few bits fit the memory, and correcting biases is the cheapest remedy for them. But the pictures that
# give the means must not judge: the means fit exactly the images that are counted, so the 0.1 points are
# too good. Correct on pictures from training, of many households, and report on others. Weights of four
# bits are not enough of a plan, either: without a floating-point unit the activations have to be integers
# as well, eight bits with ranges from calibration, and sums rescaled by multiplier and shift. I would
# take a scale a channel, or even ranges first, and eight bits for the first and the last layer, which
# have few weights and suffer most; 64 kB leave room for that. Then compare both networks image by image on a test set
# that chose nothing: 500 pictures cannot tell 0.1 points, half a picture, from nothing. I would give the
# paired interval, and check the integers against the float network before anything ships.
