"""slimcnn.coding.container: bit-exact, small, and not to be fooled."""

import contextlib
import hashlib
import json
import struct
import tracemalloc

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slimcnn import data, masking, pruning, quantization
from slimcnn.coding import SlimError, kmeans, load_slim, save_slim
from slimcnn.models import ResNet14, StudentNet


def same_bits(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert set(a) == set(b)
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape
        x, y = (
            t.contiguous().view(-1).view(torch.uint8).tolist() for t in (plain(a[name]), b[name])
        )
        assert x == y, name


def plain(tensor):
    """Without -0.0, which is written as 0.0 in float32."""
    return torch.where(tensor == 0, 0, tensor) if tensor.dtype is torch.float32 else tensor


def compressed(zeros=0.9, values=16):
    """ResNet-14, pruned and with shared weights."""
    torch.manual_seed(0)
    model = ResNet14().eval()
    masks = pruning.global_masks(pruning.magnitude(model), zeros)
    model = masking.finalize(masking.apply_masks(model, masks))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                filled = weight != 0
                weight[filled] = kmeans(weight[filled], values).decode()
    return model


@pytest.mark.parametrize("build", [ResNet14, StudentNet])
@pytest.mark.parametrize(
    "arguments", [{}, {"width": 0.25}, {"in_channels": 3, "num_classes": 7, "width": 1.5}]
)
def test_networks_of_the_book_come_back_without_being_named(tmp_path, build, arguments):
    torch.manual_seed(0)
    model = build(**arguments)
    size = save_slim(model, tmp_path / "model.slim")
    assert size == (tmp_path / "model.slim").stat().st_size
    back = load_slim(tmp_path / "model.slim")
    assert type(back) is build and not back.training
    same_bits(model, back)


def test_deep_compression_is_small(tmp_path):
    model, path = compressed(), tmp_path / "model.slim"
    size = save_slim(model, path)
    dense = 4 * sum(p.numel() for p in model.parameters())
    # 4 bits a value and about 4.5 a gap for a tenth of the weights, less by Huffman's code;
    # batch norms, which are new here, cost next to nothing
    assert dense / size > 28
    same_bits(model, load_slim(path))


def test_a_network_with_other_layers_needs_its_architecture_and_no_random_number(tmp_path):
    split = data.load("train").subset(10)
    quantized = quantization.quantize(StudentNet(), quantization.Scheme(), split.images)
    torch.manual_seed(0)
    save_slim(quantized, tmp_path / "quantized.slim")
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(SlimError, match="does not say which network"):
        load_slim(tmp_path / "quantized.slim")


def test_a_foreign_network_needs_its_architecture(tmp_path):
    torch.manual_seed(0)
    model, path = torchvision.models.squeezenet1_1(weights=None), tmp_path / "model.slim"
    save_slim(model, path)
    with pytest.raises(SlimError, match="does not say which network it holds"):
        load_slim(path)
    other = torchvision.models.squeezenet1_1(weights=None)
    assert load_slim(path, other) is other
    same_bits(model, other)
    with pytest.raises(SlimError, match="other names, shapes or types"):
        load_slim(path, StudentNet())


def test_fewer_channels_are_another_architecture(tmp_path):
    model = ResNet14(width=0.25)
    groups = pruning.find_groups(model, (1, 1, 28, 28))
    keep = {"stage1.0.conv1": torch.tensor([True, False] * 4)}
    smaller, path = pruning.shrink(model, groups, keep), tmp_path / "model.slim"
    save_slim(smaller, path)
    with pytest.raises(SlimError, match="does not say which network"):
        load_slim(path)
    same_bits(smaller, load_slim(path, pruning.shrink(model, groups, keep)))


# --- tensors ------------------------------------------------------------------------------------


class Holder(nn.Module):
    def __init__(self, **tensors):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)


def there_and_back(tmp_path, **tensors):
    holder, path = Holder(**tensors), tmp_path / "h.slim"
    size = save_slim(holder, path)
    empty = Holder(**{k: torch.full_like(t, 1) for k, t in tensors.items()})
    same_bits(holder, load_slim(path, empty))
    return size


def load_slim_of(tmp_path, x):
    save_slim(Holder(x=x), tmp_path / "x.slim")
    return load_slim(tmp_path / "x.slim", Holder(x=torch.ones_like(x))).x


FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(st.just(0.0), FLOATS), max_size=60))
def test_any_float_comes_back(tmp_path_factory, numbers):
    there_and_back(tmp_path_factory.mktemp("slim"), x=torch.tensor(numbers, dtype=torch.float32))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 2000), min_size=1, max_size=12), st.integers(0, 3000))
