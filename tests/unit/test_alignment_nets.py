"""ConvNets of many makes, with their channels moved: found, undone, and strangers left alone.

Each make is a small network that says itself which axes of which tensors are which channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lineage import compare
from lineage.alignment import ChainAlignment, align, aligned, described
from lineage.alignment.certificate import from_bytes, to_bytes
from lineage.artifacts import read
from lineage.errors import ArchitectureError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Weights = dict[str, NDArray[Any]]

EPSILON = 1e-5


class Net:
    """Weights, and of which groups of channels their axes are.

    Attributes:
        weights: By name.
        axes: Name, axis, and the groups that are there one after another.
        sizes: Of the groups.
        behind: Norm -> the layer that it may be folded into.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.weights: Weights = {}
        self.axes: list[tuple[str, int, tuple[int, ...]]] = []
        self.sizes: list[int] = []
        self.behind: dict[str, str] = {}

    def width(self, groups: Sequence[int]) -> int:
        return sum(self.sizes[group] for group in groups)

    def layer(
        self, name: str, out: int, into: Sequence[int], size: int = 1, *, to: int = -1
    ) -> int:
        """Add a layer, of channels of its own or of a known group; colours are read by none."""
        rows = to if to >= 0 else len(self.sizes)
        if to < 0:
            self.sizes.append(out)
        shape = (out, self.width(into) or 3, size, size)
        self.put(f"{name}.weight", shape if size else shape[:2], (rows,))
        if into:
            self.axes.append((f"{name}.weight", 1, tuple(into)))
        return rows

    def filters(self, name: str, group: int, size: int = 3) -> None:
        """Add filters of single channels."""
        self.put(f"{name}.weight", (self.sizes[group], 1, size, size), (group,))

    def norm(self, name: str, groups: Sequence[int], behind: str = "") -> None:
        """Add batch normalization."""
        size = self.width(groups)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            self.put(f"{name}.{leaf}", (size,), groups)
        self.weights[f"{name}.running_var"] = self.rng.uniform(0.5, 2, size).astype("f4")
        if behind:
            self.behind[name] = behind

    def put(
        self, name: str, shape: tuple[int, ...], groups: Sequence[int], *, axis: int = 0
    ) -> None:
        """Add a tensor, of whose axes one is of some groups."""
        spread = 1.0 if len(shape) > 1 and shape[-1:] != (1, 1) else 0.4
        self.weights[name] = self.rng.normal(0, spread, shape).astype("f4")
        self.axes.append((name, axis, tuple(groups)))

    def head(self, name: str, into: Sequence[int], size: int = 0) -> None:
        """Add a classifier."""
        shape = (10, self.width(into)) + ((1, 1) if size else ())
        self.weights[f"{name}.weight"] = self.rng.normal(0, 1, shape).astype("f4")
        self.weights[f"{name}.bias"] = self.rng.normal(0, 1, 10).astype("f4")
        self.axes.append((f"{name}.weight", 1, tuple(into)))


