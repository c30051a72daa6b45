# ---
# jupyter:
#   slimcnn:
#     timing: true
# ---

# %% [markdown]
# # Latency, and why one timing lies
#
# How long does ResNet-14 need for one image, and how would we know that a change made it
# faster? This lesson adds the last column to the table: milliseconds, with their spread.
#
# **You will**
#
# - say what is wrong with timing a network once, and show it on your own machine;
# - time networks with warm-up, one thread and interleaved rounds, and report median and
#   quartiles;
# - notice a disturbed measurement by comparing CPU time with wall time;
# - compare eager PyTorch, ONNX Runtime and ExecuTorch, and latency with throughput.
#
# **You need** the lesson [What a network costs](cost.ipynb).
#
# **Time** 35 minutes to read, about a minute to run on a CPU. Close what else is running.

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
import random
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.utils.benchmark
import torchvision

from slimcnn import checkpoints, export, latency, models, plotting, report
from slimcnn.checks import measuring

plotting.use_style()
_ = torch.manual_seed(0)

# %% [markdown]
# ## Measure first
#
# These latencies were measured on a quiet machine and stored with its name. Your own
# numbers will differ; the *ratios* should be of the same kind.

# %%
stored = report.load_records("latency")
print(stored[0].latency.cpu)
report.table(stored, columns=["model", "technique", "macs", "bytes", "latency"])

# %% [markdown]
# ## The idea
#
# The obvious way to time a network is to look at the clock before and after:

# %%
resnet14 = checkpoints.load("resnet14")
image = torch.randn(1, 1, 28, 28)


def milliseconds(function):
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


run = latency.eager(resnet14, image)
calls = [milliseconds(run) for _ in range(300)]

# %% [markdown]
# `latency.eager` makes a function without arguments that runs the network on the image.
# We called it 300 times:

# %%
for name, value in zip(("first call", "second", "third"), calls, strict=False):
    print(f"{name:12}{value:8.2f} ms")
print(f"{'median':12}{np.median(calls):8.2f} ms")
print(f"{'slowest':12}{max(calls[1:]):8.2f} ms")

# %% [markdown]
# Which of these is *the* latency? The first call found cold caches, allocated its
# memory and let the library choose its kernels. Later ones differ as well, because the
# operating system lends the core to somebody else now and then. We look at all of them.

# %%
fig, ax = plt.subplots()
ax.plot(calls, ".", color=plotting.PALETTE[0])
ax.axhline(np.median(calls), color=plotting.PALETTE[1], label="median")
ax.set(yscale="log", xlabel="call", ylabel="time (ms)")
_ = ax.legend()

# %% [markdown]
# The cloud has a hard floor and a long tail upward: a call can be held up, it cannot be
# quicker than the work. So we model the time of call $i$ as
#
# $$
# t_i = d_i\,(\tau + \varepsilon_i), \qquad \varepsilon_i \ge 0 ,
# $$ (eq-time)
#
# where $\tau$ is what we want to know, $\varepsilon_i$ is a delay that is mostly small and
# sometimes huge, and $d_i$ is the *drift* of the machine: its clock rate falls when it
# gets warm, another program starts, the laptop leaves its charger. The smallest of many
# calls would come nearest to $\tau$, but it depends on how many there are; the median lies a
# little higher, by much the same for all candidates. Each part of the procedure deals with
# one trouble:
#
# | problem | remedy |
# |---|---|
# | the first calls do other work | **warm-up** calls that are not counted |
# | $\varepsilon_i$ has a long tail | the **median** and the quartiles, not the mean |
# | $d_i$ changes between A and B | **interleaved** rounds, each in another order: A B, B A, … |
# | A uses more cores than B | **one thread** for everyone |
# | something else holds the core | **CPU/wall**: CPU seconds used per second waited |
#
# ## By hand
#
# Five calls took 2.0, 2.1, 2.0, 9.0 and 2.2 ms. Sorted: 2.0, 2.0, **2.1**, 2.2, 9.0. One
# delay moves the mean by more than a millisecond and leaves the median alone. The
# quartiles (about a quarter of the calls is faster than $q_1$, a quarter slower than $q_3$)
# tell how far the typical calls are apart. With few calls they fall between two of them,
# and NumPy interpolates.

