# SPDX-License-Identifier: Apache-2.0
"""EDM's networks as workloads by shape: what SQ-DM was published on, and whose weights are out of reach here.

Interface: `NETWORKS[name]` -> layers, evaluations, and what was derived of them before (`D01`…`D04` of the specification note).
Layers follow NVlabs' code (`training/networks.py`: SongUNet as DDPM++, DhariwalUNet as ADM) module by module.

A step of EDM's Heun sampler evaluates the network twice, the last step once: 18, 40 and 256 steps are 35, 79 and 511
evaluations, and an evaluation is what this product calls a step. What this file does not do: compute anything on values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Kind = Literal["conv", "linear", "product"]


@dataclass(frozen=True, slots=True)
class Shape:
    """One layer: rows × K by K × N."""

    name: str
    block: str
    """The residual block it belongs to, or nothing."""
    kind: Kind
    rows: int
    channels: int
    """Of its input."""
    taps: int
    n: int
    by_activation: bool
    """Whether it stands behind the activation that becomes a ReLU."""

    @property
    def macs(self) -> int:
        return self.rows * self.channels * self.taps * self.n

    @property
    def weights(self) -> int:
        return 0 if self.kind == "product" else self.channels * self.taps * self.n


@dataclass(frozen=True)
class Network:
    """A network at batch 1."""

    name: str
    pixels: int
    """Of a side."""
    width: int
    multiples: tuple[int, ...]
    blocks: int
    """A level."""
    attention: tuple[int, ...]
    """Resolutions."""
    labels: int
    adm: bool
    """ADM (Dhariwal and Nichol) instead of DDPM++."""
    heun_steps: int

    @property
    def evaluations(self) -> int:
        """Of the network in one picture."""
        return heun_evaluations(self.heun_steps)

    @cached_property
    def layers(self) -> tuple[Shape, ...]:
        return tuple(_layers(self))

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def conv_activation_macs(self) -> int:
        return sum(layer.macs for layer in self.layers if layer.by_activation)

    @property
    def residual_blocks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(layer.block for layer in self.layers if layer.by_activation))

    @property
    def weights(self) -> int:
        return sum(layer.weights for layer in self.layers)

    def four_bit_macs(self, kept_at_each_end: int = 1) -> int:
        """Behind an activation, in all residual blocks but so many at each end."""
        names = self.residual_blocks
        four = set(names[kept_at_each_end : len(names) - kept_at_each_end])
        return sum(layer.macs for layer in self.layers if layer.by_activation and layer.block in four)


def heun_evaluations(steps: int) -> int:
    """Heun corrects every step but the last, which ends at noise 0."""
    return 2 * steps - 1


def _layers(net: Network) -> Iterator[Shape]:
    emb = 4 * net.width
    last = len(net.multiples) - 1
    yield Shape("map_layer0", "", "linear", 1, net.width, 1, emb, False)
    yield Shape("map_layer1", "", "linear", 1, emb, 1, emb, False)
    if net.labels:
        yield Shape("map_label", "", "linear", 1, net.labels, 1, emb if net.adm else net.width, False)
    if not net.adm:
        yield Shape("map_augment", "", "linear", 1, 9, 1, net.width, False)
    skips: list[int] = []
    channels = 3
    for level, multiple in enumerate(net.multiples):
        side = net.pixels >> level
        if level == 0:
            out = net.width * (multiple if net.adm else 1)
            yield Shape("enc.conv", "", "conv", side * side, channels, 9, out, False)
            channels = out
        else:
            yield from _block(net, f"enc.{side}_down", side, channels, channels, False, resamples=True)
        skips.append(channels)
        for at in range(net.blocks):
            out = net.width * multiple
            yield from _block(net, f"enc.{side}_block{at}", side, channels, out, side in net.attention)
            channels = out
            skips.append(channels)
    for level in range(last, -1, -1):
        side = net.pixels >> level
        if level == last:
            yield from _block(net, f"dec.{side}_in0", side, channels, channels, True)
            yield from _block(net, f"dec.{side}_in1", side, channels, channels, False)
        else:
            yield from _block(net, f"dec.{side}_up", side, channels, channels, False, resamples=True)
        for at in range(net.blocks + 1):
            out = net.width * net.multiples[level]
            attends = side in net.attention and (net.adm or at == net.blocks)
            yield from _block(net, f"dec.{side}_block{at}", side, channels + skips.pop(), out, attends)
            channels = out
    yield Shape("dec.conv", "", "conv", net.pixels**2, channels, 9, 3, False)


def _block(
    net: Network, name: str, side: int, channels: int, out: int, attends: bool, resamples: bool = False
) -> Iterator[Shape]:
    """Convolutions run at the block's own resolution: resampling comes before them."""
    pixels = side * side
    yield Shape(f"{name}.conv0", name, "conv", pixels, channels, 9, out, True)
    yield Shape(f"{name}.affine", name, "linear", 1, 4 * net.width, 1, out * (2 if net.adm else 1), False)
    yield Shape(f"{name}.conv1", name, "conv", pixels, out, 9, out, True)
    if channels != out or (resamples and not net.adm):
        yield Shape(f"{name}.skip", name, "conv", pixels, channels, 1, out, False)
    if attends:
        yield Shape(f"{name}.qkv", name, "conv", pixels, out, 1, 3 * out, False)
        yield Shape(f"{name}.qk", name, "product", pixels, out, 1, pixels, False)
        yield Shape(f"{name}.pv", name, "product", pixels, pixels, 1, out, False)
        yield Shape(f"{name}.proj", name, "conv", pixels, out, 1, out, False)


NETWORKS = {
    net.name: net
    for net in (
        Network("edm-cifar10", 32, 128, (2, 2, 2), 4, (16,), 10, False, 18),
        Network("edm-ffhq", 64, 128, (1, 2, 2, 2), 4, (16,), 0, False, 40),
        Network("edm-imagenet64", 64, 192, (1, 2, 3, 4), 3, (32, 16, 8), 1000, True, 256),
    )
}
"""CIFAR-10; FFHQ and AFHQv2, which share one; ImageNet-64."""