def moved(net: Net, seed: int = 7) -> Weights:
    """Return a network's weights with the channels of every group in another order."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(size) for size in net.sizes]
    found = dict(net.weights)
    for name, axis, groups in net.axes:
        starts = np.cumsum([0, *(net.sizes[group] for group in groups)])
        whole = np.concatenate([orders[g] + at for g, at in zip(groups, starts, strict=False)])
        found[name] = np.take(found[name], whole, axis)
    return found


def folded(net: Net, weights: Weights, epsilon: float = EPSILON) -> Weights:
    """Return weights with norms folded into the layers in front of them."""
    found = dict(weights)
    for norm, layer in net.behind.items():
        gain = found.pop(f"{norm}.weight") / np.sqrt(found.pop(f"{norm}.running_var") + epsilon)
        matrix = found[f"{layer}.weight"]
        found[f"{layer}.weight"] = matrix * gain.reshape(-1, *[1] * (matrix.ndim - 1))
        shift = found.pop(f"{norm}.bias") - gain * found.pop(f"{norm}.running_mean")
        found[f"{layer}.bias"] = (shift + gain * found.pop(f"{layer}.bias", 0)).astype("f4")
    return found


def convnext(seed: int, names: str = "torchvision") -> Net:
    """Return a ConvNeXt of two stages: wide filters, LayerNorm, two linear layers, a scale."""
    spelled = {
        "torchvision": ("features.0.0", "features.0.1", "features.{0}.{1}", "block.0", "block.2",
                        "block.3", "block.5", "layer_scale", "features.2"),
        "timm": ("stem.0", "stem.1", "stages.{2}.blocks.{1}", "conv_dw", "norm", "mlp.fc1",
                 "mlp.fc2", "gamma", "stages.1.downsample"),
        "facebook": ("downsample_layers.0.0", "downsample_layers.0.1", "stages.{2}.{1}", "dwconv",
                     "norm", "pwconv1", "pwconv2", "gamma", "downsample_layers.1"),
        "transformers": ("convnext.embeddings.patch_embeddings", "convnext.embeddings.layernorm",
                         "convnext.encoder.stages.{2}.layers.{1}", "dwconv", "layernorm", "pwconv1",
                         "pwconv2", "layer_scale_parameter",
                         "convnext.encoder.stages.1.downsampling_layer"),
    }[names]  # fmt: skip
    stem, first, block, wide, norm, up, down, scale, between = spelled
    net = Net(seed)

    def layernorm(name: str, group: int) -> None:
        for leaf in ("weight", "bias"):
            net.put(f"{name}.{leaf}", (net.sizes[group],), (group,))

    at = net.layer(stem, 24, (), 4)
    layernorm(first, at)
    for stage in (0, 1):
        if stage:
            layernorm(f"{between}.0", at)
            at = net.layer(f"{between}.1", 40, (at,), 2)
        for number in (0, 1):
            name = block.format(2 * stage + 1, number, stage)
            net.filters(f"{name}.{wide}", at, 7)
            layernorm(f"{name}.{norm}", at)
            hidden = net.layer(f"{name}.{up}", 4 * net.sizes[at], (at,), 0)
            if names in {"timm", "transformers"}:  # of the second version
                inner = f"{name}.{up.replace('fc1', 'grn').replace('pwconv1', 'grn')}"
                wide_shape = (1,) * 3 * (names == "transformers") + (net.sizes[hidden],)
                for leaf in ("weight", "bias"):
                    net.put(f"{inner}.{leaf}", wide_shape, (hidden,), axis=len(wide_shape) - 1)
            net.layer(f"{name}.{down}", net.sizes[at], (hidden,), 0, to=at)
            shape = (net.sizes[at], 1, 1) if names == "torchvision" else (net.sizes[at],)
            net.put(f"{name}.{scale}", shape, (at,))
    last = {"torchvision": ("classifier.0", "classifier.2"), "timm": ("head.norm", "head.fc"),
            "facebook": ("norm", "head"),
            "transformers": ("convnext.layernorm", "classifier")}[names]  # fmt: skip
    layernorm(last[0], at)
    net.head(last[1], (at,))
    return net


def densenet(seed: int) -> Net:
    """Return a DenseNet: every layer reads what all in front of it wrote, through a norm."""
    net = Net(seed)
    at = [net.layer("features.conv0", 24, (), 3)]
    net.norm("features.norm0", at, "features.conv0")
    for block in (1, 2):
        for layer in (1, 2, 3):
            name = f"features.denseblock{block}.denselayer{layer}"
            net.norm(f"{name}.norm1", at)
            inner = net.layer(f"{name}.conv1", 48, at)
            net.norm(f"{name}.norm2", (inner,), f"{name}.conv1")
            at = [*at, net.layer(f"{name}.conv2", 12, (inner,), 3)]
        if block == 1:
            net.norm("features.transition1.norm", at)
            at = [net.layer("features.transition1.conv", 30, at)]
    net.norm("features.norm5", at)
    net.head("classifier", at)
    return net


def squeezenet(seed: int) -> Net:
    """Return a SqueezeNet: narrowed, then by two sizes of filters put together; a filter tells."""
    net = Net(seed)
    at = [net.layer("features.0", 32, (), 3)]
    for number in (3, 4):
        name = f"features.{number}"
        narrow = net.layer(f"{name}.squeeze", 16, at)
        at = [net.layer(f"{name}.expand{k}x{k}", 32, (narrow,), k) for k in (1, 3)]
    net.head("classifier.1", at, 1)
    return net


def googlenet(seed: int) -> Net:
    """Return an Inception network: four branches of a block are put together."""
    net = Net(seed)

    def layer(name: str, out: int, into: Sequence[int], size: int = 1) -> int:
        group = net.layer(f"{name}.conv", out, into, size)
        net.norm(f"{name}.bn", (group,), f"{name}.conv")
        return group

    at = [layer("conv1", 24, (), 3)]
    for block in ("inception3a", "inception3b"):
        after = [layer(f"{block}.branch1", 16, at)]
        for number in (2, 3):
            inner = layer(f"{block}.branch{number}.0", 20, at)
            after.append(layer(f"{block}.branch{number}.1", 16 * number, (inner,), 3))
        at = [*after, layer(f"{block}.branch4.1", 18, at)]
    net.weights["aux1.fc1.weight"] = np.ones((4, 9), "f4")
    net.head("fc", at)
    return net


def regnet(seed: int) -> Net:
    """Return a RegNet with gates: its shortcuts are called after projections."""
    net = Net(seed)

    def layer(name: str, out: int, into: Sequence[int], size: int = 1, *, to: int = -1) -> int:
        group = net.layer(f"{name}.0", out, into, size, to=to)
        net.norm(f"{name}.1", (group,), f"{name}.0")
        return group

    at = layer("stem", 16, (), 3)
    for number in (0, 1):
        name = f"trunk_output.block1.block1-{number}"
        out = at if number else layer(f"{name}.proj", 32, (at,))
        first = layer(f"{name}.f.a", 32, (at,))
        inner = layer(f"{name}.f.b", 32, (first,), 3)
        gate = net.layer(f"{name}.f.se.fc1", 8, (inner,))
        net.layer(f"{name}.f.se.fc2", 32, (gate,), to=inner)
        layer(f"{name}.f.c", 32, (inner,), to=out)
        at = out
    net.head("fc", (at,))
    return net


def mobilenet(seed: int, names: str = "timm") -> Net:
    """Return a MobileNet as timm calls it, with gates: names do not sort as they are computed."""
    net = Net(seed)
    stem, norm = (
        ("conv_stem", "bn1") if names == "timm" else ("embedder.convolution", "embedder.batchnorm")
    )
    at = net.layer(stem, 16, (), 3)
    net.norm(norm, (at,), stem)
    net.filters("blocks.0.conv_dw", at)
    net.norm("blocks.0.bn1", (at,), "blocks.0.conv_dw")
    for number, (out, times) in enumerate([(24, 3), (24, 1), (32, 3)]):
        name = f"blocks.1.{number}"
        wide = net.layer(f"{name}.conv_pw", times * net.sizes[at], (at,))
        net.norm(f"{name}.bn1", (wide,), f"{name}.conv_pw")
        net.filters(f"{name}.conv_dw", wide)
        net.norm(f"{name}.bn2", (wide,), f"{name}.conv_dw")
        gate = net.layer(f"{name}.se.conv_reduce", 8, (wide,))
        net.layer(f"{name}.se.conv_expand", net.sizes[wide], (gate,), to=wide)
        at = net.layer(f"{name}.conv_pwl", out, (wide,), to=at if number == 1 else -1)
        net.norm(f"{name}.bn3", (at,), f"{name}.conv_pwl")
    net.head("classifier", (at,))
    return net


def dense(seed: int) -> Net:
    """Return a DenseNet that puts what is new in front of what was there."""
    net = Net(seed)
    at = [net.layer("conv1", 24, (), 3)]
    for block in (1, 2):
        for layer in (0, 1, 2):
            name = f"dense{block}.{layer}"
            net.norm(f"{name}.bn1", at)
            inner = net.layer(f"{name}.conv1", 40, at)
            net.norm(f"{name}.bn2", (inner,), f"{name}.conv1")
            at = [net.layer(f"{name}.conv2", 12, (inner,), 3), *at]
        if block == 1:
            net.norm("trans1.bn", at)
            at = [net.layer("trans1.conv", 32, at)]
    net.norm("bn", at)
    net.head("linear", at)
    return net


def unet(seed: int, *, is_skip_first: bool = True) -> Net:
    """Return a U-Net; on the way up it reads what it wrote on the way down, in front or behind."""
    net = Net(seed)

    def double(layers: Sequence[str], norms: Sequence[str], out: int, into: Sequence[int]) -> int:
        for layer, norm in zip(layers, norms, strict=True):
            into = (net.layer(layer, out, into, 3),)
            net.norm(norm, into, layer)
        return into[0]

    if is_skip_first:
        down = [
            "inc.double_conv",
            "down1.maxpool_conv.1.double_conv",
            "down2.maxpool_conv.1.double_conv",
        ]
        stems = [([f"{one}.0", f"{one}.3"], [f"{one}.1", f"{one}.4"]) for one in
                 [*down, "up1.conv.double_conv", "up2.conv.double_conv"]]  # fmt: skip
        ups, last = ["up1.up", "up2.up"], "outc.conv"
    else:
        names = [
            "encoder1.enc1",
            "encoder2.enc2",
            "bottleneck.bottleneck",
            "decoder2.dec2",
            "decoder1.dec1",
        ]
        stems = [([f"{one}conv1", f"{one}conv2"], [f"{one}norm1", f"{one}norm2"]) for one in names]
        ups, last = ["upconv2", "upconv1"], "final"
    widths = (16, 24, 40)
    ways: list[int] = []
    for number, width in enumerate(widths):
        ways.append(double(*stems[number], width, ways[-1:]))
    at = ways[-1]
    for number, (up, width) in enumerate(zip(ups, widths[1::-1], strict=True)):
        rows = len(net.sizes)
        net.sizes.append(width)
        net.put(f"{up}.weight", (net.sizes[at], width, 2, 2), (at,))
        net.axes.append((f"{up}.weight", 1, (rows,)))
        net.put(f"{up}.bias", (width,), (rows,))
        both = (ways[1 - number], rows)
        at = double(*stems[3 + number], width, both if is_skip_first else both[::-1])
    net.head(last, (at,), 1)
    return net


MAKES: dict[str, Callable[[int], Net]] = {
    "convnext": convnext,
    "convnext-timm": lambda seed: convnext(seed, "timm"),
    "convnext-facebook": lambda seed: convnext(seed, "facebook"),
    "convnext-transformers": lambda seed: convnext(seed, "transformers"),
    "densenet": densenet,
    "squeezenet": squeezenet,
    "googlenet": googlenet,
    "regnet": regnet,
    "mobilenet": mobilenet,
    "mobilenet-transformers": lambda seed: mobilenet(seed, "transformers"),
    "dense": dense,
    "unet": unet,
    "unet-behind": lambda seed: unet(seed, is_skip_first=False),
}

every_make = pytest.mark.parametrize("make", list(MAKES.values()), ids=list(MAKES))


def undone(a: Weights, b: Weights) -> Weights:
    """Return b in a's coordinates."""
    found = align(a, b)
    assert isinstance(found, ChainAlignment)
    assert found.related and found.share == 1
    with read(a) as first, read(b) as second:
        one, other = (described(x.items, name="w") for x in (first, second))
        arrays = {}
        for item in aligned(one, other, found).items:
            raw = item.source.piece(0, item.size_bytes, memoryview(bytearray(item.size_bytes)))
            arrays[item.name] = np.frombuffer(bytes(raw), "<f4").reshape(item.shape)
    return arrays


