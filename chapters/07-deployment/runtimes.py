# %% [markdown]
# # One network, six runtimes
#
# The file is right. How fast is it, and does it stay so in another runtime? This lesson changes the
# latency and the bytes of networks whose weights stay what they are.
#
# **You will**
#
# - say what a runtime does between a file and an answer, and where six of them differ;
# - estimate from a network's multiplications how fast it can be, in float32 and in int8;
# - read one table of runtimes, and find where int8 is slower, and why;
# - weigh the first answer, memory and threads against the latency of a warm network.
#
# **You need** [From a network to a file](export.ipynb), [Latency](../01-measuring/latency.ipynb) and
# [Fewer bits, without training](../06-quantization/post-training.ipynb). Symbols are on the
# [notation page](../../book/notation.md).
#
# **Time** 35 minutes to read, about a minute to run on a CPU.

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
import time
from collections import Counter
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnx
import onnxruntime
import torch

from slimcnn import checkpoints, data, deploy, latency, metrics, plotting
from slimcnn.checks import deploying
from slimcnn.export import MissingRuntimeError, silence

plotting.use_style()
_ = torch.manual_seed(0)

# %% [markdown]
# ## Measure first
#
# ResNet-14 in the runtime that the book has used so far, in float32 and in the int8 of that runtime's own
# quantizer: 10,000 test images, one thread, batch 1.

# %%
measured = deploy.load_measurements()
processor = next(m.latency.cpu for m in measured if m.latency)

# %% [markdown]
# Some of them at a time:


# %%
def rows(network=None, runtime=None, kind=None):
    """Measurements of a network, a runtime, a type of number; or of all of them."""
    wanted = {"network": network, "runtime": runtime, "kind": kind}
    return [
        m
        for m in measured
        if all(v is None or getattr(m, name) == v for name, v in wanted.items())
    ]


# %% [markdown]
# And the two:

# %%
deploy.runtime_table(
    rows("ResNet-14", "ONNX Runtime"),
    ("kind", "bytes", "accuracy", "latency"),
    f"ResNet-14 in ONNX Runtime, one thread, on {processor}.",
)

# %% [markdown]
# ## The idea
#
# A runtime is what turns a file into answers: it **reads** the graph, **rewrites** it (the lesson before),
# **plans** where in memory each tensor lives, and for each node calls a **kernel**, the compiled loop that
# does the arithmetic. Six of them, by different makers, for different places:
#
# | runtime | made by | where it is at home | its file | its int8 |
# |---|---|---|---|---|
# | ONNX Runtime | Microsoft | servers, desktops, phones, browsers | `.onnx` | weights and activations, from images |
# | ExecuTorch | PyTorch | phones; its XNNPACK backend on their CPUs | `.pte` | by torchao, in PyTorch |
# | LiteRT, once TensorFlow Lite | Google | Android, microcontrollers | `.tflite` | by its quantizer, ends int8, too |
# | OpenVINO | Intel | Intel's processors | `.xml`, `.bin` | by NNCF, with bias correction |
# | ncnn | Tencent | phones, without dependencies | `.param`, `.bin` | by C++ tools that its wheel lacks |
# | Core ML | Apple | iPhones, Macs; nowhere else | `.mlpackage` | of weights, without images |
#
# What can make one faster than another, if all do the same multiplications? A node costs the larger of
# two times, computing and moving, and something for being called at all:
#
# $$
# t = \sum_{\text{nodes}} \left[ \max\left( \frac{\text{MACs}}{\pi}, \frac{\text{bytes}}{\beta} \right) + t_0 \right] ,
# $$ (eq-runtime)
#
# with the peak $\pi$ of the processor in multiply-accumulates a second, the bandwidth $\beta$ of its memory
# and the overhead $t_0$ of a node. Kernels differ in how close they come to $\pi$, rewriting in the number of
# nodes, planning in the bytes. Integers change $\pi$: a register of 512 bits holds 16 floats or 64 bytes,
# and an instruction that multiplies bytes and adds them up in fours (VNNI on x86, `dotprod` on ARM) does
# four times as many products.
#
# ## By hand
#
# ResNet-14 has 22 million multiply-accumulates. A core that runs at $3 \cdot 10^9$ cycles a second and starts
# two instructions of 16 multiply-accumulates in each cycle has $\pi = 96 \cdot 10^9$. At best that is
# $22 \cdot 10^6 / (96 \cdot 10^9) = 0.23$ ms, and with bytes a quarter of it. And if only 80 % of the time
# is multiplications? Those take a quarter, the rest stays: $0.2 + 0.8 / 4 = 0.4$, so int8 is 2.5 times
# as fast, not 4 times. This is Amdahl's law.