def test_any_gaps_come_back(tmp_path_factory, gaps, after):
    x = torch.zeros(sum(gaps) + len(gaps) + after)
    places = np.cumsum(np.array(gaps) + 1) - 1
    x[torch.from_numpy(places)] = torch.arange(1.0, len(gaps) + 1)
    there_and_back(tmp_path_factory.mktemp("slim"), x=x)


def test_every_type_and_shape(tmp_path):
    assert torch.signbit(load_slim_of(tmp_path, torch.tensor([-0.0, -1.0]))).tolist() == [
        False,
        True,
    ]
    there_and_back(
        tmp_path,
        a=torch.tensor(3.5),
        b=torch.zeros(0),
        c=torch.zeros(2, 0, 3),
        d=torch.arange(6).view(2, 3),
        e=torch.tensor([-1, 300]),
        f=torch.tensor([True, False]),
        g=torch.randn(3, 4).half(),
        h=torch.randn(3, 4).bfloat16(),
        i=torch.randn(3, 4).double(),
        j=torch.tensor([-0.0, 0.0, float("nan"), float("inf"), 1e-45]),
        k=torch.zeros(5, 5),
        l=torch.full((7,), 2.5),
        m=torch.randn(8, 8).T,
    )


def test_the_smallest_way_is_taken(tmp_path):
    torch.manual_seed(0)
    noise = torch.randn(10_000)
    empty = there_and_back(tmp_path, x=torch.zeros(0))
    # 4 bytes a number; half of that; 3 bits for 8 even values; hardly anything for zeros
    assert there_and_back(tmp_path, x=noise) - empty == 40_000
    assert there_and_back(tmp_path, x=noise.half().float()) - empty == 20_000
    eight = torch.arange(8.0).repeat(1250)
    assert 3750 <= there_and_back(tmp_path, x=eight) - empty < 3800
    assert there_and_back(tmp_path, x=torch.zeros(10_000)) - empty < 30
    sparse = noise * (torch.rand(10_000) < 0.01)
    assert there_and_back(tmp_path, x=sparse) - empty < 7 * 110


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(3).to(torch.float8_e4m3fn), "x has numbers of torch.float8_e4m3fn"),
        (torch.ones(3, device="meta"), "x is no plain tensor"),
        (torch.eye(3).to_sparse(), "x is no plain tensor"),
    ],
    ids=["float8", "meta", "sparse"],
)
def test_tensors_that_no_file_takes(tmp_path, tensor, message):
    with pytest.raises(SlimError, match=message):
        save_slim(Holder(x=tensor), tmp_path / "h.slim")
    assert not list(tmp_path.iterdir())


