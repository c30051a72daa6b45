# %% [markdown]
# # On the phone
#
# A file has passed its gate. What stands between it and the right label on somebody's phone? This lesson
# changes one number: the accuracy that reaches the user, with the file as it is.
#
# **You will**
#
# - choose a runtime for Android, iOS, the web or a microcontroller, and say what would change your mind;
# - write down the way from a photograph to 784 numbers, and test it, since no checksum does;
# - say what the first answer, two threads, heat, energy and memory do to a number measured on a desk;
# - deliver an update that is verified before it is used, and taken back when it fails.
#
# **You need** [Latency](../01-measuring/latency.ipynb) and
# [Integers](../06-quantization/integers.ipynb). The complete Kotlin and Swift are on the page
# [The app side](../../book/apps.md), symbols on the [notation page](../../book/notation.md).
#
# **Time** 40 minutes to read, under a minute to run on a CPU.

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
import json
import os
import shutil
import tempfile
import time
from itertools import pairwise
from math import exp, log
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torchvision.transforms.v2 import functional as industrial

from slimcnn import checkpoints, data, deploy, export, metrics, plotting, sessions
from slimcnn.checks import phones

plotting.use_style()
_ = torch.manual_seed(0)

# %% [markdown]
# ## Measure first
#
# The student as files for ONNX Runtime, float32 and int8, with their manifest, in a folder that plays the
# server. Accuracies are of 500 validation images, as everywhere in this lesson.

# %%
folder = tempfile.TemporaryDirectory()
server = Path(folder.name) / "server"
runtime = deploy.RUNTIMES["ONNX Runtime"]
student = checkpoints.load("student")
validation = data.load("validation").subset(500)
calibration = data.load("train").subset(200).images
deploy.ship(student, server / "1", validation, [runtime], calibration)
manifest = json.loads((server / "1" / "manifest.json").read_text())
for file in manifest["files"]:
    print(f"{file['kind']:8}{file['bytes']:8,} bytes  {file['accuracy']:.1f} %")

# %% [markdown]
# The rest of the lesson takes the int8 file, verified and loaded:


# %%
program = deploy.load_shipped(server / "1", runtime, "int8").program


def accuracy(inputs):
    """Percent of the validation images, from whatever reaches the file."""
    inputs = torch.as_tensor(np.ascontiguousarray(inputs)).float()
    return metrics.accuracy(program(inputs.reshape(-1, 1, 28, 28)), validation.labels)


# %% [markdown]
# From tensors, as in all chapters before:

# %%
expected = data.normalize(validation.images)
baseline = accuracy(expected)
print(f"{baseline:.1f} %")

# %% [markdown]
# ## The idea
#
# ### Which runtime
#
# | runtime | runs on | size, where its makers state one | take it when |
# |---|---|---|---|
# | LiteRT | Android, desktops; iOS by an older interface | [0.38 MB](https://ai.google.dev/edge/lite/build/reduce_binary_size) with the operators of one network | Android first; the same file on a microcontroller |
# | ONNX Runtime | Android, iOS, desktops, servers | not stated | one file everywhere |
# | ONNX Runtime Web | browsers | not stated | a web page |
# | ExecuTorch | Android, iOS, embedded | not stated | PyTorch to the end |
# | Core ML | iOS, macOS | 0: part of the system | iOS alone; Apple's Neural Engine |
# | ncnn | Android, iOS, desktops | not stated | C++ without dependencies |
# | LiteRT for Microcontrollers | Cortex-M, ESP32 | [16 kB](https://ai.google.dev/edge/lite/microcontrollers) for its core | no operating system |
#
# One code base for several platforms: ONNX Runtime. Android alone: LiteRT, where
# [GPU and NPU](https://developers.google.com/edge/litert/android) are supported by the system's own
# maker. iOS alone: Core ML, which adds nothing to the app. If two are left, take the one whose int8 file
# passes the gate and is faster *on the slowest phone that you support*. No table replaces that.
#
# ### A contract
#
# Every file of this book takes 784 numbers and gives ten logits. Everything before and after is the app's,
# in another language, written by somebody else:
#
# | step | value | the classic mistake |
# |---|---|---|
# | orientation | the photo's EXIF flag is applied | the sensor's orientation |
# | square | the middle of the photo | squeezing it |
# | gray | 0.299 R + 0.587 G + 0.114 B, 0 to 1 | one channel |
# | size | mean over boxes, 28×28 | picking pixels |
# | ground | divided by the brightest box | taking white for 1 |
# | light on black | 1 − that | forgetting it |
# | normalization | (x − 0.2860) / 0.3530 | twice, or from 0 to 255 |
# | layout | 1×1×28×28; LiteRT 1×28×28×1 | harmless with one channel, fatal with three |
# | output | logits | reading them as probabilities |
#
# The size first. A square of side $S$ is cut into boxes,
#
# $$
# \bar g_{ij} = \frac{1}{|B_i|\,|B_j|} \sum_{y \in B_i} \sum_{x \in B_j} g_{yx} ,
# \qquad
# B_i = \Bigl[ \bigl\lfloor \tfrac{i S}{28} \bigr\rfloor , \bigl\lfloor \tfrac{(i + 1) S}{28} \bigr\rfloor \Bigr) ,
# $$ (eq-boxes)
#
# where $g$ is the gray of a pixel. Every pixel counts, and exactly once: the end of a box is the beginning
# of the next one. A phone's own resize filter would be shorter to write, and iOS and Android would see
# different images.
#
# ## By hand
#
# Five pixels a side into two boxes a side: the bounds are $\lfloor 0 \rfloor, \lfloor 2.5 \rfloor,
# \lfloor 5 \rfloor = 0, 2, 5$, so the boxes are two and three pixels wide. All pixels are 0, only the last column
# is 6. The right boxes have a third of it: 2.

