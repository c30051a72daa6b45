# %% [markdown]
# # From a network to a file
#
# Training is over. How does a network leave Python, and how do you know that what arrives is what you
# sent? This lesson changes the number of steps that a runtime takes for one image, and what you can
# promise about the file.
#
# **You will**
#
# - read a network as a graph, node by node, and say what an exporter cannot see;
# - watch a runtime fuse its nodes, and count what is left;
# - build a gate that refuses a wrong file, and try it on the classic mistakes;
# - ship files with a manifest, and load them so that what does not match is refused.
#
# **You need** [What a network costs](../01-measuring/cost.ipynb),
# [Latency](../01-measuring/latency.ipynb) and [Integers](../06-quantization/integers.ipynb).
# Symbols are on the [notation page](../../book/notation.md).
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
import copy
import json
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import onnx
import onnxruntime
import torch
import torchvision
from torch import nn

from slimcnn import checkpoints, data, deploy, export, latency, plotting
from slimcnn.checks import deploying

plotting.use_style()
_ = torch.manual_seed(0)

# %% [markdown]
# ## Measure first
#
# ResNet-14 in PyTorch: how many modules, and what it answers on the images that every file of this
# lesson is held against.

# %%
model = checkpoints.load("resnet14")
validation = data.load("validation").subset(500)
inputs = data.normalize(validation.images)
with torch.no_grad():
    logits = model(inputs)
right = (logits.argmax(1) == validation.labels).float().mean()
leaves = [m for m in model.modules() if not list(m.children())]
print(f"{len(leaves)} modules, {100 * right:.1f} % of {len(validation)} images")

# %% [markdown]
# ## The idea
#
# A network in Python is a program: its `forward` may do anything. A runtime on a phone has no
# Python. It takes a **graph**: a list of operations, each with its inputs, its outputs and its
# constants. `torch.export` makes one by calling `forward` once, with tensors that have shapes and no
# values, and writing down what happens to them:

# %%
program = torch.export.export(model, (inputs[:1],))
calls = [n for n in program.graph.nodes if n.op == "call_function"]
for node in calls[:4]:
    print(f"{node.name:16}{node.target!s:42}{tuple(node.meta['val'].shape)}")
print(Counter(str(n.target).split(".")[1] for n in calls))

# %% [markdown]
# A module that was called is a node; names of variables, classes and loops are gone. So is every
# *decision*: a branch on a value cannot be written down, since there is no value.