def test_an_older_file_stays_if_saving_fails(tmp_path):
    path = tmp_path / "h.slim"
    save_slim(Holder(x=torch.ones(3)), path)
    before = path.read_bytes()
    with pytest.raises(SlimError, match="numbers; at most"):
        save_slim(Holder(x=torch.zeros(3_000_000)), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# --- damaged, foreign, hostile ------------------------------------------------------------------


def signed(body):
    return body + hashlib.blake2b(body, digest_size=16).digest()


def forged(header, blocks=b"", version=1):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return signed(b"SLIM" + struct.pack("<BI", version, len(text)) + text + blocks)


def test_damage_is_noticed_everywhere(tmp_path):
    path = tmp_path / "m.slim"
    save_slim(StudentNet(width=0.25), path)
    content = path.read_bytes()
    for place in (0, 4, 7, 50, len(content) // 2, len(content) - 20, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(SlimError, match=r"m\.slim cannot be read"):
            load_slim(path)
    for length in (0, 3, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(SlimError, match=r"m\.slim cannot be read"):
            load_slim(path)
    with pytest.raises(FileNotFoundError):
        load_slim(tmp_path / "none.slim")


def names_of(model):
    from slimcnn.coding.container import _fingerprint, _sorted_state

    return _fingerprint(_sorted_state(model))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\3\4 a zip file, perhaps", "it is no .slim file"),
        (forged({"names": "x"}, version=9), "it has version 9; this program reads version 1"),
        (forged(b"{"), "its header is no JSON"),
        (forged(b"\xff\xfe"), "its header is no JSON"),
        (forged(b"[1]"), "its header does not name the tensors"),
        (forged({}), "its header does not name the tensors"),
        (forged({"names": "x"}), "does not say which network"),
        (forged({"names": "x", "model": "os.system", "arguments": {}}), "which is not known"),
        (forged({"names": "x", "model": ["student"], "arguments": {}}), "which is not known"),
        (forged({"names": "x", "model": "student", "arguments": {"width": "9"}}), "not known"),
        (forged({"names": "x", "model": "student", "arguments": [1]}), "not known"),
        (forged({"names": "x", "model": "student", "arguments": {"depth": 9}}), "cannot be built"),
        (forged({"names": "x", "model": "student", "arguments": {"width": -1}}), "width"),
        (forged({"names": "x", "model": "student", "arguments": {"width": 1e12}}), "."),
        (forged({"names": "x", "model": "student", "arguments": {}}), "other names"),
        (signed(b"SLIM" + struct.pack("<BI", 1, 2**32 - 1) + b"{}"), "too early"),
    ],
)
def test_hostile_headers(tmp_path, content, message):
    path = tmp_path / "m.slim"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(SlimError, match=message):
        load_slim(path)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_a_giant_is_not_built(tmp_path):
    with torch.device("meta"):
        giant = ResNet14(width=60)
    header = {"names": names_of(giant), "model": "resnet14", "arguments": {"width": 60}}
    path = tmp_path / "m.slim"
    path.write_bytes(forged(header, bytes(100)))
    with pytest.raises(SlimError, match=r"bytes for [\d,]+ numbers; at most"):
        load_slim(path)


COUNT = 100


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (b"", "too early"),
        (bytes([0]) + bytes(4 * COUNT - 1), "1 bytes too early"),
        (bytes([0]) + bytes(4 * COUNT + 1), "1 bytes are left over"),
        (bytes([1]) + bytes(COUNT), "too early"),
        (bytes([2]) + bytes(COUNT), "unknown way 2"),
        (bytes([9]), "unknown way 9"),
        # a codebook of 65,535 values that are not there
        (bytes([3]) + struct.pack("<HB", 65535, 0), "too early"),
        # a code whose lengths are none
        (bytes([3]) + struct.pack("<HB", 2, 0) + bytes(8) + b"\x00" + bytes(4), "cannot hold"),
        (bytes([3]) + struct.pack("<HB", 2, 0) + bytes(8) + b"\x22" + bytes(4), "mean nothing"),
        (bytes([3]) + struct.pack("<HB", 3, 0) + bytes(12) + b"\x11\x10" + bytes(4), "too many"),
        # four billion bytes of data
        (
            bytes([3])
            + struct.pack("<HB", 2, 0)
            + bytes(8)
            + b"\x11"
            + struct.pack("<I", 2**32 - 1),
            "too early",
        ),
        # more numbers than there is room for
        (bytes([4]) + struct.pack("<HBI", 0, 0, COUNT + 1), "101 numbers are not zero, of 100"),
        # nothing is not zero, and gaps of impossible width or number
        (bytes([4]) + struct.pack("<HBIIBI", 0, 0, 0, 0, 9, 0), "gaps have 9 bits"),
        (bytes([4]) + struct.pack("<HBIIBI", 0, 0, 0, 0, 2, 2**31), "2147483648 entries"),
        # a jump that leads nowhere: one symbol, 3, of one bit
        (
            bytes([4])
            + struct.pack("<HBIIBI", 0, 0, 0, 0, 2, 1)
            + b"\x00\x01"
            + struct.pack("<I", 1)
            + b"\0",
            "do not lead to the numbers",
        ),
    ],
)
def test_hostile_blocks(tmp_path, block, message):
    holder, path = Holder(x=torch.ones(COUNT)), tmp_path / "h.slim"
    path.write_bytes(forged({"names": names_of(holder)}, block))
    with pytest.raises(SlimError, match=message):
        load_slim(path, holder)
    assert (holder.x == 1).all()


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_no_forged_file_does_more_than_raise(tmp_path_factory, data):
    holder = Holder(x=torch.zeros(COUNT), y=torch.arange(5))
    path = tmp_path_factory.mktemp("slim") / "h.slim"
    holder.x[::7] = torch.arange(15.0)
    save_slim(holder, path)
    body = bytearray(path.read_bytes()[:-16])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(30, len(body) - 1))
        body[place] = data.draw(st.integers(0, 255))
    path.write_bytes(signed(bytes(body)))
    with contextlib.suppress(SlimError):
        load_slim(path, Holder(x=torch.ones(COUNT), y=torch.arange(5)))


@pytest.mark.parametrize("change", ["activation", "epsilon", "dilation"])
def test_a_changed_network_is_not_taken_for_the_books(tmp_path, change):
    model = StudentNet(width=0.25).eval()
    if change == "activation":
        for parent in list(model.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.ReLU):
                    setattr(parent, name, nn.ReLU6())
    elif change == "epsilon":
        model.bn.eps = 0.1
    else:
        layer = model.blocks[1].depthwise
        layer.dilation, layer.padding = (2, 2), (2, 2)
    path = tmp_path / "changed.slim"
    save_slim(model, path)
    with pytest.raises(SlimError, match="model"):
        load_slim(path)
    same_bits(model, load_slim(path, StudentNet(width=0.25)))


def test_reading_draws_no_random_numbers(tmp_path):
    save_slim(StudentNet(width=0.25), tmp_path / "a.slim")
    before = torch.random.get_rng_state()
    load_slim(tmp_path / "a.slim")
    assert torch.equal(torch.random.get_rng_state(), before)