# %% tags=["nbval-check-output"]
tiny = np.zeros((5, 5))
tiny[:, 4] = 6
bounds = np.arange(3) * 5 // 2
means = [
    [tiny[a:b, c:d].mean() for c, d in pairwise(bounds)] for a, b in pairwise(bounds)
]
print(bounds.tolist(), np.array(means).tolist())
assert np.array_equal(means, [[0, 2], [0, 2]])

# %% [markdown]
# ## From scratch
#
# The whole contract, for many photographs at once. `add.reduceat` sums from each bound to the next:

# %%
GRAY = np.array([0.299, 0.587, 0.114], np.float32)


def to_gray(photos):
    """(N, S, S, 3) bytes -> (N, S, S), in parts: all as floats would fill the memory"""
    return np.concatenate([p @ (GRAY / 255) for p in np.array_split(photos, 10)])


def box_means(gray):
    """(N, S, S) -> (N, 28, 28)"""
    bounds = np.arange(29) * gray.shape[-1] // 28
    rows = np.add.reduceat(gray, bounds[:-1], axis=1)
    sums = np.add.reduceat(rows, bounds[:-1], axis=2)
    return sums / np.outer(np.diff(bounds), np.diff(bounds))


# %% [markdown]
# And what the file takes:


# %%
def phone_input(photos):
    """(N, S, S, 3) bytes -> (N, 28, 28): a dark garment on a light ground."""
    gray = box_means(to_gray(photos))
    ground = gray.max((1, 2), keepdims=True)
    return (1 - gray / ground - data.MEAN) / data.STD


# %% [markdown]
# The same in Kotlin, where `pixels` are the colors of the square and `box` gives two bounds. (All of it,
# and the calls of three runtimes, are on the page [The app side](../../book/apps.md); so is the Swift.)
#
# ```kotlin
# val grays = FloatArray(SIDE * SIDE) { i ->
#     val (y0, y1) = box(i / SIDE, side)
#     val (x0, x1) = box(i % SIDE, side)
#     var sum = 0f
#     for (y in y0 until y1) for (x in x0 until x1) sum += gray(pixels[y * side + x])
#     sum / ((y1 - y0) * (x1 - x0))
# }
# val ground = grays.max()
# return FloatArray(SIDE * SIDE) { (1f - grays[it] / ground - MEAN) / STD }
# ```
#
# We need photographs with known answers. A "photograph" of a validation image shows it large, dark on
# white. Optionally, the garment is dyed, each channel absorbing its own share; woven, its threads lighter
# and darker by turns of a coin, the same on average; and the light is dim.


# %%
generator = torch.Generator().manual_seed(0)


def photograph(images, side=280, dye=(1, 1, 1), woven=False, light=1.0):
    """(N, 1, 28, 28) bytes -> (N, side, side, 3) bytes"""
    shots = []
    for part in images.split(50):  # all of them as floats would not fit on a laptop
        garment = F.interpolate(part / 255, size=side)
        if woven:
            coin = torch.randint(0, 2, garment.shape, generator=generator) * 2 - 1
            garment = garment + torch.minimum(garment, 1 - garment) * coin
        colors = light * (1 - garment * torch.tensor(dye).view(-1, 1, 1))
        shots.append((255 * colors).round().byte().permute(0, 2, 3, 1))
    return torch.cat(shots).numpy()


# %% [markdown]
# All 500, of plain and of woven cloth:

# %%
plain = photograph(validation.images)
woven = photograph(validation.images, woven=True)
print(plain.shape)

# %% [markdown]
# The equality cells. Boxes against PyTorch's `area` mode, and a photograph's numbers against those that the
# book has used since chapter 1 (the first image):

# %%
gray = torch.from_numpy(plain[:20] @ (GRAY / 255))
area = F.interpolate(gray[:, None], size=28, mode="area")[:, 0]
boxes = torch.from_numpy(box_means(gray.numpy())).float()
torch.testing.assert_close(boxes, area, rtol=1e-4, atol=1e-5)
mine = torch.from_numpy(phone_input(plain[:1])).float()[:, None]
torch.testing.assert_close(mine, expected[:1], rtol=1e-4, atol=1e-4)