# %%
class Hesitant(nn.Module):
    """Looks twice if it is not sure."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        logits = self.network(x)
        if logits.max() < 1:
            logits = logits + self.network(x.flip(-1))
        return logits


try:
    with export.silence():
        torch.export.export(Hesitant(model), (inputs[:1],))
except Exception as error:
    refused = type(error).__name__
print(refused)

# %% [markdown]
# The older `torch.jit.trace` follows one branch and forgets the other, and says so in a warning at most.
# That the newer one refuses is progress.
#
# ## By hand
#
# What does a runtime do with a graph before it computes anything? Three kinds of rewriting, on four
# operations: $y = \operatorname{ReLU}((2x + 1) \cdot 3 - 3)$. Constants meet constants:
# $(2x + 1) \cdot 3 - 3 = 6x + 0$. Adding 0 is nothing, and goes. What is left, a product and a ReLU, is
# **fused**: one loop over the numbers instead of two, each number read and written once. Four
# operations have become one. Batch norms behind convolutions are the same case:
# a product and a sum, folded into weights ([Integers](../06-quantization/integers.ipynb)).

# %%
x = torch.tensor([-1.0, 0.5])
four = torch.relu((2 * x + 1) * 3 - 3)
one = (6 * x).clamp(min=0)
print(four.tolist(), one.tolist())
assert torch.equal(four, one)

# %% [markdown]
# ## From scratch
#
# An exported file is *checked*, not trusted. The check needs inputs that look like real ones, the
# answers of the network, and three numbers: the largest difference; the size of all differences
# together, relative to the outputs,
#
# $$
# e = \frac{\lVert \mathbf{Z}' - \mathbf{Z} \rVert}{\lVert \mathbf{Z} \rVert} ,
# $$ (eq-parity)
#
# with the logits $\mathbf{Z}$ of the network and $\mathbf{Z}'$ of the file, all images together; and how
# many answers agree. Float32 on another runtime is the same sums in another order: $e$ is about
# $10^{-6}$. Eight-bit integers give $e$ of one to ten percent, and nearly all answers agree.


# %%
def compare(reference, program, inputs, error=1e-3, agreement=99.5):
    """Largest difference, relative error, percent of agreement; None if refused."""
    z, other = reference(inputs).detach(), program(inputs).detach()
    relative = float((other - z).norm() / z.norm())
    same = 100 * float((z.argmax(1) == other.argmax(1)).float().mean())
    if not (relative <= error and same >= agreement):
        return None
    return float((other - z).abs().max()), relative, same


# %% [markdown]
# "Not less or equal" rather than "greater" also refuses what is not a number. The equality cell, on a
# file in ONNX Runtime; `deploy` has the same four calls for each of six runtimes, the subject of the
# next lesson:

# %%
folder = tempfile.TemporaryDirectory()
runtime = deploy.RUNTIMES["ONNX Runtime"]
path = runtime.export(model, inputs, Path(folder.name) / "resnet14.onnx")
program = runtime.load(path)
found = deploy.parity(model, program, inputs, validation.labels)
mine = compare(model, program, inputs)
torch.testing.assert_close(mine, (found.difference, found.error, found.agreement))
print(found, f"; {runtime.size(path):,} bytes")

# %% [markdown]
# ## On the network
#
# What is in the file? ONNX calls its operations by its own names. The batch norms are gone already:
# PyTorch's exporter folds them.

# %%
graph = onnx.load(path).graph
kinds = Counter(node.op_type for node in graph.node)
print(len(graph.node), "nodes:", dict(kinds))

# %% [markdown]
# And what does the runtime make of it? It can write down its optimized graph, for each of its levels.


# %%
def optimized(level):
    """The nodes that ONNX Runtime would execute, and the session."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(Path(folder.name) / "optimized.onnx")
    with export.silence():
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath).graph.node, session


nodes, sessions = {}, {}
for name in ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL"):
    level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{name}")
    nodes[name], sessions[name] = optimized(level)

# %% [markdown]
# How many nodes of which kind are left, at each level?

# %%
types = dict.fromkeys(n.op_type for level in nodes.values() for n in level)
fig, ax = plt.subplots(figsize=(6.8, 2.6))
left = {name: 0 for name in nodes}
for kind, hatch in zip(types, 2 * ("", "//", "xx", "..", "\\\\"), strict=False):
    counts = {n: sum(m.op_type == kind for m in nodes[n]) for n in nodes}
    bars = ax.barh(list(nodes), counts.values(), left=left.values(), label=kind)
    plt.setp(bars, hatch=hatch)
    left = {name: left[name] + counts[name] for name in nodes}
ax.invert_yaxis()
ax.set(xlabel="nodes")
_ = ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))

# %% [markdown]
# Rewriting with constants ("basic") changes nothing here, since the exporter has folded the batch norms.
# Then ReLUs enter the convolutions before them (`FusedConv`). At the last level, on processors that
# ONNX Runtime knows better kernels for, the layout changes, too: channels lie in groups that fit the
# processor's registers, sums of shortcuts enter the convolutions, and `ReorderOutput` brings the usual
# order back. What is it worth? One thread, interleaved, on the machine that made this page:

# %%
feed = {"input": inputs[:1].numpy()}
runs = {name: partial(s.run, None, feed) for name, s in sessions.items()}
for name, time in latency.measure(runs, rounds=200).items():
    print(f"{name:16}{len(nodes[name]):3} nodes  {time}")

# %% [markdown]
# Count nodes, and you know little about time: most of it is spent in the convolutions, which no level
# removes. Fewer passes over small tensors save little; another layout changes the convolutions themselves.
#
# ## Why it works, when it does not
#
# **The gate and the classic mistakes.** Five files or programs that someone might ship:

