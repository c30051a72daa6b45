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
from pathlib import Path

import onnx
import onnxruntime
import torch
import torchvision
from torch import nn

from slimcnn import checkpoints, data, deploy, export, latency, plotting

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
    torch.export.export(Hesitant(model), (inputs[:1],))
except Exception as error:
    refused = type(error).__name__
print(refused)

# %% [markdown]
# The older `torch.jit.trace` and TorchScript exporters follow one branch and forget the other, and say
# so in a warning at most. That one refuses is progress.
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
    """The nodes that ONNX Runtime would execute."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(Path(folder.name) / "optimized.onnx")
    with export.silence():
        onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath).graph.node


levels = onnxruntime.GraphOptimizationLevel
nodes = {}
for name in ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL"):
    nodes[name] = optimized(getattr(levels, f"ORT_{name}"))
    print(
        f"{name:16}{len(nodes[name]):3} nodes",
        dict(Counter(n.op_type for n in nodes[name])),
    )

# %% [markdown]
# Rewriting with constants ("basic") changes little here, since the exporter has folded the batch norms.
# Then ReLUs, and sums of shortcuts, enter the convolutions before them (`FusedConv`), and at the last
# level the layout of the tensors changes, too: `ReorderInput` brings channels into groups that fit the
# processor's registers, `ReorderOutput` brings them back.
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
# measured, and one image with its logits, the **known answer**, which a phone can check at its first
# start.

# %%
calibration = data.load("train").subset(200).images
shipped = Path(folder.name) / "shipped"
deploy.ship(model, shipped, validation, [runtime], calibration)
manifest = json.loads((shipped / "manifest.json").read_text())
for entry in manifest["files"]:
    print(
        entry["path"], f"{entry['bytes']:,} bytes, accuracy {entry['accuracy']:.1f} %"
    )

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

# %% tags=["claims"]
assert verdicts["as it is"].passed and sum(v.passed for v in verdicts.values()) == 1
assert verdicts["probabilities"].agreement == 100
assert len(nodes["ENABLE_EXTENDED"]) < len(nodes["ENABLE_BASIC"])
assert "checksum" in refusal
folder.cleanup()