# %% [markdown]
# ## On the network
#
# Now the mistakes, one at a time, each as somebody would write it. Blue jeans absorb little blue, and
# `color and 0xff`, the shortest way to "a gray value" in Kotlin, is the blue channel:

# %%
jeans = photograph(validation.images, dye=(1, 1, 0.15))
blue_alone = jeans[..., 2:].repeat(3, axis=3)
pixels = validation.images.numpy() / 255
reached = {
    "as it should be": phone_input(plain),
    "jeans": phone_input(jeans),
    "jeans, blue channel": phone_input(blue_alone),
    "not inverted": (1 - pixels - data.MEAN) / data.STD,
    "normalized twice": (expected - data.MEAN) / data.STD,
    "0 to 255": (255 * pixels - data.MEAN) / data.STD,
    "turned by 90°": np.rot90(phone_input(plain), axes=(1, 2)),
}

# %% [markdown]
# Two of geometry and layout. A photo of 4:3 squeezed into a square, instead of cut. And three channels: a
# network that takes colors begins with a layer that makes gray of them. An app that hands over 28×28×3
# where 3×28×28 is wanted has the right number of numbers, and nothing fails.

# %%
wide = F.interpolate(F.pad(validation.images / 255, (5, 5)), size=28, mode="area")
reached["squeezed"] = (wide - data.MEAN) / data.STD
small = photograph(validation.images, 28, dye=(1, 1, 0.15))  # (N, 28, 28, 3)
for name, channels in (
    ("three channels first", small.transpose(0, 3, 1, 2)),
    ("channels last, read as first", small.reshape(-1, 3, 28, 28)),
):
    gray = np.einsum("nchw,c->nhw", channels, GRAY / 255)
    reached[name] = (1 - gray - data.MEAN) / data.STD

# %% [markdown]
# A file with int8 ends, as LiteRT's are, wants $q = \operatorname{round}(x / \delta) + \zeta$ with scale and
# zero point from the manifest. We imitate such an end, and forget $\zeta$:

# %%
low, high = float(expected.min()), float(expected.max())
scale = (high - low) / 255
zero_point = round(-128 - low / scale)
for name, added in (("int8 end", zero_point), ("int8 end, no zero point", 0)):
    stored = ((expected / scale).round() + added).clamp(-128, 127)  # what the app gives
    reached[name] = (stored - zero_point) * scale  # what the file takes it for
print(f"scale {scale:.4f}, zero point {zero_point}")

# %% [markdown]
# And sizes, from woven photographs, where the pixels of a box differ:

# %%
gray = torch.from_numpy(to_gray(woven))[:, None]
filters = {
    "woven, boxes": F.interpolate(gray, size=28, mode="area"),
    "woven, torchvision": industrial.resize(gray, [28, 28], antialias=True),
    "woven, bilinear": F.interpolate(gray, size=28, mode="bilinear"),
    "woven, nearest": F.interpolate(gray, size=28, mode="nearest"),
}
for name, small_gray in filters.items():
    reached[name] = (1 - small_gray - data.MEAN) / data.STD

# %% [markdown]
# The accuracy of each:

# %%
accuracies = {name: accuracy(inputs) for name, inputs in reached.items()}
GOOD = ("as it should be", "jeans", "three channels first", "int8 end", "woven, boxes")

# %% [markdown]
# In the first color what keeps to the contract:

# %%
fig, ax = plt.subplots(figsize=(6.4, 4.2))
colors = [plotting.PALETTE[name not in GOOD] for name in accuracies]
bars = ax.barh(list(accuracies), list(accuracies.values()), color=colors)
ax.bar_label(bars, fmt="%.1f", padding=2)
ax.axvline(10, color="black", linestyle=":")
ax.set(xlabel="accuracy (%), validation; dotted: guessing", xlim=(0, 110))
ax.grid(axis="y", visible=False)
ax.invert_yaxis()

# %% [markdown]
# The file is the same in all rows, and no row raised an error. Some mistakes ruin everything, and
# somebody notices; the dangerous ones cost ten points, look like "the network is not that good", and
# stay. Picking single pixels (nearest), or four of a hundred (bilinear without antialiasing), reads the
# threads instead of the cloth. torchvision's antialiased filter, the industrial one, does as well as boxes;
# what matters is that both apps use *the same*.
#
# Two rows should surprise: normalizing twice, and pixels up to 255, are absurd, and most answers are still
# right. Does the float32 file say the same?

# %%
hidden = []
for name in ("normalized twice", "0 to 255"):
    with torch.no_grad():
        logits = student(torch.as_tensor(reached[name]).float())
    hidden.append((metrics.accuracy(logits, validation.labels), accuracies[name]))
    print("{}: float32 {:.1f} %, int8 {:.1f} %".format(name, *hidden[-1]))

