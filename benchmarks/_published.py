"""The published latencies that the model of absent machines is fitted and judged on, and what each model costs.

The tables (published_latency.csv, devices.csv) are no part of this repository. A row becomes a `Row` where its length
or resolution, batch and precision are stated and the model's cost is known: by formula, or counted on the layers.
"""

from __future__ import annotations

import csv
import datetime
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdexport.nouns.graph import GraphCost
from kdexport.nouns.profile import DeviceClass, Facts, HardwareProfile, Number, Precision, Text

COLLECTED = "2026-11-24"
RUNTIMES = ("tensorrt", "onnxruntime", "openvino", "pytorch", "tflite", "armnn", "ncnn", "mnn")
PRECISIONS: dict[str, Precision] = {"fp32": "fp32", "fp32/tf32": "fp32", "fp16": "fp16", "int8": "int8"}

# Fused graph at 640 x 640: FLOPs, parameters, values written by convolutions, convolutions. Counted with hooks on
# DetectionModel of ultralytics 8.4.190, 2026-11-24; FLOPs agree with docs.ultralytics.com/models/yolo11.
YOLO11 = {
    "n": (6_481_062_400, 2_616_248, 17_595_200, 88),
    "s": (21_466_880_000, 9_443_760, 32_065_600, 88),
    "m": (67_981_568_000, 20_091_712, 68_571_200, 113),
    "l": (86_910_208_000, 25_340_992, 88_129_600, 174),
    "x": (194_903_808_000, 56_919_424, 131_572_800, 174),
}
# (kernel, expanded, out, squeeze, stride), Howard et al. 2019, tables 1 and 2.
MOBILENET_V3 = {
    "large": (
        (3, 16, 16, 0, 1), (3, 64, 24, 0, 2), (3, 72, 24, 0, 1), (5, 72, 40, 1, 2), (5, 120, 40, 1, 1),
        (5, 120, 40, 1, 1), (3, 240, 80, 0, 2), (3, 200, 80, 0, 1), (3, 184, 80, 0, 1), (3, 184, 80, 0, 1),
        (3, 480, 112, 1, 1), (3, 672, 112, 1, 1), (5, 672, 160, 1, 2), (5, 960, 160, 1, 1), (5, 960, 160, 1, 1),
    ),
    "small": (
        (3, 16, 16, 1, 2), (3, 72, 24, 0, 2), (3, 88, 24, 0, 1), (5, 96, 40, 1, 2), (5, 240, 40, 1, 1),
        (5, 240, 40, 1, 1), (5, 120, 48, 1, 1), (5, 144, 48, 1, 1), (5, 288, 96, 1, 2), (5, 576, 96, 1, 1),
        (5, 576, 96, 1, 1),
    ),
}  # fmt: skip
RETINANET_CLASSES = 264  # OpenImages subset of MLPerf
RETINANET_ANCHORS = 9