@every_make
def test_moved_channels_are_undone(make: Callable[[int], Net]) -> None:
    net = make(1)
    hidden = moved(net)
    assert align(net.weights, hidden).how == ("permuted",)
    back = undone(net.weights, hidden)
    assert back.keys() == net.weights.keys()
    for name, weights in net.weights.items():
        assert np.linalg.norm(back[name] - weights) <= 1e-5 * np.linalg.norm(weights), name


@every_make
def test_folded_norms_are_undone(make: Callable[[int], Net]) -> None:
    net = make(1)
    hidden = folded(net, moved(net))
    back = undone(net.weights, hidden)
    for name, weights in net.weights.items():
        assert np.linalg.norm(back[name] - weights) <= 1e-5 * np.linalg.norm(weights), name


@pytest.mark.parametrize("make", [googlenet, mobilenet])
def test_norms_that_add_more_to_a_variance_are_undone_as_they_were_folded(
    make: Callable[[int], Net],
) -> None:
    net = make(1)
    hidden = folded(net, moved(net), 1e-3)
    found = align(net.weights, hidden)
    assert isinstance(found, ChainAlignment)
    assert found.epsilon == 1e-3
    again = from_bytes(to_bytes(found, "one", "other"), "one", "other")
    assert isinstance(again, ChainAlignment)
    assert again.epsilon == 1e-3
    back = undone(net.weights, hidden)
    for name, weights in net.weights.items():
        assert np.linalg.norm(back[name] - weights) <= 1e-5 * np.linalg.norm(weights), name


