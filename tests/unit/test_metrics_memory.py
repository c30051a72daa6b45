"""slimcnn.metrics, peak activation memory: pencil calculations and an independent counter."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from slimcnn import metrics
from slimcnn.models import BasicBlock, DepthwiseSeparable, ResNet14, StudentNet


class Block(nn.Module):
    """A forward pass given as a function of (module, x), with layers as attributes."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.function(self, x)


# ---------------------------------------------------------------- by pencil (float32: 4 bytes)


def test_one_layer_holds_its_input_and_its_output():
    assert metrics.peak_activation_bytes(nn.Linear(10, 3), (2, 10)) == 4 * 2 * (10 + 3)


def test_a_chain_frees_what_is_behind():
    # 10 → 30 → 20 → 5: the worst pair of neighbours is 30 + 20.
    model = nn.Sequential(nn.Linear(10, 30), nn.Linear(30, 20), nn.Linear(20, 5))
    assert metrics.peak_activation_bytes(model, (1, 10)) == 4 * (30 + 20)


def test_relu_needs_a_second_tensor_unless_it_is_in_place():
    def model(inplace):
        return nn.Sequential(nn.Linear(10, 30), nn.ReLU(inplace=inplace), nn.Linear(30, 5))

    assert metrics.peak_activation_bytes(model(False), (1, 10)) == 4 * (30 + 30)
    assert metrics.peak_activation_bytes(model(True), (1, 10)) == 4 * (10 + 30)