@dataclass
class Tally:
    """Adds up one image through a convolutional network. A fused activation is free."""

    flops: float = 0.0
    params: int = 0
    activations: float = 0.0
    operators: int = 0

    def conv(self, size: int, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> int:
        """One convolution with bias on size x size pixels; returns the output size."""
        out = -(-size // stride)
        weights = c_out * (c_in // groups) * kernel * kernel
        self.flops += 2 * out * out * weights
        self.params += weights + c_out
        self.activations += out * out * c_out
        self.operators += 1
        return out

    def pool_and_classify(self, channels: int, classes: int) -> None:
        self.operators += 1
        self.conv(1, channels, classes, 1)

    def add(self, size: int, channels: int) -> None:
        """One element-wise operator: a residual sum, a gate."""
        self.operators += 1
        self.activations += size * size * channels

    def inverted_residual(self, size: int, c_in: int, c_out: int, kernel: int, stride: int, expand: int) -> int:
        hidden = c_in * expand
        if expand != 1:
            self.conv(size, c_in, hidden, 1)
        size = self.conv(size, hidden, hidden, kernel, stride, groups=hidden)
        self.conv(size, hidden, c_out, 1)
        if stride == 1 and c_in == c_out:
            self.add(size, c_out)
        return size

    def cost(self, batch: int) -> GraphCost:
        return GraphCost(
            flops=self.flops * batch,
            weight_bytes=4 * self.params,
            activation_bytes=4 * self.activations * batch,
            num_operators=self.operators,
            num_params=self.params,
            tokens=batch,
        )


def divisible_by_8(channels: float) -> int:
    """Channel rounding of the MobileNet and EfficientNet papers' code."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def mobilenet_v1(width: float, size: int) -> Tally:
    """Howard et al. 2017, table 1; 1,001 classes as TensorFlow ships it."""
    tally, channels = Tally(), divisible_by_8(32 * width)
    size = tally.conv(size, 3, channels, 3, 2)
    layers = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for out, stride in layers:
        size = tally.conv(size, channels, channels, 3, stride, groups=channels)
        tally.conv(size, channels, divisible_by_8(out * width), 1)
        channels = divisible_by_8(out * width)
    tally.pool_and_classify(channels, 1001)
    return tally


def mobilenet_v2(width: float, size: int) -> Tally:
    """Sandler et al. 2018, table 2."""
    tally, channels = Tally(), divisible_by_8(32 * width)
    size = tally.conv(size, 3, channels, 3, 2)
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expand, out, repeats, stride in stages:
        for i in range(repeats):
            width_out = divisible_by_8(out * width)
            size = tally.inverted_residual(size, channels, width_out, 3, stride if i == 0 else 1, expand)
            channels = width_out
    last = divisible_by_8(1280 * max(1.0, width))
    tally.conv(size, channels, last, 1)
    tally.pool_and_classify(last, 1001)
    return tally


def mobilenet_v3(variant: str, size: int, minimalistic: bool) -> Tally:
    """Howard et al. 2019; minimalistic: every kernel 3 x 3, no squeeze-and-excitation (the authors' model page)."""
    tally, channels = Tally(), 16
    size = tally.conv(size, 3, channels, 3, 2)
    for kernel, hidden, out, squeeze, stride in MOBILENET_V3[variant]:
        before = size
        if hidden != channels:
            tally.conv(size, channels, hidden, 1)
        size = tally.conv(size, hidden, hidden, 3 if minimalistic else kernel, stride, groups=hidden)
        if squeeze and not minimalistic:
            tally.operators += 1  # the mean over pixels
            tally.conv(1, hidden, divisible_by_8(hidden / 4), 1)
            tally.conv(1, divisible_by_8(hidden / 4), hidden, 1)
            tally.add(size, hidden)
        tally.conv(size, hidden, out, 1)
        if before == size and channels == out:
            tally.add(size, out)
        channels = out
    tally.conv(size, channels, 6 * channels, 1)
    tally.operators += 1
    last = 1280 if variant == "large" else 1024
    tally.conv(1, 6 * channels, last, 1)
    tally.conv(1, last, 1001, 1)
    return tally


def efficientnet_lite(variant: int, size: int) -> Tally:
    """EfficientNet-B without squeeze-and-excitation; stem, head, first and last stage are not scaled."""
    width, depth = [(1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8)][variant]
    tally, channels = Tally(), 32
    size = tally.conv(size, 3, channels, 3, 2)
    stages = [
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3),
    ]  # fmt: skip
    for stage, (expand, out, repeats, stride, kernel) in enumerate(stages):
        for i in range(repeats if stage in (0, 6) else math.ceil(repeats * depth)):
            width_out = divisible_by_8(out * width)
            size = tally.inverted_residual(size, channels, width_out, kernel, stride if i == 0 else 1, expand)
            channels = width_out
    tally.conv(size, channels, 1280, 1)
    tally.pool_and_classify(1280, 1000)
    return tally


def residual_stages(tally: Tally, size: int, groups: int = 1) -> list[int]:
    """The convolutions of a ResNet-50 (He et al. 2016, table 1, stride on the 3x3 convolution, sums fused), or of a
    ResNeXt-50 32x4d where groups is 32 (Xie et al. 2017, table 1); returns the size after each of the four stages."""
    size = tally.conv(size, 3, 64, 7, 2)
    size = -(-size // 2)
    tally.add(size, 64)  # pooling
    channels, sizes = 64, []
    for width, repeats, first_stride in [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)]:
        inner = width if groups == 1 else 2 * width
        for i in range(repeats):
            stride = first_stride if i == 0 else 1
            if i == 0:
                tally.conv(size, channels, 4 * width, 1, stride)
            tally.conv(size, channels, inner, 1)
            size = tally.conv(size, inner, inner, 3, stride, groups)
            tally.conv(size, inner, 4 * width, 1)
            channels = 4 * width
        sizes.append(size)
    return sizes


def resnet50(size: int) -> Tally:
    tally = Tally()
    residual_stages(tally, size)
    tally.pool_and_classify(2048, 1000)
    return tally


def retinanet(size: int) -> Tally:
    """MLPerf's: ResNeXt-50 32x4d, a pyramid of five levels, two heads of five convolutions (Lin et al. 2017)."""
    tally = Tally()
    levels = residual_stages(tally, size, groups=32)[1:]
    for level, channels in zip(levels, (512, 1024, 2048), strict=True):
        tally.conv(level, channels, 256, 1)
        tally.conv(level, 256, 256, 3)
    levels.append(tally.conv(levels[-1], 256, 256, 3, 2))
    levels.append(tally.conv(levels[-1], 256, 256, 3, 2))
    shared = Tally()
    for outputs in (RETINANET_ANCHORS * RETINANET_CLASSES, RETINANET_ANCHORS * 4):
        for c_out in (256, 256, 256, 256, outputs):
            for level in levels:
                tally.conv(level, 256, c_out, 3)
            shared.conv(1, 256, c_out, 3)
    tally.params -= (len(levels) - 1) * shared.params  # all levels share the heads
    return tally


def bert(layers: int, hidden: int, tokens: int, batch: int) -> GraphCost:
    """Encoder with intermediate size 4 x hidden; 8 kernels a layer after fusion, 4 for embeddings and head.

    FLOPs a layer: 24 T D^2 for the six matrices, 4 T^2 D for the scores and the weighted sum."""
    positions = tokens * batch
    return GraphCost(
        flops=layers * (24 * positions * hidden**2 + 4 * positions * tokens * hidden) + 2 * batch * hidden**2,
        weight_bytes=4 * (12 * layers + 1) * hidden**2,
        activation_bytes=4 * 13 * layers * positions * hidden,
        num_operators=8 * layers + 4,
        num_params=(12 * layers + 1) * hidden**2,
        tokens=positions,
    )


def yolo11(variant: str, size: int, batch: int) -> GraphCost:
    flops, params, activations, operators = YOLO11[variant]
    pixels = (size / 640) ** 2
    return GraphCost(
        flops=flops * pixels * batch,
        weight_bytes=4 * params,
        activation_bytes=4 * activations * pixels * batch,
        num_operators=operators,
        num_params=params,
        tokens=batch,
    )


def cost_of(model: str, size: int, batch: int) -> GraphCost | None:
    """The cost of a published model at a sequence length or resolution; None where it is not known."""
    if match := re.fullmatch(r"bert-(base|large)(-cased)?", model):
        return bert(12, 768, size, batch) if match[1] == "base" else bert(24, 1024, size, batch)
    if match := re.fullmatch(r"yolo11([nsmlx])", model):
        return yolo11(match[1], size, batch)
    tally = convolutional(model, size)
    return None if tally is None else tally.cost(batch)


def convolutional(model: str, size: int) -> Tally | None:
    if model in ("resnet50", "resnet-50"):
        return resnet50(size)
    if model == "retinanet":
        return retinanet(size)
    if match := re.fullmatch(r"mobilenet-v1-([\d.]+)", model):
        return mobilenet_v1(float(match[1]), size)
    if match := re.fullmatch(r"mobilenet-v2(?:-([\d.]+))?", model):
        return mobilenet_v2(float(match[1] or 1), size)
    if match := re.fullmatch(r"mobilenet-v3-(large|small)(-minimalistic)?", model):
        return mobilenet_v3(match[1], size, minimalistic=bool(match[2]))
    if match := re.fullmatch(r"efficientnet-lite(\d)", model):
        return efficientnet_lite(int(match[1]), size)
    return None


# ---- rows ----


@dataclass(frozen=True)
class Row:
    """One published latency with what the estimate needs to know of it."""

    profile: HardwareProfile
    model: str
    runtime: str
    cost: GraphCost
    precision: Precision
    cores: int | None  # that the run used; None: all
    published_ms: float

    @property
    def device(self) -> str:
        return self.profile.id


@dataclass(frozen=True)
class Published:
    rows: tuple[Row, ...]
    left_out: dict[str, int]  # reason -> rows of metric latency_ms


def read_rows(folder: Path) -> Published:
    """Every row of metric latency_ms, or the reason why it is none. Raises OSError where a table is absent."""
    with open(folder / "devices.csv", newline="") as f:
        profiles = {d["device_id"]: profile_of(d) for d in csv.DictReader(f)}
    rows: list[Row] = []
    left_out: dict[str, int] = {}
    with open(folder / "published_latency.csv", newline="") as f:
        for published in csv.DictReader(f):
            if published["metric"] != "latency_ms":
                continue
            found = _row(published, profiles)
            if isinstance(found, str):
                left_out[found] = left_out.get(found, 0) + 1
            else:
                rows.append(found)
    return Published(tuple(rows), left_out)


def _row(published: dict[str, str], profiles: dict[str, HardwareProfile]) -> Row | str:
    model, size, precision = published["model"], published["seq_or_resolution"], published["precision"]
    if "padded 384" in published["runtime"]:  # MLPerf's references pad every query, and are BERT-large
        model, size = "bert-large", "384"
    if model.startswith("gptj"):
        return "text generation: a latency of many runs"
    if not size.isdigit():
        return "sequence length varies or is not stated"
    if precision not in PRECISIONS:
        return "precision is not stated"
    cost = cost_of(model, int(size), int(published["batch"]))
    if cost is None:
        return f"cost of {model} is not known"
    runtime = published["runtime"]
    return Row(
        profile=profiles[published["device_id"]],
        model=model,
        runtime=runtime_name(runtime),
        cost=cost,
        precision=PRECISIONS[precision],
        cores=1 if "single-threaded" in runtime else 8 if "8 vCPU" in runtime else None,
        published_ms=float(published["value"]),
    )


def runtime_name(text: str) -> str:
    """'TensorRT 8.6' and 'TensorRT demoBERT (average ...)' are one. Raises StopIteration for one not in RUNTIMES."""
    flat = text.lower().replace(" ", "")
    return next(name for name in RUNTIMES if name in flat)


def profile_of(device: dict[str, str]) -> HardwareProfile:
    """A row of devices.csv as the noun that users write; '8P+16E' is 24 cores."""
    sourced = {"source": "devices.csv", "date": datetime.date.fromisoformat(COLLECTED)}

    def number(text: str) -> Number | None:
        return Number.model_validate({"value": float(text), **sourced}) if text else None

    is_gpu = device["class"].endswith("gpu")
    architecture = Text.model_validate({"value": device["compute_capability_or_isa"], **sourced})
    cores = sum(int(n) for n in re.findall(r"\d+", device["cores_or_sms"]))
    device_class: DeviceClass = device["class"]  # type: ignore[assignment]
    return HardwareProfile(
        id=device["device_id"],
        name=device["name"],
        device_class=device_class,
        vendor=device["vendor"],
        host="x86-64"
        if "x86" in device["compute_capability_or_isa"] or device_class == "datacenter-gpu"
        else "aarch64",
        facts=Facts(
            cores=number(str(cores)),
            memory_bandwidth_gb_per_s=number(device["memory_bandwidth_gb_per_s"]),
            peak_fp32_tflops=number(device["peak_fp32_tflops"]),
            peak_fp16_tflops=number(device["peak_fp16_dense_tflops"]),
            peak_bf16_tflops=number(device["peak_bf16_dense_tflops"]),
            peak_int8_tops=number(device["peak_int8_dense_tops"]),
            compute_capability=architecture if is_gpu else None,
            isa=None if is_gpu else architecture,
        ),
    )


def by_device(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return {device: [r for r in rows if r.device == device] for device in sorted({r.device for r in rows})}