# %% [markdown]
# It guesses. The int8 file's first step rounds its input to the range that it was calibrated for: what lies
# outside is cut off, and a silhouette is left, which is often enough. int8 does not mend the mistake, it
# hides it. Test an app with the float32 file first.
#
# **One photograph is a test.** A checksum covers the file and none of this. What covers it is a photograph
# with its 784 numbers, which the app's own tests compare:

# %%
right_of = {
    "jeans, blue channel": "jeans",
    "channels last, read as first": "three channels first",
    "int8 end, no zero point": "int8 end",
    "woven, torchvision": "woven, boxes",
    "woven, bilinear": "woven, boxes",
    "woven, nearest": "woven, boxes",
}
right = {"as it should be", *right_of.values()}

# %% [markdown]
# The largest difference of each from its right version:

# %%
first = {name: np.asarray(x)[0].reshape(28, 28) for name, x in reached.items()}
differences = {
    name: np.abs(first[name] - first[right_of.get(name, "as it should be")]).max()
    for name in reached
    if name not in right
}
print({name: f"{value:.2f}" for name, value in differences.items()})

# %% [markdown]
# All of them show, and torchvision's filter, which costs no accuracy, shows as well: it is another contract.
# Put such a photograph beside the known answers, and test the Kotlin and the Swift with it.
#
# ### The first answer
#
# A benchmark warms up. A user waits for the file, for the runtime's preparations and for a **first inference**
# that finds nothing in the caches. We time the student and a network that is not ours, torchvision's
# MobileNetV2 {cite:p}`sandler2018mobilenetv2` at 224×224 with random weights. (Your times; nothing is
# asserted of them.)

# %%
mobilenet = torchvision.models.mobilenet_v2(weights=None).eval()
photo = torch.randn(1, 3, 224, 224)
paths = {
    "student": export.to_onnx(student, expected[:1], Path(folder.name) / "s.onnx"),
    "MobileNetV2": export.to_onnx(mobilenet, photo, Path(folder.name) / "m.onnx"),
}
inputs = {"student": expected[:1].numpy(), "MobileNetV2": photo.numpy()}

# %% [markdown]
# Loading, the first run, and the median of the later ones:


# %%
def first_and_later(name, threads=1, runs=50):
    """Milliseconds: loading, first run, median of the later ones."""
    times = [time.perf_counter()]
    session = sessions.onnx_session(paths[name].read_bytes(), threads)
    times.append(time.perf_counter())
    for _ in range(runs):
        session.run(None, {"input": inputs[name]})
        times.append(time.perf_counter())
    loading, first, *later = 1e3 * np.diff(times)
    return loading, first, np.median(later)


# %% [markdown]
# Both networks on one thread:

# %%
for name in paths:
    loading, first, later = first_and_later(name)
    print(f"{name:12} load {loading:7.1f}  first {first:7.2f}  later {later:6.2f} ms")

# %% [markdown]
# Loading takes as long as several answers. Do it once, off the main thread, when the screen opens; run
# once on zeros, and keep the session. On a phone it can be worse: with Apple's Neural Engine,
# [one developer reports](https://developer.apple.com/forums/thread/709211) 700 ms for loading a file of
# 15 kB, and 18 ms without. Report three numbers: load, first, median.
#
# ### Threads, big and little cores
#
# With two threads, each takes half of a layer, and the layer ends when the *slower* half does. On equal cores
# that is nearly twice as fast if the layers are large. Phones mix big and little cores. Say a big one
# does three units of work a millisecond, a little one does one. Alone, the big one needs $12 / 3 = 4$ ms for twelve
# units. Shared evenly, the little one needs $6 / 1 = 6$ ms for its half: two threads are slower than one.

# %%
big, little, work = 3, 1, 12
alone = work / big
shared = max(work / 2 / big, work / 2 / little)
fair = work / (big + little)  # if the work could be split by speed
print(f"alone {alone:.0f} ms, halves {shared:.0f} ms, split by speed {fair:.0f} ms")
for name in paths:
    one, two = first_and_later(name, 1)[2], first_and_later(name, 2)[2]
    print(f"here: {name:12} one thread {one:6.2f} ms, two {two:6.2f} ms")

# %% [markdown]
# (A second core that is busy with something else is a little core, too.) Measure 1, 2 and 4 threads on the
# phone, never "all". To know which cores ran, pin the process: `taskset f0` takes the cores 4 to 7, and
# [which are the big ones differs between phones](https://github.com/google-ai-edge/LiteRT/blob/main/tflite/tools/benchmark/README.md).
# An app cannot count on that: report the unpinned number, too.
#
# ### Heat
#
# A phone has no fan. Let what gets warm around the processor be one body of heat capacity $C_\vartheta$ (joules for
# one kelvin) that loses heat to the room through a thermal resistance $R_\vartheta$ (kelvins for one watt).
# Power $Q$ goes in, and its temperature above the room, $\vartheta$, follows
#
# $$
# C_\vartheta \frac{\mathrm{d}\vartheta}{\mathrm{d}t} = Q - \frac{\vartheta}{R_\vartheta} ,
# \qquad
# \vartheta(t) = R_\vartheta\, Q \,\bigl(1 - e^{-t / (R_\vartheta C_\vartheta)}\bigr) .
# $$ (eq-heat)
#
# At the end it is $R_\vartheta Q$, and it takes the time $R_\vartheta C_\vartheta$ to come within 37 % of it. By hand,
# with numbers that we *assume*: $C_\vartheta = 50$ J/K, $R_\vartheta = 8$ K/W, $Q = 4$ W. The end is 32 K
# above the room, the time constant 400 s. A limit of 20 K is reached after
# $400 \ln \frac{32}{32 - 20} = 392$ s. From then on the phone **throttles**: no more than $20 / 8 = 2.5$ W can go
# in. If power grows with the cube of the clock (voltage rises with it), $\sqrt[3]{2.5 / 4} = 85$ % of the
# speed is left. Step by step:


# %%
def run_hot(power, limit, seconds=900, capacity=50, resistance=8):
    """Temperature above the room and speed, second by second."""
    temperature, temperatures, speeds = 0.0, [], []
    for _ in range(seconds):
        given = power if temperature < limit else min(power, limit / resistance)
        temperature += (given - temperature / resistance) / capacity
        temperatures.append(temperature)
        speeds.append((given / power) ** (1 / 3))
    return np.array(temperatures), np.array(speeds)


# %% [markdown]
# Two programs, one of 4 W and one of 2 W:

# %%
hot, speed = run_hot(4, limit=20)
cool, steady = run_hot(2, limit=20)
throttled = int(np.argmax(speed < 1))
by_formula = 8 * 4 * (1 - exp(-300 / 400))
print(f"throttled after {throttled} s, by hand {400 * log(32 / 12):.0f} s")
print(f"after 300 s {hot[299]:.2f} K, by the formula {by_formula:.2f} K")

# %% [markdown]
# As they run:

# %%
fig, axes = plt.subplots(1, 2, figsize=(6.8, 2.8))
minutes = np.arange(900) / 60
for ax, (a, b) in zip(axes, ((hot, cool), (100 * speed, 100 * steady)), strict=True):
    ax.plot(minutes, a, label="4 W")
    ax.plot(minutes, b, "--", label="2 W")
    ax.set(xlabel="time (minutes)", ylim=(0, None))
axes[0].set_ylabel("above the room (K)")
axes[1].set_ylabel("speed (%)")
_ = axes[0].legend()

# %% [markdown]
# Ten seconds are the left edge of the right picture. Run for ten minutes, plot the median of each ten
# seconds, and watch the system: on Android
# [`getCurrentThermalStatus`](https://developer.android.com/reference/android/os/PowerManager), on iOS
# [`thermalState`](https://developer.apple.com/documentation/foundation/processinfo/thermalstate-swift.enum), where at
# `serious` performance is already reduced. A network that rests between images may never get there: at 30 images
# a second of 10 ms each, 4 W run 30 % of the time, 1.2 W on average.
#
# ### Energy
#
# An image costs power times time, $E = Q\,t$. By hand: 2 W for 0.2 ms is 0.4 mJ. The battery of a Fairphone 2
# holds [3.8 V × 2,420 mAh = 9.2 Wh](https://www.ifixit.com/News/7578/fairphone2-teardown), which is 33 kJ: 83
# million images. At 30 a second, this network takes 12 mW, far below camera and
# screen. What would physics ask for? In 45 nm a float32 multiplication takes 3.7 pJ, an addition 0.9, and
# a 32-bit word from DRAM 640 {cite:p}`han2015learning`:

# %%
resnet = checkpoints.load("resnet14")
floors = {}
for name, network in (("student", student), ("ResNet-14", resnet)):
    arithmetic = metrics.count_macs(network) * (3.7 + 0.9) * 1e-9  # mJ
    weights = metrics.count_parameters(network) * 640e-9
    floors[name] = arithmetic, weights
    print(
        f"{name:10} arithmetic {arithmetic:.4f} mJ, weights from DRAM {weights:.4f} mJ"
    )
images_per_battery = 3.8 * 2.42 * 3600 / (2 * 0.2e-3)
print(f"{images_per_battery / 1e6:.0f} million images at 0.4 mJ")

# %% [markdown]
# Fetching the weights costs more than twice the arithmetic: bytes are energy, and a network that stays in the
# cache saves what no faster kernel can. Measure it with Android Studio's
# [Power Profiler](https://developer.android.com/studio/profile/power-profiler) (Pixel 6 and later), less a recording of
# the idle screen. Two networks of equal latency may differ: four busy cores for a millisecond cost more than one.
#
# ### Memory
#
# Three parts: the file, if it is *read*, as by our classifier for ONNX Runtime (of a *mapped* file, as by
# that for ExecuTorch, only pages that were touched count); the weights as the runtime lays them out for its
# kernels; and the activations that live at once.

