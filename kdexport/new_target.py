"""`kdexport targets new`: a commented target file for a known device, checked before it is there.

What is not said is taken from the class of the device, and a comment in the file says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from kdexport import catalogue
from kdexport.errors import BadInput, KdexportError, unknown_name
from kdexport.initialise import _line as line
from kdexport.initialise import _quoted as quoted
from kdexport.nouns.profile import DeviceClass, HardwareProfile, Offering, Precision
from kdexport.nouns.target import LOCAL, Target
from kdexport.runtimes import load_runtime
from kdexport.storage.files import replacing
from kdexport.storage.yaml_documents import read_noun

RATES: dict[DeviceClass, tuple[float, float]] = {  # requests per second: mean, peak
    "edge-cpu": (0.5, 5),
    "edge-gpu": (10, 30),
    "cpu": (50, 150),
    "datacenter-gpu": (200, 600),
}
ON_A_DESK = (5.0, 20.0)  # a CPU that is owned answers fewer than one in a cloud
GPU_RUNTIMES = ("tensorrt_rtx", "tensorrt")  # the first is built without the GPU, where it serves
CPU_RUNTIMES = {"x86-64": ("onnxruntime", "openvino"), "aarch64": ("onnxruntime",)}
GPU_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
CPU_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


@dataclass(frozen=True)
class Wishes:
    """The command line, as given; None: not said."""

    profile: str
    p99_ms: float
    offering: str | None = None
    name: str | None = None
    runtimes: Sequence[str] = ()
    precisions: Sequence[Precision] = ()
    mean_requests_per_s: float | None = None
    peak_requests_per_s: float | None = None
    max_bytes: int | None = None
    description: str | None = None


def new_target(wishes: Wishes, out: Path | None = None, force: bool = False) -> tuple[Path, Target]:
    """(file written, the target in it). Without `out` beside you, named after the target; whole or not at all.

    Raises BadInput for a name that is not known, a runtime that cannot serve there, rates that contradict each other,
    a file that is there (unless `force`)."""
    profile = None if wishes.profile == LOCAL else catalogue.profile(wishes.profile, "--profile")
    name = wishes.name or (out.stem if out else f"{wishes.profile}-p99-{wishes.p99_ms:g}ms")
    path = out or Path(f"{name}.yaml")
    if path.suffix not in catalogue.SUFFIXES:
        raise BadInput(f"{path}: a target file ends in .yaml")
    if path.exists() and not force:
        raise BadInput(f"{path}: is there already; --force writes over it, --out chooses another name")
    text = _text(wishes, name, profile)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        try:
            target = read_noun(temporary, Target)
        except KdexportError as e:
            raise type(e)(str(e).replace(str(temporary), str(path))) from e
    return path, target


def _text(wishes: Wishes, name: str, profile: HardwareProfile | None) -> str:
    offering = _offering(wishes.offering, profile)
    rented = offering is not None and offering.kind == "rented"
    runtimes = wishes.runtimes or _runtimes(profile)
    precisions = wishes.precisions or (GPU_PRECISIONS if profile and profile.is_gpu else CPU_PRECISIONS)
    for runtime in runtimes:
        _can_serve(runtime, precisions, profile)
    mean, peak, assumed = _rates(wishes, profile, rented)
    description = wishes.description or _described(profile, offering)
    lines = [
        f"# {description}, written by `kdexport targets new`.",
        f"id: {quoted(name)}",
        f"description: {quoted(description)}",
        f"profile: {wishes.profile}",
        *_offering_lines(offering, profile, chosen=wishes.offering is not None),
        f"runtimes: [{', '.join(runtimes)}]",
        f"precisions: [{', '.join(precisions)}]",
        f"objective: {{percentile: 99, limit_ms: {wishes.p99_ms!r}, scope: end_to_end, "
        f"scenario: {'server' if rented else 'single_stream'}}}",
        line(
            f"traffic: {{mean_requests_per_s: {mean!r}, peak_requests_per_s: {peak!r}, "
            f"assumed: {str(assumed).lower()}}}",
            "look at the real traffic" if assumed else "as you said",
        ),
    ]
    if wishes.max_bytes:
        lines.append(f"limits: {{artifact_bytes: {wishes.max_bytes}}}")
    spare = "replicas kept beyond what the peak needs" if rented else "a device of one's own has no spare"
    lines.append(line(f"redundancy: {int(rented)}", spare))
    return "\n".join(lines) + "\n"


def _offering(name: str | None, profile: HardwareProfile | None) -> Offering | None:
    """The one named; else the cheapest device-hour that is rented, else what can be bought, else none."""
    offerings = profile.offerings if profile else ()
    if name is not None:
        found = next((o for o in offerings if o.id == name), None)
        if found is None and not offerings:
            raise BadInput(f"--offering {name}: this device has no offering; leave it out, and the cost stays blank")
        if found is None:
            raise unknown_name("offering", name, [o.id for o in offerings], "--offering")
        return found
    rented = [(o.price_usd_per_hour.value / o.devices, o.id, o) for o in offerings if o.price_usd_per_hour]
    return min(rented)[2] if rented else next(iter(offerings), None)


def _offering_lines(offering: Offering | None, profile: HardwareProfile | None, chosen: bool) -> list[str]:
    if offering is None:
        return [line("# offering:", "none is known for this device: its cost stays blank")]
    others = len(profile.offerings) - 1 if profile else 0
    why = "as you said" if chosen else "the cheapest known" if others else "the only one known"
    return [line(f"offering: {offering.id}", f"{why}; all: kdexport profiles show {profile.id if profile else ''}")]


def _runtimes(profile: HardwareProfile | None) -> tuple[str, ...]:
    if profile is None:
        return CPU_RUNTIMES["x86-64"]
    if not profile.is_gpu:
        return CPU_RUNTIMES[profile.host]
    reasons = {name: load_runtime(name).unsupported("fp16", profile) for name in GPU_RUNTIMES}
    if all(reasons.values()):
        raise BadInput(f"--profile {profile.id}: no runtime serves it: {reasons['tensorrt']}")
    return tuple(name for name, reason in reasons.items() if reason is None)


def _can_serve(runtime: str, precisions: Sequence[Precision], profile: HardwareProfile | None) -> None:
    loaded = load_runtime(runtime, "--runtime")
    if profile is None:
        return
    reasons = [loaded.unsupported(precision, profile) for precision in precisions]
    if all(reasons):
        raise BadInput(f"--runtime {runtime}: cannot serve there: {reasons[0]}")


def _rates(wishes: Wishes, profile: HardwareProfile | None, rented: bool) -> tuple[float, float, bool]:
    """(mean, peak, assumed); what is not said keeps the proportion of the class's default."""
    owned_cpu = profile is None or (profile.device_class == "cpu" and not rented)
    default_mean, default_peak = ON_A_DESK if owned_cpu else RATES[cast(HardwareProfile, profile).device_class]
    mean, peak = wishes.mean_requests_per_s, wishes.peak_requests_per_s
    if mean is not None and peak is not None and peak < mean:
        raise BadInput(f"--peak-rps {peak:g} is below --rps {mean:g}; the peak is the busiest second of the year")
    if mean is None:
        mean = default_mean if peak is None else peak * default_mean / default_peak
    if peak is None:
        peak = mean * default_peak / default_mean
    return mean, peak, wishes.mean_requests_per_s is None or wishes.peak_requests_per_s is None


def _described(profile: HardwareProfile | None, offering: Offering | None) -> str:
    if profile is None:
        return "This machine's CPU"
    if offering is None or offering.kind == "owned":
        return profile.name
    cloud = {"aws": "AWS", "gcp": "GCP", "azure": "Azure"}
    provider, _, region = offering.region.partition(" ")
    return f"{cloud.get(provider, provider)} {offering.instance} in {region}"