@pytest.mark.parametrize(
    "free",
    [
        nn.Identity(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Unflatten(1, (5, 6)),
        nn.Sequential(),
    ],
)
def test_views_and_identities_need_nothing(free):
    model = nn.Sequential(nn.Linear(10, 30), free, nn.Flatten(), nn.Linear(30, 5))
    assert metrics.peak_activation_bytes(model.train(), (1, 10)) == 4 * (10 + 30)


def test_a_residual_block_by_pencil():
    """BasicBlock(32 → 32) on 32×14×14: one tensor is T = 32·14·14·4 = 25,088 bytes.

    conv1: x, conv1                2 T
    bn1:   x, conv1, bn1           3 T   x waits for the shortcut
    relu1: in place                2 T
    conv2: x, relu1, conv2         3 T
    bn2:   x, conv2, bn2           3 T
    add:   x, bn2, sum             3 T
    relu2: in place                1 T
    """
    tensor = 32 * 14 * 14 * 4
    assert metrics.peak_activation_bytes(BasicBlock(32, 32), (1, 32, 14, 14)) == 3 * tensor


def test_a_residual_block_that_shrinks_by_pencil():
    """BasicBlock(32 → 64, stride 2) on 32×14×14: x is T, the tensors inside are T/2.

    conv1: x, conv1                1½ T
    bn1:   x, conv1, bn1           2 T
    conv2: x, relu1, conv2         2 T
    bn2:   x, conv2, bn2           2 T
    shortcut conv: x, bn2, conv    2 T
    shortcut bn: bn2, conv, bn     1½ T   x is not needed any more
    add: bn2, bn, sum              1½ T
    """
    tensor = 32 * 14 * 14 * 4
    model = BasicBlock(32, 64, stride=2)
    assert metrics.peak_activation_bytes(model, (1, 32, 14, 14)) == 2 * tensor


def test_resnet14_by_pencil():
    # Its stem has 1·28·28 + 32·14·14 numbers, then 2 · 32·14·14 in batch norm; the blocks of
    # stage 1 have three tensors of 32·14·14, and everything behind is smaller.
    assert metrics.peak_activation_bytes(ResNet14()) == 3 * 32 * 14 * 14 * 4 == 75_264
    assert metrics.peak_activation_bytes(ResNet14(), (8, 1, 28, 28)) == 8 * 75_264
    assert metrics.peak_activation_bytes(ResNet14().double()) == 2 * 75_264


def test_the_student_by_pencil():
    # No shortcut: two tensors, at worst those of batch norm on 64·14·14.
    assert metrics.peak_activation_bytes(StudentNet()) == 2 * 64 * 14 * 14 * 4
    assert (
        metrics.peak_activation_bytes(DepthwiseSeparable(8, 24), (1, 8, 10, 10))
        == 2 * 24 * 10 * 10 * 4
    )


def test_a_concatenation_holds_all_parts_and_the_whole():
    # x (10) → a (20), b (30), c (40); at the third layer x, a, b, c live: 100 numbers; at the
    # concatenation a, b, c and the result: 180.
    model = Block(
        lambda m, x: torch.cat([m.a(x), m.b(x), m.c(x)], 1),
        a=nn.Linear(10, 20),
        b=nn.Linear(10, 30),
        c=nn.Linear(10, 40),
    )
    assert metrics.peak_activation_bytes(model, (1, 10)) == 4 * (20 + 30 + 40 + 90)


def test_a_dense_block_keeps_every_input_of_the_next_concatenation():
    # x (100), y (10) from x, [x, y] (110), z (10); last: x, y, z and [x, y, z] (120).
    def dense(m, x):
        y = m.first(x)
        z = m.second(torch.cat([x, y], 1))
        return torch.cat([x, y, z], 1)

    model = Block(dense, first=nn.Linear(100, 10), second=nn.Linear(110, 10))
    assert metrics.peak_activation_bytes(model, (1, 100)) == 4 * (100 + 10 + 10 + 120)


def test_a_long_shortcut_lives_until_it_is_used():
    def forward(m, x):
        early = m.early(x)  # 7 numbers, needed at the end
        return m.last(m.middle(x)) + early

    model = Block(forward, early=nn.Linear(10, 7), middle=nn.Linear(10, 50), last=nn.Linear(50, 7))
    assert metrics.peak_activation_bytes(model, (1, 10)) == 4 * (7 + 10 + 50)


def test_outputs_live_to_the_end():
    model = Block(lambda m, x: (m.a(x), m.b(x)), a=nn.Linear(10, 40), b=nn.Linear(10, 50))
    assert metrics.peak_activation_bytes(model, (1, 10)) == 4 * (10 + 40 + 50)


def test_a_part_keeps_the_whole_tensor():
    # Half of a chunked tensor is a view: the memory of the whole one stays.
    model = Block(lambda m, x: m.a(x.chunk(2, 1)[0]), a=nn.Linear(50, 10))
    assert metrics.peak_activation_bytes(model, (1, 100)) == 4 * (100 + 10)


def test_unread_indices_of_max_pooling_are_free_but_read_ones_are_not():
    x, pooled, indices = 4 * 64, 4 * 16, 8 * 16  # float32, float32, int64
    model = nn.MaxPool2d(2)
    assert metrics.peak_activation_bytes(model, (1, 1, 8, 8)) == x + pooled
    with_indices = nn.MaxPool2d(2, return_indices=True)
    assert metrics.peak_activation_bytes(with_indices, (1, 1, 8, 8)) == x + pooled + indices


def test_a_result_that_is_thrown_away_was_there():
    def forward(m, x):
        m.aside(x)
        return m.main(x)

    model = Block(forward, aside=nn.Linear(10, 90), main=nn.Linear(10, 5))
    assert metrics.peak_activation_bytes(model, (1, 10)) == 4 * (10 + 90)


def test_weights_and_what_is_made_of_them_do_not_count():
    class Standardized(nn.Linear):
        def forward(self, x):
            weight = self.weight - self.weight.mean(1, keepdim=True)
            return F.linear(x, weight / weight.norm(), self.bias)

    assert metrics.peak_activation_bytes(Standardized(10, 3), (1, 10)) == 4 * (10 + 3)


def test_a_tensor_made_on_the_way_counts():
    model = Block(lambda m, x: x + torch.ones(1, 10))
    assert metrics.peak_activation_bytes(model, (1, 10)) == 4 * (10 + 10 + 10)


def test_a_constant_that_the_model_brings_along_does_not():
    constant = torch.ones(1, 10)
    model = Block(lambda m, x: x + constant)
    assert metrics.peak_activation_bytes(model, (1, 10)) == 4 * (10 + 10)


def test_sparse_weights_do_not_count_either():
    class Sparse(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.eye(5).to_sparse())

        def forward(self, x):
            return torch.sparse.mm(self.weight, x)

    # Input and output, and a matrix of zeros that PyTorch may make to add to.
    assert metrics.peak_activation_bytes(Sparse(), (5, 2)) in (4 * (10 + 10), 4 * (10 + 10 + 10))
    assert metrics.count_macs(Sparse(), (5, 2)) == 5 * 5 * 2


def test_a_padded_copy_counts():
    layer = nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular")
    assert metrics.peak_activation_bytes(layer, (1, 1, 10)) == 4 * (10 + 12)


def test_control_flow_and_several_inputs_need_no_special_care():
    class Branching(nn.Module):
        def forward(self, a, b):
            return a @ b if float(a.sum()) == 0 else a

    peak = metrics.peak_activation_bytes(Branching(), ((3, 4), (4, 5)))
    assert peak == 4 * (12 + 20 + 15)


def test_freed_memory_that_is_used_again_is_counted_apart():
    """Many equal tensors in a row get the same address from the allocator."""
    model = nn.Sequential(*(nn.Linear(1000, 1000, bias=False) for _ in range(30)))
    assert metrics.peak_activation_bytes(model, (1, 1000)) == 4 * 2000


def test_inference_mode_and_the_meta_device_see_the_same():
    model = ResNet14()
    with torch.inference_mode():
        assert metrics.peak_activation_bytes(model) == 75_264
    assert metrics.peak_activation_bytes(model.to("meta")) == 75_264


# ---------------------------------------------------------------- by another way


SHARING = (nn.Flatten, nn.Dropout, nn.Identity)


def peak_by_symbolic_trace(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Liveness over a symbolic graph, with rules for what shares its input's memory."""
    graph = fx.symbolic_trace(model.eval())
    ShapeProp(graph).propagate(torch.zeros(shape))
    owner, size, last = {}, {}, {}
    nodes = [node for node in graph.graph.nodes if node.op != "get_attr"]
    for step, node in enumerate(nodes):
        module = graph.get_submodule(node.target) if node.op == "call_module" else None
        shares = (
            isinstance(module, SHARING)
            or getattr(module, "inplace", False)
            or node.kwargs.get("inplace", False)
            or node.target is torch.flatten
            or (isinstance(module, nn.Sequential) and not len(module))
        )
        owner[node] = owner[node.all_input_nodes[0]] if shares else node
        if node.op != "output" and not shares:
            meta = node.meta["tensor_meta"]
            size[node] = meta.shape.numel() * meta.dtype.itemsize
        for used in (node, *node.all_input_nodes):
            last[owner[used]] = step
    birth = {node: step for step, node in enumerate(nodes)}
    return max(
        sum(size[n] for n in size if birth[n] <= step <= last[n]) for step in range(len(nodes))
    )


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (ResNet14, (1, 1, 28, 28)),
        (StudentNet, (2, 1, 28, 28)),
        (lambda: torchvision.models.resnet18(), (1, 3, 64, 64)),
        (lambda: torchvision.models.mobilenet_v2(), (1, 3, 64, 64)),
        (lambda: torchvision.models.squeezenet1_1(), (1, 3, 64, 64)),
        (lambda: torchvision.models.densenet121(), (1, 3, 64, 64)),
        (lambda: torchvision.models.googlenet(init_weights=False), (1, 3, 64, 64)),
    ],
)
def test_peak_agrees_with_a_symbolic_trace(build, shape):
    model = build()
    assert metrics.peak_activation_bytes(model, shape) == peak_by_symbolic_trace(model, shape)