# %% tags=["nbval-check-output"]
times = [2.0, 2.1, 2.0, 9.0, 2.2]
q1, median, q3 = np.percentile(times, [25, 50, 75])
print(f"mean {np.mean(times):.2f} ms, median {median:.2f} ms", end=", ")
print(f"quartiles {q1:.1f} to {q3:.1f} ms")

# %% [markdown]
# Drift we let Python play through. Let A and B be equally fast, 10 ms, on a machine
# whose every call is one percent slower than the one before. We time A twenty times, then
# B twenty times; then the same calls interleaved.


# %%
def drifting(names):
    """Medians by name when call number i takes 10 ms x 1.01 ** i."""
    times = {}
    for i, name in enumerate(names):
        times.setdefault(name, []).append(10 * 1.01**i)
    return {name: np.median(t) for name, t in times.items()}


# %% [markdown]
# Both orders hold twenty calls of each:

# %% tags=["nbval-check-output"]
in_blocks = drifting("A" * 20 + "B" * 20)
interleaved = drifting("ABBA" * 10)
for order in (in_blocks, interleaved):
    a, b = order["A"], order["B"]
    print(f"A {a:.2f} ms, B {b:.2f} ms, B/A {b / a:.3f}")

# %% [markdown]
# In blocks, B looks a fifth slower than its twin. Interleaved, the drift hits both.
#
# ## From scratch
#
# The whole procedure fits in one function. The order within a round is drawn anew each
# time: that cancels the drift on average, as A B, B A does exactly, and no callable always
# runs on the caches that one neighbor left behind.


