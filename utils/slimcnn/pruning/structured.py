"""Remove channels for real: a smaller network, with smaller tensors.

`mask_channels` writes zeros where channels go, `shrink` cuts the tensors; both networks
compute the same. Chapter 2 (Pruning: structured).
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from slimcnn.checkpoints import CheckpointError, load_weights_
from slimcnn.pruning.graph import UnprunableError
from slimcnn.pruning.groups import ChannelGroups
from slimcnn.tracing import ModelInput, example_inputs, named_tensors, tensors, undisturbed

# Largest difference between the masked and the smaller network, of the largest output: sums of
# the same float32 numbers in another order differ by less, a channel in a wrong place by more.
_TOLERANCE = 1e-3


def mask_channels(model: nn.Module, groups: ChannelGroups, keep: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `model` in which the channels that are not kept are zero for every reader.

    Filters, biases, the scale and shift of each norm that follows are zero, and so are the
    inputs of the filters that read the channel: an activation that makes something else of
    zero (a sigmoid) cannot bring it back. The tensors keep their shapes, the zeros do not
    survive training (see `apply_masks` for that).

    Args:
        model: the network that `groups` were found for; it is not changed.
        groups: from `find_groups`.
        keep: for each group that loses channels, its name and a bool tensor (channels,),
            True where a channel stays.

    Raises:
        KeyError, TypeError, ValueError: `keep` names no group, is no bool tensor, has another
            size, or keeps nothing.

    Chapter 2, Pruning: structured.
    """
    _check(model, groups, keep)
    zeroed = _zeroed(model, groups, keep)
    return _copy_with(model, {name: lambda _, new=new: new for name, new in zeroed.items()})


def shrink(model: nn.Module, groups: ChannelGroups, keep: Mapping[str, Tensor]) -> nn.Module:
    """A smaller copy of `model`, without the channels that are not kept.

    It computes what `mask_channels` computes. Where the network's code could have written a
    number of channels down (`x.view(-1, 512)`, `x[:, :64]`), that is checked on the example of
    the groups, with random numbers in it. Arguments and errors are those of `mask_channels`;
    moreover

    Raises:
        UnprunableError: the smaller network does not run or computes something else, for
            instance since its code writes a number of channels down.

    Chapter 2, Pruning: structured.
    """
    _check(model, groups, keep)
    gone: dict[str, dict[int, Tensor]] = {}
    for name, kept in keep.items():
        for member in groups[name].members:
            stays = gone.setdefault(member.tensor, {}).setdefault(
                member.dim, torch.ones(groups.shapes[member.tensor][member.dim], dtype=torch.bool)
            )
            stays[member.indices[~kept.cpu()].flatten()] = False
    left = {
        tensor: {dim: stays.nonzero().flatten() for dim, stays in dims.items()}
        for tensor, dims in gone.items()
    }
    smaller = _copy_with(model, {n: partial(_select, indices=dims) for n, dims in left.items()})
    if not groups.simple:
        _verify(smaller, model, _zeroed(model, groups, keep), groups.example)
    return smaller


def permute_channels(
    model: nn.Module, groups: ChannelGroups, orders: Mapping[str, Tensor]
) -> nn.Module:
    """A copy of `model` with the channels of some groups in another order: the same function.

    Place i of a group gets the channel that was at `orders[name][i]`, in every tensor that
    knows the channel. N:M sparsity loses less if channels that can share a group of M are
    neighbors (`slimcnn.sparsity.channel_permutation`).

    Args:
        model: the network that `groups` were found for; it is not changed.
        groups: from `find_groups`.
        orders: for each group to reorder, a permutation of its channels, int64 (channels,).

    Raises:
        KeyError, ValueError: no such group, or no permutation of its channels.

    Chapter 3, Sparsity: patterns.
    """
    _check(model, groups, {})
    places: dict[str, dict[int, Tensor]] = {}
    for name, order in orders.items():
        group = groups[name]
        if not torch.equal(order.cpu().sort().values, torch.arange(group.size)):
            raise ValueError(f"orders[{name!r}] is no permutation of {group.size} channels")
        for member in group.members:
            full = torch.arange(groups.shapes[member.tensor][member.dim])
            index = places.setdefault(member.tensor, {}).setdefault(member.dim, full)
            index[member.indices.flatten()] = member.indices[order.cpu()].flatten()
    changes = {n: partial(_select, indices=dims) for n, dims in places.items()}
    permuted = _copy_with(model, changes)
    if not groups.simple:
        _verify(permuted, model, {}, groups.example)
    return permuted