# %%
training = copy.deepcopy(model).train()
faults = {
    "as it is": program,
    "no normalization": lambda x: program(x * data.STD + data.MEAN),
    "training mode": training,
    "probabilities": lambda x: program(x).softmax(1),
    "labels in another order": lambda x: program(x).flip(1),
}
verdicts = {}
for name, fault in faults.items():
    verdicts[name] = deploy.parity(model, fault, inputs)
    print(f"{name:24}{verdicts[name]}")

# %% [markdown]
# Look at the probabilities: *every* answer agrees, and the file is wrong all the same for whoever
# adds a softmax to it. A gate of accuracy alone would have let it pass.
#
# **A batch that is fixed.** The file above takes one image at a time. For a server, the first dimension
# can be left open:

# %%
open_batch = export.to_onnx(model, inputs[:1], Path(folder.name) / "open.onnx", True)
many = latency.onnxruntime(open_batch, inputs)()
torch.testing.assert_close(many, logits, rtol=1e-4, atol=1e-4)
try:
    latency.onnxruntime(path, inputs[:2])()
except Exception as error:
    print(str(error).split("\n")[0][:88])

# %% [markdown]
# ### What goes inside
#
# An app has pixels, bytes from 0 to 255, and wants a label. Who subtracts the mean? If the app does,
# in Kotlin and again in Swift, each of them can forget it. It can be part of the graph instead:


# %%
class FromPixels(nn.Module):
    """uint8 pixels (N, 1, 28, 28) to probabilities (N, 10)."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pixels):
        x = (pixels.float() / 255 - data.MEAN) / data.STD
        return self.network(x).softmax(1)


whole = FromPixels(model).eval()
pixels_path = export.to_onnx(whole, validation.images[:1], Path(folder.name) / "p.onnx")
answers = [
    latency.onnxruntime(pixels_path, image)()
    for image in validation.images[:50].split(1)
]
torch.testing.assert_close(
    torch.cat(answers), logits[:50].softmax(1), rtol=1e-3, atol=1e-5
)

# %% [markdown]
# ### What leaves the house
#
# A file alone does not say how it wants to be fed. `ship` writes files for some runtimes, each past its
# gate, and a manifest: layout, normalization, labels, checksums, versions, the accuracy that was
# measured, and ten images with their logits, the **known answers**, which a phone can check at its
# first start.

# %%
calibration = data.load("train").subset(200).images
shipped = Path(folder.name) / "shipped"
deploy.ship(model, shipped, validation, [runtime], calibration)
manifest = json.loads((shipped / "manifest.json").read_text())
for entry in manifest["files"]:
    print(
        entry["path"], f"{entry['bytes']:,} bytes, accuracy {entry['accuracy']:.1f} %"
    )
print(entry["input"], entry["made_with"])

# %% [markdown]
# Whoever loads it gets a network that takes pixels and gives labels, or a refusal. One bit flipped:

# %%
network = deploy.load_shipped(shipped, runtime, "int8")
print(network.classify(validation.images[:2]))
file = shipped / manifest["files"][1]["path"]
content = bytearray(file.read_bytes())
content[len(content) // 2] ^= 1
file.write_bytes(content)
try:
    deploy.load_shipped(shipped, runtime, "int8")
except deploy.ShipmentError as error:
    refusal = str(error)
print(refusal)

# %% [markdown]
# ## What practitioners use
#
# A network that is not ours: torchvision's SqueezeNet, colors, random weights, through the same gate.

# %%
foreign = torchvision.models.squeezenet1_1(num_classes=10).eval()
colors = torch.randn(4, 3, 64, 64)
foreign_path = runtime.export(foreign, colors, Path(folder.name) / "squeezenet.onnx")
print(deploy.parity(foreign, runtime.load(foreign_path), colors))

# %% [markdown]
# Runtimes have tools for the same job: ONNX Runtime's own quantizer has a debugger that compares the
# activations of two files layer by layer, ExecuTorch an inspector, OpenVINO's NNCF accuracy control,
# which leaves layers in floating point until a metric is kept. They find *where* a file went wrong; a
# gate says *that* it did, with the same words for all of them.
#
# ```{admonition} What changes at ImageNet scale
# :class: note
# Logits of a thousand classes lie closer together. Of an int8 file whose outputs are off by a tenth, nearly all
# answers of ours agree; of EfficientNet-Lite0, fewer do, above all where the network itself is unsure.
# The [next lesson](runtimes.ipynb) measures it. Choose the bounds of your gate on a file that you know
# to be right, and on planted faults that it must refuse.
# ```
#
# The claims of the text:

# %% tags=["claims"]
assert verdicts["as it is"].passed and sum(v.passed for v in verdicts.values()) == 1
assert verdicts["probabilities"].agreement == 100
assert len(nodes["ENABLE_EXTENDED"]) < len(nodes["ENABLE_BASIC"])
assert len(nodes["ENABLE_BASIC"]) == len(nodes["DISABLE_ALL"])
assert len(nodes["ENABLE_ALL"]) <= len(nodes["ENABLE_EXTENDED"])
assert "BatchNormalization" not in kinds
assert "checksum" in refusal
folder.cleanup()

# %% [markdown]
# ## Your turn
#
# Put the normalization into the first layer: given its weight and bias, and the mean and the standard
# deviation of each channel, find those of a layer that takes bytes from 0 to 255. Replace the `...` and
# run the cell.


# %%
def folded_normalization(weight, bias, mean, std):
    """New weight (out, in, kh, kw) and bias (out,)."""
    return ...


deploying.folded_normalization(folded_normalization)

# %% [markdown]
# ## Summary
#
# A runtime takes a graph, not a program: operations, their order, their constants. Exporters write it by
# calling the network once, so that decisions on values cannot be exported. Runtimes rewrite graphs before
# they compute; fusing saves passes over memory, not multiplications. A file is checked against its
# network on real inputs, with bounds that planted faults do not pass, and it travels with a manifest:
# how to feed it, what it was measured at, its checksums, and answers that are known.
#
# ## Check yourself
#
# ```{exercise}
# :label: ex-export-loop
# A network repeats its last block until its largest probability exceeds 0.9, at most four times. What
# can you export?
# ```
#
# ```{solution} ex-export-loop
# :class: dropdown
# The number of repetitions depends on a value. Either all four repetitions, with the answer chosen
# afterwards by arithmetic (`torch.where`), which costs the time of four; or two files, the block and the
# rest, with the loop in the app.
# ```
#
# ```{exercise}
# :label: ex-export-padding
# "Your turn" folds the normalization into a layer that pads nothing. ResNet-14's first layer pads its input with
# zeros. What goes wrong at the border, and what would mend it?
# ```
#
# ```{solution} ex-export-padding
# :class: dropdown
# The zeros were added after the normalization, where 0 stands for the mean. In pixels the mean is
# $255 \mu$, so that the new layer would have to pad with that value instead; its zeros are black pixels.
# With the normalization as a node of its own, as above, nothing goes wrong.
# ```
#
# ```{exercise}
# :label: ex-export-agree
# A file agrees with its network on every one of 500 answers, but $e$ from {eq}`eq-parity` is 0.3. Give
# two faults that look like this, and say whom they hurt.
# ```
#
# ```{solution} ex-export-agree
# :class: dropdown
# Softmax, or another monotone function, in the graph: whoever applies softmax again shows wrong
# probabilities. A scale forgotten in the last layer of a quantized file: answers stay, confidence does not,
# and a threshold on it ("ask the user below 60 %") does something else than it was tuned for.
# ```
#
# ```{exercise}
# :label: ex-export-known
# The checksum of a file is right. Why check known answers on the phone all the same?
# ```
#
# ```{solution} ex-export-known
# :class: dropdown
# The checksum says that the file is what was sent. It says nothing about the runtime that reads it:
# another version, another processor, a delegate with other arithmetic, an app that feeds it wrongly.
# ```
#
# ## Where next
#
# - [Assignment: deployment](../../assignments/release/deployment/deployment.ipynb): a gate, a file from pixels on, and a gate that lets everything pass.
# - [One network, six runtimes](runtimes.ipynb): what the same files cost in each of them.
# - PyTorch's documentation of `torch.export`: what it can write down, and how to rewrite what it cannot.
# - ONNX Runtime's documentation of graph optimizations: all rewritings, level by level.