# %%
model = checkpoints.load("resnet14")
macs = metrics.count_macs(model)
peak = 3e9 * 2 * 16
print(
    f"{macs:,} MACs, {1000 * macs / peak:.2f} ms at best, int8 {250 * macs / peak:.3f}"
)
speedup = 1 / (0.2 + 0.8 / 4)
assert round(1000 * macs / peak, 2) == 0.23 and round(speedup, 3) == 2.5

# %% [markdown]
# ## On the network
#
# Six files of the same network, each past the gate of the lesson before on 200 validation images. A runtime
# that is not installed says what to install (in Colab all but the first are not); Core ML writes its file
# here, and computes on a Mac alone.

# %%
validation = data.load("validation").subset(200)
inputs = data.normalize(validation.images)
folder = tempfile.TemporaryDirectory()
files, programs = {}, {}
for name, runtime in deploy.RUNTIMES.items():
    path = Path(folder.name) / f"resnet14{runtime.suffix}"
    try:
        files[name] = runtime.export(model, inputs, path)
        programs[name] = runtime.load(path)
        found = deploy.parity(model, programs[name], inputs, validation.labels)
        print(f"{name:14}{runtime.size(path):10,} bytes  {found}")
    except (deploy.UnsupportedError, MissingRuntimeError) as error:
        print(f"{name:14}{str(error).split('.')[0]}")

# %% [markdown]
# Float32 is float32: the files have the same size, up to what each writes about the graph, and the
# answers differ in the last digits. How fast are they, here and now? All in one process, one thread,
# interleaved:

# %%
one = {name: partial(program, inputs[:1]) for name, program in programs.items()}
for name, found in latency.measure(one, rounds=200).items():
    print(f"{name:14}{found}")

# %% [markdown]
# Times of a page that was built beside other work are worth little. The book's were taken on a quiet
# machine by `scripts/measure_runtimes.py`: every runtime, float32 and int8, for ResNet-14, for versions of it
# from earlier chapters, and for networks of ImageNet's size. First ours:

# %%
ours = ("ResNet-14", "ResNet-14, half the MACs", "ResNet-14, Tucker-2", "student")
deploy.runtime_table(
    [m for m in measured if m.network in ours],
    ("network", "runtime", "kind", "bytes", "accuracy", "latency"),
    f"Accuracy on the test set; batch 1, one thread, on {processor}.",
)

# %% [markdown]
# Accuracy does not depend on the runtime in float32, and in int8 by tenths. Latency does:

# %%
computing = [n for n in deploy.RUNTIMES if n != "Core ML"]
names = list(dict.fromkeys(m.network for m in measured))


def medians(network, kind):
    """Milliseconds of each runtime, one thread; NaN where there is no such file."""
    found = {m.runtime: m.median for m in rows(network, kind=kind)}
    return np.array([found.get(name) or np.nan for name in computing])


fig, axes = plt.subplots(4, 2, figsize=(5.8, 6.2), sharex="col", layout="constrained")
order = [*ours, *(n for n in names if n not in ours)]
for ax, network in zip(axes.T.flat, order, strict=False):
    place = np.arange(len(computing))
    ax.barh(place - 0.2, medians(network, "float32"), 0.4, label="float32")
    ax.barh(place + 0.2, medians(network, "int8"), 0.4, label="int8", hatch="//")
    ax.set_title(network, fontsize="medium")
    ax.set_yticks(place, labels=computing if ax in axes[:, 0] else [])
    ax.invert_yaxis()
axes[-1, 0].set_xlabel("latency (ms)")
axes[2, 1].set_xlabel("latency (ms)")
axes[-1, 1].axis("off")
axes[2, 1].tick_params(labelbottom=True)
_ = axes[0, 0].legend()

# %% [markdown]
# (The left column is ours, the right one has images of 224×224; MobileNetV2 and ResNet-18 have random weights,
# which compute no faster or slower than trained ones.) The larger the network, the more alike the runtimes in
# float32: ResNet-18 is nearly all multiplications, and all kernels are equally good at those. In the
# small networks everything else shows. OpenVINO pays for each call, ncnn for weights that have left the cache (see below); and
# the same network, pruned to half its MACs, is twice as fast in all of them: that gain needs no kernel of
# its own. In int8 even ResNet-18 tells the runtimes apart.
#
# ## Why it works, when it does not
#
# ### Where int8 is slower
#
# How many times faster is int8, with one thread?