def load_pruned(model: nn.Module, path: Path | str, *, sha256: str | None = None) -> nn.Module:
    """A copy of `model` cut to the shapes of a weights file, with its weights, in eval mode.

    `save_weights` of a network that `shrink` made writes such a file: the shapes say which
    channels are left, and the weights are all that is needed.

    Args:
        model: the network before pruning, any weights; it is not changed.
        path: a safetensors file.
        sha256: its expected checksum; not checked if None.

    Raises:
        CheckpointError: the file is missing or damaged, or is no pruned version of `model`.

    Chapter 2, Pruning: structured.
    """
    path = Path(path)
    shapes: dict[str, list[int]] = {}
    if path.is_file():
        try:
            with safe_open(path, "pt") as file:
                shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}
        except SafetensorError as error:
            raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
    state = named_tensors(model)
    changes = {}
    for name in shapes.keys() & state.keys():
        shape, full = shapes[name], state[name].shape
        if len(shape) == len(full) and all(0 < a <= b for a, b in zip(shape, full, strict=True)):
            changes[name] = partial(torch.Tensor.new_zeros, size=tuple(shape))
    smaller = _copy_with(model, changes)
    load_weights_(smaller, path, sha256=sha256)
    return smaller.eval()


def _zeroed(
    model: nn.Module, groups: ChannelGroups, keep: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Copies of the tensors that lose channels, with zeros in the place of those."""
    state = named_tensors(model)
    copies: dict[str, Tensor] = {}
    for name, kept in keep.items():
        for member in groups[name].members:
            if member.role != "statistic":
                tensor = copies.get(member.tensor)
                if tensor is None:
                    tensor = copies[member.tensor] = state[member.tensor].detach().clone()
                gone = member.indices[~kept.cpu()].flatten().to(tensor.device)
                tensor.index_fill_(member.dim, gone, 0.0)
    return copies


def _select(tensor: Tensor, indices: Mapping[int, Tensor]) -> Tensor:
    for dim, index in indices.items():
        tensor = tensor.index_select(dim, index.to(tensor.device))
    return tensor


def _copy_with(model: nn.Module, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> nn.Module:
    """A copy of `model`, the named tensors changed, under each name that they have."""
    state = named_tensors(model)
    memo: dict[int, Tensor] = {}  # deepcopy takes from here what it would copy
    with torch.no_grad():
        for name, change in changes.items():
            old = state[name]
            new = change(old.detach())
            if isinstance(old, nn.Parameter):
                new = nn.Parameter(new, requires_grad=old.requires_grad)
            memo[id(old)] = new
    copied = copy.deepcopy(model, memo)
    for module in copied.modules():
        _match_attributes_(module)
    return copied


def _match_attributes_(module: nn.Module) -> None:
    """Make the numbers that a layer says of itself those of its tensors."""
    if isinstance(module, _ConvNd):
        first, second = module.weight.shape[:2]
        depthwise = module.groups > 1 and module.groups == module.in_channels
        if isinstance(module, _ConvTransposeNd):
            module.groups = first if depthwise else module.groups
            module.in_channels, module.out_channels = first, second * module.groups
        else:
            if depthwise:
                module.groups = first * module.groups // module.out_channels
            module.in_channels, module.out_channels = second * module.groups, first
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _NormBase):
        for tensor in (module.weight, module.running_mean):
            if tensor is not None:
                module.num_features = tensor.shape[0]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.shape[0]


def _check(model: nn.Module, groups: ChannelGroups, keep: Mapping[str, Tensor]) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}
    if shapes != groups.shapes:
        raise ValueError("these groups were found for another network; call find_groups on this")
    for name, kept in keep.items():
        group = groups[name]
        if not isinstance(kept, Tensor) or kept.dtype != torch.bool:
            kind = kept.dtype if isinstance(kept, Tensor) else type(kept).__name__
            raise TypeError(f"keep[{name!r}] is {kind}; a bool tensor is needed, True = stays")
        if kept.shape != (group.size,):
            raise ValueError(
                f"keep[{name!r}] has shape {tuple(kept.shape)}; the group has {group.size} channels"
            )
        if not kept.any():
            raise ValueError(f"keep[{name!r}] keeps no channel; at least one must stay")


def _verify(
    changed: nn.Module, model: nn.Module, tensors_of_model: dict[str, Tensor], example: ModelInput
) -> None:
    """Raise unless `changed` computes what `model` would with some other tensors in it."""
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(
        torch.randn(t.shape, generator=generator).to(t) if t.is_floating_point() else t
        for t in example_inputs(model, example)
    )
    with undisturbed(model):
        copies = tuple(t.clone() for t in inputs)  # a network may write into its inputs
        expected = tensors(torch.func.functional_call(model, tensors_of_model, copies))
    try:
        with undisturbed(changed):
            found = tensors(changed(*inputs))
    except Exception as error:
        raise UnprunableError(
            f"the smaller network does not run ({error}); its code seems to write a number of"
            " channels down. The given network is left as it was."
        ) from error
    for a, b in zip(found, expected, strict=True):
        same = a.shape == b.shape
        if same and b.numel():
            a, b = a.double(), b.double()  # outputs may be whole numbers or bool
            finite = b[b.isfinite()].abs()
            scale = float(finite.max()) if finite.numel() else 0.0
            atol = _TOLERANCE * max(scale, 1e-6)
            same = torch.allclose(a, b, rtol=0, atol=atol, equal_nan=True)
        if not same:
            raise UnprunableError(
                "the smaller network computes something else than the masked one: its code does"
                " something with channels that cannot be followed. The given network is left as"
                " it was."
            )