@pytest.mark.parametrize("make", [dense, MAKES["unet-behind"]])
def test_what_is_read_behind_is_said(make: Callable[[int], Net]) -> None:
    found = align(make(1).weights, moved(make(1)))
    assert isinstance(found, ChainAlignment)
    assert found.is_swapped
    again = from_bytes(to_bytes(found, "one", "other"), "one", "other")
    assert isinstance(again, ChainAlignment)
    assert again.is_swapped


@every_make
def test_what_was_trained_on_is_found(make: Callable[[int], Net]) -> None:
    net, rng = make(1), np.random.default_rng(5)
    for name, w in net.weights.items():
        if w.ndim > 1:
            net.weights[name] = (w + 0.2 * w.std() * rng.normal(size=w.shape)).astype("f4")
    back = undone(make(1).weights, moved(net))
    for name, weights in net.weights.items():
        assert np.linalg.norm(back[name] - weights) <= 1e-5 * np.linalg.norm(weights), name


@every_make
def test_strangers_are_no_kin(make: Callable[[int], Net]) -> None:
    for seed in range(10, 14):
        found = align(make(1).weights, moved(make(seed)))
        assert not found.related
        assert found.log10_p > -4
    assert compare(make(1).weights, make(14).weights).related is not True


def test_channels_of_which_but_a_half_is_read_are_refused() -> None:
    """As in CSPNet, whose names sort as if its blocks read something else."""
    net = Net(1)
    at = net.layer("stem.conv1", 24, (), 3)
    down = net.layer("stages.0.conv_down.conv", 32, (at,), 3)
    net.layer("stages.0.conv_exp.conv", 48, (down,))
    inner = net.layer("stages.0.blocks.0.conv1.conv", 24, (at,))
    half = net.layer("stages.0.blocks.0.conv2.conv", 24, (inner,), 3)
    last = net.layer("stages.0.conv_transition.conv", 32, (at, half))
    net.head("head.fc", (last,))
    with pytest.raises(ArchitectureError, match="do not tell what feeds"):
        align(net.weights, net.weights)


def test_channels_that_are_shuffled_are_refused_and_not_denied() -> None:
    """ShuffleNet passes every other channel by its blocks, which neither names nor shapes say."""
    net = Net(1)
    at = net.layer("conv1.0", 24, (), 3)
    half = net.layer("stage2.0.branch2.0", 12, (at,))
    net.filters("stage2.0.branch2.3", half)
    net.layer("stage2.0.branch2.5", 12, (half,))
    last = net.layer("conv5.0", 40, (at,))
    net.head("fc", (last,))
    with pytest.raises(ArchitectureError, match="do not tell what feeds"):
        align(net.weights, net.weights)
    hidden = compare(net.weights, moved(net))
    assert hidden.related is None
    assert "the two were not compared" in hidden.evidence[0].words