# %%
print(f"{'kB':22}{'weights':>9}{'in int8':>9}{'activations':>13}{'in int8':>9}")
peaks = {}
for name, network, shape in (
    ("student", student, (1, 1, 28, 28)),
    ("ResNet-14", resnet, (1, 1, 28, 28)),
    ("MobileNetV2, 224×224", mobilenet, (1, 3, 224, 224)),
):
    count = metrics.count_parameters(network) / 1e3
    peak = metrics.peak_activation_bytes(network, shape) / 1e3
    peaks[name] = count, peak / 4
    print(f"{name:22}{4 * count:9,.0f}{count:9,.0f}{peak:13,.0f}{peak / 4:9,.0f}")

# %% [markdown]
# Say a microcontroller has 1 MB of flash for weights and code and 256 kB of RAM. Both of our networks fit in
# int8, and the *smaller* one needs the *larger* RAM: the widest layer decides, not the number of weights. At
# 224×224 neither part fits, the activations by far the least. (Fused operations need less, padding and
# bookkeeping more;
# [`arena_used_bytes`](https://github.com/tensorflow/tflite-micro/blob/main/tensorflow/lite/micro/micro_interpreter.h)
# says what is true.) On Android, look at TOTAL PSS of `adb shell dumpsys meminfo PACKAGE` before loading, after
# it, and after the first run.
#
# ### Delivery and update
#
# The student's file is smaller than a photograph: put it into the app, where it is signed, there offline, and
# of the right version. Download it if networks change more often than the app, or devices get different ones.
# A download can be cut off, damaged or wrong. Three rules: verify before use; switch in one atomic
# step; keep what worked. Renaming a file over another is such a step: a reader sees the old one or the new
# one, never a half.

# %%
phone = Path(folder.name) / "phone"
phone.mkdir()


def install(version):
    """Download, verify, switch; a failure leaves the current version as it is."""
    shutil.rmtree(phone / version, ignore_errors=True)  # of an attempt before
    shutil.copytree(server / version, phone / version)  # the download
    try:
        deploy.load_shipped(phone / version, runtime, "int8")
    except deploy.ShipmentError as error:
        shutil.rmtree(phone / version)
        return f"refused: {error}"
    if (phone / "current").exists():
        shutil.copy(phone / "current", phone / "previous")
    (phone / "next").write_text(version)
    os.replace(phone / "next", phone / "current")
    return "installed"


# %% [markdown]
# The first version arrives:

# %%
print("1:", install("1"))

# %% [markdown]
# Version 2 loses a bit on its way. Version 3 is another network under the right name with a right checksum, the
# mistake of a release script. Version 4 is sound.


# %%
def release(version, change):
    """A copy of version 1 whose int8 file is changed; the checksum stays."""
    shutil.copytree(server / "1", server / version)
    name = manifest["files"][1]["path"]
    content = bytearray((server / version / name).read_bytes())
    (server / version / name).write_bytes(change(content))