# %%
def measure(callables, rounds=50, warmup=10):
    """Times (ms) of each callable, and CPU seconds per wall second, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    order, rng = list(callables), random.Random(0)
    wall, cpu = {n: [] for n in order}, dict.fromkeys(order, 0.0)
    for name in order * warmup:
        callables[name]()
    for _ in range(rounds):
        rng.shuffle(order)
        for name in order:
            cpu_start = time.process_time()
            wall[name].append(milliseconds(callables[name]))
            cpu[name] += time.process_time() - cpu_start
    torch.set_num_threads(threads)
    return {n: (wall[n], 1e3 * cpu[n] / sum(wall[n])) for n in callables}


# %% [markdown]
# `slimcnn.latency.measure` is this function with checks: it restores the threads even
# after an error, keeps the garbage collector out, and marks disturbed results. Times never
# repeat, so the equality cell compares what can be equal: how the same samples are
# summarized. The two printed medians may differ by some tenths: one network was measured
# twice, one after the other, and the machine drifted in between.

# %%
theirs = latency.measure({"resnet14": run}, rounds=50)["resnet14"]
mine, cpu_wall = measure({"resnet14": run})["resnet14"]
print(f"slimcnn {theirs.median:.2f} ms, from scratch {np.median(mine):.2f} ms")
np.testing.assert_allclose(
    (theirs.q1, theirs.median, theirs.q3), np.percentile(theirs.samples, [25, 50, 75])
)

# %% [markdown]
# ## On the network
#
# So far the network ran in *eager* PyTorch: Python calls one operator after the other. A
# **runtime** loads the whole network as a file, plans it once (it *fuses* batch norm and
# ReLU into the convolutions, so that three layers become one call, and lays out memory) and
# runs it without Python. Phones run networks this way, so the book measures this way. We use
# ONNX Runtime, and ExecuTorch with XNNPACK, a library of fast kernels for phones. Before any
# timing: do they compute the same logits?

# %%
student = checkpoints.load("student")
runners = {"eager PyTorch": latency.eager, "ONNX Runtime": latency.onnxruntime}
try:
    latency.executorch(student, image)
    runners["ExecuTorch"] = latency.executorch
except export.MissingRuntimeError:
    print("ExecuTorch is not installed here: see its stored records above.")

# %% [markdown]
# (Where ExecuTorch cannot be installed, as in Colab, we do with the stored records.) One
# function for each network and runtime, each compared with eager PyTorch:

# %%
callables = {
    (name, runtime): make(model, image)
    for name, model in {"ResNet-14": resnet14, "student": student}.items()
    for runtime, make in runners.items()
}
for (name, runtime), function in callables.items():
    difference = (function() - callables[name, "eager PyTorch"]()).abs().max()
    assert difference < 1e-4, f"{name} in {runtime} differs by {difference}"

# %% [markdown]
# They do. Now the times: one image, one thread, all six in the same rounds.

# %%
timed = latency.measure(callables, rounds=100)
for (name, runtime), t in timed.items():
    ratio = timed[name, "eager PyTorch"].median / t.median
    print(
        f"{name:10} {runtime:14} {t.median:6.3f} ms ({t.q1:.3f} to {t.q3:.3f})"
        f"  CPU/wall {t.cpu_wall:.2f}  {ratio:.1f} x eager"
    )

# %% [markdown]
# The same network, the same logits, the same core: the runtime alone makes a difference
# that some papers would be proud of. Two lessons follow. A speed-up must compare *within*
# one runtime, or it measures the runtime. And look at the student: in eager mode its
# advantage over ResNet-14 is small, in a runtime it is large, because there the fixed
# cost of each call no longer covers it.
#
# ## Why it works, when it does not
#
# **The large speed-up that was none.** It is easy to find a network and its compressed
# version timed once each, the first one cold, and a proud ratio between them. We repeat the
# experiment with *the same network twice*, on images of a size that nothing on this page
# has warmed up.

# %%
odd = torch.randn(1, 1, 90, 90)
twins = {name: latency.eager(models.ResNet14(), odd) for name in ("old", "new")}
once = {name: milliseconds(function) for name, function in twins.items()}
fair = latency.measure(twins)
print(f"timed once:  {once['old'] / once['new']:.2f}-fold speed-up")
print(f"interleaved: {fair['old'].median / fair['new'].median:.2f}-fold")

# %% [markdown]
# Whatever your first line says, a gain or a loss, it is wrong: the networks are twins. How
# wrong depends on what ran before and beside it. The second line is a yardstick as well:
# it is what two *equal* networks differ by when all is done right. How do we know that a
# change made a network faster? The ratio of old to new must lie well outside what twins
# give, and do so again when the measurement is repeated.
#
# **Hidden threads.** ONNX Runtime takes every core unless told otherwise. We compare
# "ONNX Runtime" with itself, once with all cores, as it would run by default, and once with
# one thread. (For once not interleaved: its waiting threads *spin*, that is, they keep
# asking for work instead of sleeping, and would disturb the other.)

# %%
file = Path(tempfile.mkdtemp()) / "resnet14.onnx"
export.to_onnx(resnet14, image, file, dynamic_batch=True)
cores = torch.get_num_threads()
several = {
    "one thread": latency.onnxruntime(file, image, threads=1),
    "all cores": latency.onnxruntime(file, image, threads=cores),
}
threaded = {name: latency.measure({name: f})[name] for name, f in several.items()}
print(f"{cores} cores")
for name, t in threaded.items():
    print(f"{name:12}{t.median:7.3f} ms  CPU/wall {t.cpu_wall:.2f}", end="")
    print("  disturbed" if t.disturbed else "")

# %% [markdown]
# CPU/wall is the CPU time that the process used, divided by the time that passed. On one
# thread it should be one. Near the number of cores, somebody uses more threads than
# declared: an unfair advantage in a comparison, and on a phone, where the other cores
# have their own work, one that is not there.
#
# Do not compare these times with the table above, where the same network took longer. Alone,
# each call finds the caches as the last one left them; beside others it does not. ResNet-14
# alone, and in turns with a copy of 64 MB, which is more than the caches hold:

# %%
large = torch.randn(16_000_000)
company = latency.measure({"network": run, "copy": large.clone}, rounds=30)["network"]
lonely = latency.measure({"network": run}, rounds=30)["network"]
print(f"alone {lonely.median:.2f} ms, beside the copy {company.median:.2f} ms")

# %% [markdown]
# How far the two are apart depends on the caches, and on who else uses them: on a machine
# with busy neighbors even the network "alone" is never alone. A latency belongs to its
# measurement; compare within one.
#
# **Below** one, the process waited:


# %%
def interrupted():
    """ResNet-14, while something else takes the core for four milliseconds."""
    run()
    time.sleep(0.004)


# %% [markdown]
# Beside the undisturbed network:

# %%
held_up = latency.measure({"alone": run, "interrupted": interrupted}, rounds=30)
for name, t in held_up.items():
    print(f"{name:12}{t.median:7.2f} ms  CPU/wall {t.cpu_wall:.2f}", end="")
    print("  disturbed" if t.disturbed else "")

# %% [markdown]
# `measure` flags both kinds as *disturbed*: below 0.9, or above 1.1 for each declared thread
# (reading two clocks costs a little, so that 1.01 is no alarm). A flagged time goes into no
# table: we find out who disturbs, or measure again.
#
# ### Latency is not throughput
#
# A camera delivers one image at a time, a server may collect many. **Latency** is the
# time until one answer; **throughput** the number of answers per second. With a batch of
# $B$ images that takes $t(B)$, the throughput is $B / t(B)$, and each image waits
# the whole $t(B)$.

# %%
batches = (1, 2, 4, 8, 16, 32)
candidates = {"eager PyTorch": (latency.eager, resnet14)}
candidates["ONNX Runtime"] = (latency.onnxruntime, file)  # exported for any batch
by_batch = latency.measure(
    {
        (runtime, size): make(network, torch.randn(size, 1, 28, 28))
        for runtime, (make, network) in candidates.items()
        for size in batches
    },
    rounds=15,
    warmup=3,
)

# %% [markdown]
# On the left what one user waits, on the right what the machine delivers:

# %%
fig, axes = plt.subplots(1, 2, figsize=(6.4, 3.2), layout="constrained")
for runtime, marker in zip(candidates, "os", strict=True):
    t = np.array([by_batch[runtime, size].median for size in batches])
    axes[0].plot(batches, t, marker=marker, label=runtime)
    axes[1].plot(batches, 1e3 * np.array(batches) / t, marker=marker)
axes[0].set(ylabel="latency (ms)", yscale="log")
axes[1].set(ylabel="throughput (images per second)", ylim=(0, None))
for ax in axes:
    ax.set(
        xlabel="images in a batch", xscale="log", xticks=batches, xticklabels=batches
    )
_ = axes[0].legend()

# %% [markdown]
# In eager PyTorch a batch pays: the cost of the calls is shared, and throughput climbs
# before it levels off. The runtime has little such cost, so it gains less. Everywhere
# the latency of the batch grows. A paper that reports "images per second at batch 256"
# has answered another question than "how long does my user wait". This book reports batch
# 1.
#
# ## What practitioners use
#
# `torch.utils.benchmark` warms up, sets one thread, repeats for a given time and reports
# the median. It takes one statement at a time, so it does not interleave. On a quiet
# machine it agrees with us:

# %%
timer = torch.utils.benchmark.Timer("run()", globals={"run": run}, num_threads=1)
pytorch = 1e3 * timer.blocked_autorange(min_run_time=1.0).median
ours = latency.measure({"run": run}, rounds=200)["run"].median
print(f"torch.utils.benchmark {pytorch:.2f} ms, slimcnn {ours:.2f} ms")

# %% [markdown]
# On the target itself, runtimes bring their own tools (`onnxruntime_perf_test`,
# ExecuTorch's `executor_runner`); chapter 7 uses them. And now a network that is not
# ours, on an image 64 times as large:

# %%
photo = torch.randn(1, 3, 224, 224)
mobilenet = torchvision.models.mobilenet_v2(weights=None).eval()
larger = {
    "eager PyTorch": latency.eager(mobilenet, photo),
    "ONNX Runtime": latency.onnxruntime(mobilenet, photo),
}
larger = latency.measure(larger, rounds=20, warmup=3)
for runtime, t in larger.items():
    print(f"MobileNetV2, {runtime:14}{t.median:7.2f} ms ({t.q1:.2f} to {t.q3:.2f})")

# %% [markdown]
# ```{admonition} What changes at ImageNet scale
# :class: note
# Calls take longer, so their fixed cost matters less and the runtimes move closer
# together. A long measurement heats the device: on a phone the clock rate falls within a
# minute, and interleaving is the only thing that keeps a comparison fair. MLPerf, the
# industry's benchmark, asks for at least a minute in each run {cite:p}`reddi2020mlperf`.
# ```
#
# ## Paper and us
#
# | | MLPerf Inference {cite:p}`reddi2020mlperf` | this book |
# |---|---|---|
# | latency of one stream | 90th percentile | median and quartiles |
# | throughput | a scenario of its own ("offline") | reported beside latency, never instead |
# | quality | a floor on the accuracy | accuracy with its interval, in the same record |
#
# MLPerf promises a user that nine of ten answers come in time, so it reports the slow
# end. We compare networks with each other, and for that the middle is steadier.
#
# The claims of this lesson, with room for your machine:

# %% tags=["claims"]
assert in_blocks["B"] / in_blocks["A"] > 1.2, "in blocks, B looks a fifth slower"
assert abs(interleaved["B"] / interleaved["A"] - 1) < 0.02, "interleaving cures it"
speed = {key: t.median for key, t in timed.items()}
for name in ("ResNet-14", "student"):
    assert speed[name, "eager PyTorch"] > 1.2 * speed[name, "ONNX Runtime"]
gain = {r: speed["ResNet-14", r] / speed["student", r] for r in runners}
assert gain["ONNX Runtime"] > gain["eager PyTorch"], (
    "the student gains more in a runtime"
)
assert held_up["interrupted"].disturbed
assert (latency.LOWEST_CPU_WALL, latency.HIGHEST_CPU_WALL) == (0.9, 1.1)
assert 0.9 < fair["old"].median / fair["new"].median < 1.1, "twins are equally fast"
assert 0.5 < pytorch / ours < 2, "the two tools agree"

# %% [markdown]
# ## Your turn
#
# Write a function that takes a list of times and returns their median and their
# inter-quartile range $q_3 - q_1$. Replace the `...`; the check tries it on random lists.


# %%
def median_and_iqr(times):
    return ...


measuring.median_and_iqr(median_and_iqr)

# %% [markdown]
# ## Summary
#
# One timing measures the cold start, the neighbors and the weather. We warm up, hold
# everyone to one thread, interleave the candidates, report median and quartiles, and throw
# away runs whose CPU time does not match their wall time. The runtime matters as much as
# the network, so a speed-up compares like with like, on a named CPU. Latency at batch 1 is
# what a user of a phone waits for.
#
# ## Check yourself
#
# ```{exercise}
# :label: ex-latency-mean
# A colleague reports the mean of 1,000 calls after one warm-up call. What would you
# change, and in which direction is the number likely to be wrong?
# ```
#
# ```{solution} ex-latency-mean
# :class: dropdown
# Report the median and quartiles: delays are never negative, so the mean is too high.
# More warm-up calls, until the times stop falling. And give the CPU, the threads and the
# batch.
# ```
#
# ```{exercise}
# :label: ex-latency-ratio
# Network A was timed on Monday (4.0 ms), network B on Tuesday on the same laptop
# (3.2 ms). Is B faster?
# ```
#
# ```{solution} ex-latency-ratio
# :class: dropdown
# Nobody knows: the drift between the two days is in the ratio. Time both in one process,
# interleaved.
# ```
#
# ```{exercise}
# :label: ex-latency-cpu
# CPU/wall is 1.9 for one candidate and 1.0 for the other, both declared to use one thread.
# What happened?
# ```
#
# ```{solution} ex-latency-cpu
# :class: dropdown
# The first used two cores. Load it with one thread and measure again; if it should use
# two, give the other two as well.
# ```
#
# ```{exercise}
# :label: ex-latency-batch
# A server processes batches of 32 in 40 ms. What are throughput and latency, and what is
# the latency of the image that arrives first if images come every 2 ms?
# ```
#
# ```{solution} ex-latency-batch
# :class: dropdown
# Throughput 32 / 0.04 s = 800 images per second; 40 ms for the batch. The first image also
# waits for the other 31: 62 ms + 40 ms = 102 ms.
# ```
#
# ## Where next
#
# - [Assignment: measuring](../../assignments/release/measuring/measuring.ipynb): count costs, plan a comparison, mend a stopwatch.
# - Next lesson: [Accuracy](accuracy.ipynb), what 10,000 test images can tell and what they
#   cannot.
# - {cite:t}`reddi2020mlperf` is worth reading for its scenarios: four ways to ask "how
#   fast", with four different winners.