# %%
gain = {
    (n, r): f / i
    for n in names
    for r, f, i in zip(
        computing, medians(n, "float32"), medians(n, "int8"), strict=True
    )
    if np.isfinite(i)
}
quantizing = [r for r in computing if any(key[1] == r for key in gain)]
print(f"{'':30}" + "".join(f"{r:>14}" for r in quantizing))
for n in names:
    print(f"{n:30}" + "".join(f"{gain[n, r]:13.2f}×" for r in quantizing))

# %% [markdown]
# Four times as many products a cycle, and two or three times the speed at best: Amdahl. The networks with
# depthwise layers gain least, and our student next to nothing in three of four runtimes; in LiteRT it is slower.
# What does its graph look like in ONNX Runtime, and ResNet-14's? We have it written down, as in the
# lesson before:


# %%
def executed(path):
    """The nodes that ONNX Runtime makes of a file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(Path(folder.name) / "optimized.onnx")
    with silence():
        onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    return Counter(
        n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node
    )


# %% [markdown]
# In float32 and in int8:

# %%
onnx_runtime = deploy.RUNTIMES["ONNX Runtime"]
calibration = data.normalize(data.load("train").subset(100).images)
kinds = {}
for name in ("resnet14", "student"):
    network = checkpoints.load(name)
    path = Path(folder.name) / f"{name}.onnx"
    kinds[name] = (
        executed(onnx_runtime.export(network, inputs, path)),
        executed(onnx_runtime.quantize(network, calibration, path)),
    )
    for counted in kinds[name]:
        print(f"{name:10}{sum(counted.values()):3} nodes", dict(counted))

# %% [markdown]
# In float32 a shortcut's sum is part of the convolution before it; in int8 it is a node of its own
# (`QLinearAdd`), and there are nodes that quantize, transpose and go back. For ResNet-14 that is little beside
# what its convolutions gain. The student's convolutions have little to gain: a depthwise layer sums nine
# products for each output, in a row of one channel, while the fast instruction sums four *neighbors*. And at a
# twentieth of a millisecond a network is mostly calls, to which quantizing adds some.
#
# **A setting that costs half.** On x86 processors without VNNI sums of eight-bit products can overflow
# ([Integers](../06-quantization/integers.ipynb)), and `session.x64quantprecision` prevents it. We had set
# it always, "since it has no effect elsewhere". It has: on the machine of this page, which has VNNI, it changed
# no sum, and took away half of int8's speed. Nothing was wrong with any number, and only the comparison with
# other runtimes made us look. Since then the package tries one large product first, and sets it
# where that comes out wrong.
#
# ### Two threads
#
# Twice the cores, half the time? With two threads each file was timed in a process of its own: idle threads go on
# waiting actively for a while, and the next file's clock would run on their account. For comparison, one thread
# alone in its process, too; and how much slower one thread is among others, as in the tables above.

# %%
print(f"{'float32':30}{'two threads':>18}{'among others':>20}")
for n in names:
    alone = [m for m in rows(n, kind="float32") if m.alone]
    two = sorted(m.median_alone(1) / m.median_alone(2) for m in alone)
    cold = sorted(m.median / m.median_alone(1) for m in alone)
    shown = [f"{r[0]:.2f} to {r[-1]:.2f} times" for r in (two, cold)]
    print(f"{n:30}{shown[0]:>18}{shown[1]:>20}")

# %% [markdown]
# Two threads help large networks by nearly two, small ones by half of that or nothing: their nodes are over
# before the second thread has woken up. The lowest ratios at 224×224 are LiteRT's, which was given two threads and
# computes these float32 networks no faster.
#
# The other column matters as much. Alone, ResNet-14's weights stay in the processor's cache from one image to the
# next; among other files they have to come from memory again, and int8, with a quarter of the bytes, is not
# spared. A benchmark's loop measures the first case. An app that draws, reads a camera and answers now and then
# is nearer to the second. Say which one you measured; the tables of this page are of the second.
#
# ### The first answer, and memory
#
# An app that was just opened has no warm network. From the file to the first answer, in a fresh process
# whose libraries are loaded, and by how much memory grew at its peak:

# %%
large = ("ResNet-14", "EfficientNet-Lite0", "ResNet-18")
deploy.runtime_table(
    [m for m in measured if m.network in large and m.latency],
    ("network", "runtime", "kind", "bytes", "first", "latency", "peak"),
    f"One thread, batch 1, on {processor}.",
)

# %% [markdown]
# OpenVINO compiles while it loads: of ResNet-14 its first answer takes as long as a hundred later ones, and it
# allocates tens of megabytes whatever the network's size, which a server does not notice. The large float32 files take
# two to five times the memory that they have bytes: file, weights and kernels' own layout may all be there at once. On a phone
# that peak decides whether the system closes the app. (ExecuTorch and LiteRT can map a file instead of reading
# it; ours is read by both.)
#
# **Find the bug.** A colleague compares runtimes, and reports the slowest as a hundred times slower than
# the others:

# %%
program = deploy.RUNTIMES["ONNX Runtime"].load(files["ONNX Runtime"])
start = time.perf_counter()
deploy.RUNTIMES["ONNX Runtime"].load(files["ONNX Runtime"])(inputs[:1])
once = 1000 * (time.perf_counter() - start)
start = time.perf_counter()
program(inputs[:1])
print(f"A {once:.1f} ms, B {1000 * (time.perf_counter() - start):.2f} ms")

# %% [markdown]
# ```{dropdown} What is wrong?
# A is loaded and called once, inside the clock: reading, rewriting, planning, and then one cold call. B
# was loaded before. They are the same file in the same runtime. Load outside, warm up, repeat, interleave;
# and if the first answer is what you care about, measure it for both.
# ```
#
# ## What practitioners use
#
# A network that is not ours, with weights from ImageNet: EfficientNet-Lite0, which is EfficientNet
# {cite:p}`tan2019efficientnet` made for int8, without squeeze-and-excitation and with ReLU6 for swish
# {cite:p}`liu2020efficientnetlite`. No labels here: the files are held against the network on 216 crops of four
# photographs, none of which the ranges have seen. "Where sure": crops to whose answer the network gives more
# than one half.

# %%
deploy.runtime_table(
    rows("EfficientNet-Lite0"),
    ("runtime", "kind", "bytes", "error", "agreement", "sure", "latency"),
    f"EfficientNet-Lite0, 224×224, one thread, on {processor}.",
)

# %% [markdown]
# In float32 all agree. In int8 none passes the gate of 97 %, and the four quantizers, given the same 108 crops of six
# other photographs, are far apart. Photograph by photograph:

# %%
for m in rows("EfficientNet-Lite0", kind="int8"):
    if m.parts:
        found = ", ".join(f"{part} {value:.0f} %" for part, value in m.parts.items())
        print(f"{m.runtime:14}{found}")

# %% [markdown]
# Why? They find ranges in different ways ([Fewer bits, without training](../06-quantization/post-training.ipynb) has the
# methods). ONNX Runtime takes the extremes of all crops. OpenVINO averages, and then corrects biases. LiteRT's
# quantizer averages the ranges of single images, so that what is rare is cut off: it loses the cat entirely, with
# errors that are no larger in the mean than ONNX Runtime's. (The order of the crops is not to blame: shuffled, we got
# the same.) ExecuTorch's fits a histogram, and has the largest errors. Where the network is sure, ONNX
# Runtime's and OpenVINO's files answer as it does. Which one would ship? None, before it was tried with more
# photographs for its ranges and held against labels; and two of four not at all.
#
# Each runtime has a tool that times a file without Python, on a phone, too: `onnxruntime_perf_test`,
# ExecuTorch's `executor_runner`, LiteRT's `benchmark_model`, OpenVINO's `benchmark_app`, ncnn's `benchncnn`,
# and Xcode's performance report for Core ML. [On the phone](on-the-phone.ipynb) uses them.
#
# ## Paper and us
#
# | | reported | we measured |
# |---|---|---|
# | {cite:t}`liu2020efficientnetlite`, EfficientNet-Lite0, LiteRT on a Pixel 4, four threads | 12 ms in float32, 6.5 ms in int8 (1.8 times as fast); 75.1 and 74.4 % on ImageNet | the table above: one thread of a server, agreement on crops instead of accuracy |
#
# The claims of the text:

# %% tags=["claims"]
resnets = {n: medians(n, "float32") for n in ("ResNet-14", "ResNet-18")}
spread = {n: np.nanmax(t) / np.nanmin(t) for n, t in resnets.items()}
assert spread["ResNet-14"] > 2 and spread["ResNet-18"] < 1.3
half = medians("ResNet-14", "float32") / medians(ours[1], "float32")
assert half.min() > 1.9 and gain["student", "LiteRT"] < 1
assert max(g for (n, _), g in gain.items() if n == "student") < 1.5
assert sum(gain["student", r] < 1.15 for r in quantizing) == 3
assert 2 < max(gain.values()) < 4 and min(gain["ResNet-18", r] for r in quantizing) > 2
assert (
    max(abs(m.accuracy - rows(m.network)[0].accuracy) for m in measured if m.accuracy)
    < 0.2
)

# %% [markdown]
# And of threads, first answers, and EfficientNet:

# %% tags=["claims"]
large_ones = [m for m in rows("ResNet-18", kind="float32") if m.alone]
two_threads = {m.runtime: m.median_alone(1) / m.median_alone(2) for m in large_ones}
assert two_threads["ONNX Runtime"] > 1.7 and two_threads["LiteRT"] < 1.3
cold = [
    m.median / m.median_alone(1) for m in rows("ResNet-14", kind="float32") if m.alone
]
assert min(cold) > 1.3
openvino = rows("ResNet-14", "OpenVINO", "float32")[0]
assert openvino.first_ms > 100 * openvino.median and openvino.peak_bytes > 3e7
lite = {m.runtime: m for m in rows("EfficientNet-Lite0", kind="int8") if m.alone}
assert max(m.agreement for m in lite.values()) < deploy.INT8.agreement
assert lite["LiteRT"].parts["cat"] == 0
assert lite["ExecuTorch"].error == max(m.error for m in lite.values())
assert lite["ONNX Runtime"].sure == lite["OpenVINO"].sure == 100
folder.cleanup()

# %% [markdown]
# ## Your turn
#
# Runtime A gives its first answer early, B is faster from then on. After how many answers has B caught up?
# Write it for any numbers; 0 if it never does. Replace the `...` and run the cell.


# %%
def answers_until_even(first_a, each_a, first_b, each_b):
    """The least number of answers for which B took no more time than A; 0 if none."""
    return ...


deploying.answers_until_even(answers_until_even)

# %% [markdown]
# ## Summary
#
# A runtime reads a graph, rewrites it, plans its memory and calls kernels; six of them do this for the same
# files' worth of weights with the same answers, and with latencies that differ by more than most
# techniques of this book gain. int8 files are a quarter of the size everywhere, and faster where the kernels
# for this very layer on this very processor are: time your network, in your runtime, before you decide.
# Threads help large nodes; the first answer and the memory may matter more than a millisecond.
#
# ## Check yourself
#
# ```{exercise}
# :label: ex-runtimes-amdahl
# In a float32 network 60 % of the time is convolutions. int8 makes them three times as fast, and adds
# quantizing and transposing that takes 10 % of the old time. How much faster is the whole?
# ```
#
# ```{solution} ex-runtimes-amdahl
# :class: dropdown
# $0.4 + 0.6 / 3 + 0.1 = 0.7$ of the time is left: $1 / 0.7 = 1.43$ times as fast, not 3.
# ```
#
# ```{exercise}
# :label: ex-runtimes-depthwise
# Why do depthwise layers gain least from an instruction that multiplies bytes and sums the products in fours?
# ```
#
# ```{solution} ex-runtimes-depthwise
# :class: dropdown
# Its four products are summed, so they must belong to one output. In an ordinary convolution four input
# channels of one pixel do, and lie side by side. A depthwise layer has one input channel for each output:
# only the nine taps of the kernel are summed, which lie rows apart. And it has few multiplications for each
# byte, so that it waits for memory anyhow: $\beta$, not $\pi$, decides in {eq}`eq-runtime`.
# ```
#
# ```{exercise}
# :label: ex-runtimes-table
# A vendor's table says that its runtime is 1.8 times as fast as yours, on one network and one device. Name four
# things that you would ask.
# ```
#
# ```{solution} ex-runtimes-table
# :class: dropdown
# How many threads had each, and which cores? Float32 against float32, or against float16 or bfloat16 that was
# switched on quietly? (OpenVINO computes in bfloat16 on processors that can, unless told not to.) Was the first
# call, the loading, or the copying of input and output in it? Were the two interleaved, on a device that was
# not hot, and how large is the spread?
# ```
#
# ```{exercise}
# :label: ex-runtimes-threads
# With two threads ResNet-14 takes 0.8 of the time in one runtime. Is that good for an app that answers 30 times
# a second?
# ```
#
# ```{solution} ex-runtimes-threads
# :class: dropdown
# The answer comes a little earlier, and costs up to 1.6 times the processor time, and so about as much more
# energy. At 30 answers a second nobody sees the difference of a tenth of a millisecond. One thread.
# ```
#
# ## Where next
#
# - [Assignment: deployment](../../assignments/release/deployment/deployment.ipynb): a gate, a file from pixels on, and a gate that lets everything pass.
# - [On the phone](on-the-phone.ipynb): from a photograph to the label, and what a desk does not show.
# - [All results](../../book/results.md): every method of the book in one table.
# - {cite:t}`jacob2018quantization`: how integers came into the runtime of phones.