def flip(content):
    """One bit in the middle."""
    content[len(content) // 2] ^= 1
    return content


# %% [markdown]
# Both are put on the server, and one is fetched:

# %%
release("2", flip)
release("4", bytes)
told = {"2": install("2")}

# %% [markdown]
# For version 3, ResNet-14 is shipped properly, and its file and checksum are put into the student's manifest:

# %%
deploy.ship(resnet, server / "other", validation, [runtime], calibration)
other = json.loads((server / "other" / "manifest.json").read_text())
release("3", bytes)
name = manifest["files"][1]["path"]
shutil.copy(server / "other" / name, server / "3" / name)
swapped = json.loads(json.dumps(manifest))
swapped["files"][1]["sha256"] = other["files"][1]["sha256"]
(server / "3" / "manifest.json").write_text(json.dumps(swapped))
told |= {version: install(version) for version in ("3", "4")}
for version, answer in told.items():
    print(f"{version}: {answer}")

# %% [markdown]
# The bit was found by the checksum, the wrong network by the **known answers**: images with their logits, which the
# phone computes once, on its own processor, with its own version of the runtime. (For int8 15 % of error
# are allowed. A phone that computes in float16 needs a tolerance of its own.)
#
# What if version 4 is sound, and crashes this one phone? A mark is set before loading and removed after
# the first answer. A start that finds the mark goes back:


# %%
def start():
    """The version that answers; goes back if the last start came to no answer."""
    mark, previous = phone / "starting", phone / "previous"
    if mark.exists() and previous.exists():
        os.replace(previous, phone / "current")
    mark.touch()
    version = (phone / "current").read_text()
    network = deploy.load_shipped(phone / version, runtime, "int8")
    network.classify(validation.images[:1])
    mark.unlink()
    return version


# %% [markdown]
# A start of version 4; one that dies while loading; the next:

# %%
started = [start()]
(phone / "starting").touch()  # the second one got no further
started.append(start())
print("started", " then ".join(started))

# %% [markdown]
# ## Why it works, when it does not
#
# **A ground that is not white.** Fashion-MNIST's background is exactly zero. A photographed wall is not exactly
# white. We dim the light, and leave the ground as it is, or divide by the brightest box:

# %%
dim = {}
print("light   as it is   divided")
for light in (1.0, 0.98, 0.95, 0.9, 0.7):
    photos = photograph(validation.images, 28, light=light)
    gray = photos @ (GRAY / 255)
    dim[light] = (
        accuracy((1 - gray - data.MEAN) / data.STD),
        accuracy(phone_input(photos)),
    )
    print(f"{100 * light:4.0f} %{dim[light][0]:9.1f} %{dim[light][1]:8.1f} %")

# %% [markdown]
# Five percent less light takes more than twenty points away, and one division gives them back. Uneven
# light, shadows, a patterned sofa: no division mends those. The data set's authors made their images from
# shop photographs {cite:p}`xiao2017fashion`, and an accuracy on their test set says *nothing* about your
# wall. Collect photographs from users who agree, label a few hundred, and measure.
#
# **A checksum is not a signature.** Whoever can change file and manifest together gets past all of it. A
# network with its labels in another order, shipped by the proper tools:


# %%
class Shuffled(torch.nn.Module):
    """The student, its answers shifted by one label."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x).roll(1, dims=1)


# %% [markdown]
# It passes every check:

# %%
deploy.ship(Shuffled(student), server / "5", validation, [runtime], calibration)
forged = install("5")
wrong = deploy.load_shipped(phone / "5", runtime, "int8")
print(
    forged,
    f"; accuracy {metrics.accuracy(wrong.program(expected), validation.labels):.1f} %",
)

# %% [markdown]
# (Its manifest even says how bad it is. A forger's would not.) Keep a public key in the app, or let the shop
# deliver, which signs.
#
# ## What practitioners use
#
# On the device, each runtime has its own tool. LiteRT's
# [`benchmark_model`](https://developers.google.com/edge/litert/next/benchmark):
#
# ```sh
# adb push benchmark_model litert-int8.tflite /data/local/tmp/
# adb shell chmod +x /data/local/tmp/benchmark_model
# adb shell taskset f0 /data/local/tmp/benchmark_model \
#   --graph=/data/local/tmp/litert-int8.tflite --num_threads=1 --warmup_runs=20 --num_runs=500
# ```
#
# (Of the newer binary's options only the first two are documented; `--help` lists the rest.)
#
# | runtime | tool | what to read |
# |---|---|---|
# | LiteRT | `benchmark_model` | *Init*, *first*, *avg*, *std*: an average, no median |
# | ExecuTorch | `executor_runner --num_executions=501 --cpu_threads=1`, built from source | the time, less that of a single execution, over 500 |
# | ONNX Runtime | [`onnxruntime_perf_test -m times -r 500 -x 1 -y 1`](https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/test/perftest/README.md), built from source | `P50`, in seconds |
# | Core ML | [the package's tab *Performance* in Xcode](https://developer.apple.com/documentation/coreml/analyzing-a-core-ml-model-s-performance-in-xcode) | load, median, and which unit ran each operation |
#
# Screen on, airplane mode, a full battery, no charger (charging warms), a release build. For delivery there are [Play's AI packs](https://developer.android.com/google/play/on-device-ai) (beta; updated with the app),
# [Background Assets](https://developer.apple.com/documentation/backgroundassets/downloading-apple-hosted-asset-packs)
# on iOS (independent of the app), or your own server. And versions: ExecuTorch
# [promises](https://github.com/pytorch/executorch/blob/main/runtime/COMPATIBILITY.md) that a file runs in the next
# minor release of its runtime, and nothing for an older one. Update the app's library first, the file later.
#
# [A page of this book](../../demo/index.md) runs the compressed networks in your phone's browser, without any app.
#
# ```{admonition} What changes at ImageNet scale
# :class: note
# Activations become as large as weights (the table above), a file is worth downloading apart, and answers
# take long enough to warm the phone. Phones differ by an order of magnitude in peak speed, and in 2018 the GPU of a median
# Android phone was no faster than its CPU {cite:p}`wu2019facebook`: measure on the slow ones.
# ```
#
# ## Paper and us
#
# | | others | this book |
# |---|---|---|
# | where to measure | MLPerf Mobile {cite:p}`reddi2022mobile`: phones as sold, not rooted, at [ambient temperature](https://github.com/mlcommons/mobile_open/blob/main/rules/mobile_inference_rules.adoc) | a desk, ratios within one run; phones by the tools above |
# | how long | at least 60 s; repeated with 5 minutes between | rounds of milliseconds: no heat |
# | latency | 90th percentile | median and quartiles |
# | where it runs | nearly all inference on CPUs {cite:p}`wu2019facebook` | CPU, one thread |
#
# The claims of this lesson:

# %% tags=["claims"]
assert all(accuracies[name] > baseline - 3 for name in GOOD)
assert accuracies["woven, torchvision"] > baseline - 3
assert baseline - 20 < accuracies["woven, bilinear"] < baseline - 4
assert accuracies["woven, nearest"] < accuracies["woven, bilinear"] - 5
assert baseline - 35 < accuracies["jeans, blue channel"] < baseline - 10
assert accuracies["squeezed"] < baseline - 5
assert max(accuracies[name] for name in ("not inverted", "turned by 90°")) < 40
assert all(float_file < 30 and int8_file > 50 for float_file, int8_file in hidden)
assert accuracies["channels last, read as first"] < 40
assert accuracies["int8 end, no zero point"] < baseline - 30

# %% [markdown]
# Of heat, energy and memory:

# %% tags=["claims"]
assert (alone, shared, fair) == (4, 6, 3)
assert abs(throttled - 392) < 3 and abs(hot[299] - by_formula) < 0.05
assert abs(speed[-300:].mean() - 0.855) < 0.01 and steady.min() == 1
assert round(images_per_battery / 1e6) == 83
assert all(weights > 2 * arithmetic for arithmetic, weights in floors.values())
assert peaks["student"][1] > peaks["ResNet-14"][1]
assert 500 < peaks["ResNet-14"][0] < 1000 and peaks["MobileNetV2, 224×224"][1] > 256

# %% [markdown]
# And of what was delivered:

# %% tags=["claims"]
assert min(differences.values()) > 0.05, "each mistake shows in 784 numbers"
assert "checksum" in told["2"] and "known answer" in told["3"]
assert told["4"] == "installed" and started == ["4", "1"]
assert forged == "installed", "whoever writes the manifest writes the truth"
assert dim[0.95][0] < baseline - 15 and dim[0.7][1] > baseline - 2
folder.cleanup()

# %% [markdown]
# ## Your turn
#
# A server offers versions of a network. For each it says a number, the oldest runtime that may load it, and whether it
# was withdrawn. Which one should a phone with a given runtime use? The newest that it may load and that was not
# withdrawn; 0, the one inside the app, if there is none. Runtimes are tuples, `(1, 9, 0)` before `(1, 24, 2)`.


# %%
def next_version(offers, runtime):
    """[(version, oldest runtime, withdrawn), ...], runtime -> version"""
    return ...


phones.next_version(next_version)

# %% [markdown]
# ## Summary
#
# A gate covers the file, and users get the file with an app around it. Nine steps lead from a photograph to
# a label, each can be wrong without an error; one photograph with its 784 numbers tests those before the file,
# known answers the rest. A desk measures a cool machine with warm caches: on the phone the first answer, slow
# cores and heat come on top, and bytes cost energy. An update is verified on the device, switched in one step,
# and taken back if it does not come to an answer.
#
# ## Check yourself
#
# ```{exercise}
# :label: ex-phone-channels
# An app with LiteRT's file and one with ONNX Runtime's fill the same 784 numbers, row by row, though one layout
# is 1×28×28×1 and the other 1×1×28×28. Why is that right, and when is it not?
# ```
#
# ```{solution} ex-phone-channels
# :class: dropdown
# With one channel, the index of the channel is always 0 and moves nothing: both layouts store the
# same numbers in the same order. With three, 28×28×3 has the colors of a pixel side by side and 3×28×28 has
# three images, one after the other.
# ```
#
# ```{exercise}
# :label: ex-phone-heat
# The phone of this lesson ($R_\vartheta = 8$ K/W, at most 20 K above the room) draws 4 W while it computes, and
# nothing else. How long may an image take at 30 images a second if it shall never throttle?
# ```
#
# ```{solution} ex-phone-heat
# :class: dropdown
# 2.5 W on average are allowed, 62.5 % of the time. Of the 33.3 ms between two images that is 20.8 ms.
# ```
#
# ```{exercise}
# :label: ex-phone-pointer
# Somebody updates by writing the new file over the old one, and checks its checksum afterwards. Name two
# moments at which the phone may lose its battery, and what the app finds at its next start.
# ```
#
# ```{solution} ex-phone-pointer
# :class: dropdown
# While writing: half a file, and no old one. After writing and before the check: a file that nobody has verified, and that
# may be wrong. Write beside it, verify, rename.
# ```
#
# ```{exercise}
# :label: ex-phone-median
# A team reports the median of 50 answers on the newest phone, straight after a minute of rest. Name three
# things that a user will notice and this number does not contain.
# ```
#
# ```{solution} ex-phone-median
# :class: dropdown
# The first answer with loading and preparing the file; what is left of the speed when the phone is
# hot; the phones that most users have. Also: preparing the photograph, and the slowest answers, which a
# median leaves out.
# ```
#
# ## Where next
#
# - [Assignment: deployment](../../assignments/release/deployment/deployment.ipynb): a gate, a file from pixels on, and a gate that lets everything pass.
# - [The app side](../../book/apps.md): Kotlin and Swift from asset to label, for three runtimes.
# - {cite:t}`reddi2022mobile`: how an industry agreed on what a fair number from a phone is.
# - {cite:t}`wu2019facebook`: what phones in the field are like.
