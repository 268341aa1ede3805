"""HardwareProfile: facts of one device in one power mode; Offering: a way to pay for it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from kdexport.nouns import plausible
from kdexport.nouns.base import Noun
from kdexport.nouns.published import PublishedLatency
from kdexport.nouns.sourced import Precision as Precision
from kdexport.nouns.sourced import Sourced as Sourced

DeviceClass = Literal["edge-gpu", "edge-cpu", "cpu", "datacenter-gpu"]
CONFLICT_TOLERANCE = 0.02  # sources that round, or count boost clocks otherwise, differ by less


class OtherSource(Sourced):
    """The same quantity as another source states it, in the same unit."""

    value: Annotated[float, Field(gt=0)]


class Number(Sourced):
    """A positive quantity; its unit is in the name of the key that holds it."""

    value: Annotated[float, Field(gt=0)]
    also: tuple[OtherSource, ...] = Field(default=(), description="what other sources say: confirmed, or a conflict")

    @property
    def conflicts(self) -> tuple[OtherSource, ...]:
        """Other sources that differ by more than CONFLICT_TOLERANCE of the value that is used."""
        return tuple(o for o in self.also if abs(o.value - self.value) > CONFLICT_TOLERANCE * self.value)


class Text(Sourced):
    value: str = Field(min_length=1)


class Facts(Noun):
    """What is known of a device. Missing means not known: never zero, never guessed.

    Peaks are dense (no structured sparsity), per device, in TFLOP/s or TOP/s."""

    cores: Number | None = Field(default=None, description="CPU cores, or GPU streaming multiprocessors")
    memory_gib: Number | None = None
    memory_bandwidth_gb_per_s: Number | None = Field(default=None, description="10^9 bytes per second")
    peak_fp32_tflops: Number | None = None
    peak_fp16_tflops: Number | None = None
    peak_bf16_tflops: Number | None = None
    peak_int8_tops: Number | None = None
    power_w: Number | None = Field(default=None, description="in this power mode")
    clock_mhz: Number | None = Field(default=None, description="highest of a GPU; of a CPU the one its peaks are at")
    sustained_share: Number | None = Field(
        default=None, description="of the peaks, under a load that lasts: what heat or the power limit leaves"
    )
    cooling: Text | None = Field(default=None, description="passive or active")
    l2_cache_bytes: Number | None = Field(default=None, description="of the whole device")
    l3_cache_bytes: Number | None = Field(default=None, description="of the whole device")
    runtime_floor_mib: Number | None = Field(
        default=None,
        description="memory that a serving process takes before any student: runtime, and on a GPU the CUDA context",
    )
    numa_nodes: Number | None = None
    vcpus_per_core: Number | None = Field(
        default=None, description="virtual CPUs that share one core: 2 where SMT is sold, 1 where a vCPU is a core"
    )
    isa: Text | None = Field(default=None, description="instruction set of the CPU that runs or hosts the model")
    compute_capability: Text | None = Field(default=None, description="CUDA compute capability, e.g. '8.9'")

    @field_validator("cooling")
    @classmethod
    def _passive_or_active(cls, cooling: Text | None) -> Text | None:
        if cooling is not None and cooling.value not in ("passive", "active"):
            raise ValueError(f"'{cooling.value}' is neither passive nor active; say the rest in the note")
        return cooling

    def known(self) -> dict[str, Number | Text]:
        """The facts that are stated, by key."""
        facts = {name: getattr(self, name) for name in Facts.model_fields}
        return {name: fact for name, fact in facts.items() if fact is not None}


class Offering(Noun):
    """Rented: USD per hour for an instance. Owned: purchase price, lifetime and power."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    kind: Literal["rented", "owned"]
    region: str = ""
    instance: str = ""
    devices: int = Field(default=1, ge=1, description="devices of this profile in one instance")
    vcpus: int | None = Field(default=None, ge=1, description="virtual CPUs of the instance")
    price_usd_per_hour: Number | None = Field(default=None, description="rented: list price on demand")
    purchase_usd: Number | None = Field(default=None, description="owned: price of one device")
    lifetime_years: float = Field(default=4.0, gt=0, description="owned: assumed years of use")
    usd_per_kwh: float = Field(default=0.15, ge=0, description="owned: assumed price of electricity")

    @model_validator(mode="after")
    def _priced_by_kind(self) -> Offering:
        if self.kind == "rented" and (self.purchase_usd or not self.price_usd_per_hour):
            raise ValueError("a rented offering has price_usd_per_hour and no purchase_usd")
        if self.kind == "owned" and (self.price_usd_per_hour or not self.purchase_usd):
            raise ValueError("an owned offering has purchase_usd and no price_usd_per_hour")
        return self


class Gpu(Noun):
    """A GPU that the NVIDIA driver lists."""

    index: int = Field(ge=0)
    name: str
    memory_gib: float = Field(gt=0)
    compute_capability: str = ""
    power_limit_w: float | None = Field(default=None, gt=0)
    cuda_cores: int | None = Field(default=None, ge=1)
    clock_mhz: float | None = Field(default=None, gt=0, description="highest of the multiprocessors")


class Detected(Noun):
    """What `profiles detect` saw of a machine besides its facts."""

    cpu: str
    cores_by_affinity: int = Field(ge=1)
    cpu_quota_cores: float | None = Field(default=None, gt=0, description="of the control group; none: no quota")
    governor: str = Field(default="", description="of the CPU's clock; empty: not shown here, as in most containers")
    runtimes: dict[str, str] = Field(default={}, description="installed, with versions")
    gpus: tuple[Gpu, ...] = ()
    gpu_note: str = Field(default="", description="why no GPU is listed")


class HardwareProfile(Noun):
    """One device in one power mode, with the ways to pay for it."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    name: str
    device_class: DeviceClass
    vendor: str
    power_mode: str = Field(default="", description="e.g. 'MAXN_SUPER, 25 W'; facts hold in this mode only")
    host: Literal["x86-64", "aarch64"] = Field(description="instruction set of the host CPU")
    facts: Facts
    offerings: tuple[Offering, ...] = ()
    detected: Detected | None = Field(default=None, description="written by `profiles detect`")
    published: tuple[PublishedLatency, ...] = Field(
        default=(), description="latencies measured on this device by others: they correct the estimate"
    )

    @property
    def is_gpu(self) -> bool:
        return self.device_class.endswith("gpu")

    def offering(self, name: str) -> Offering | None:
        return next((o for o in self.offerings if o.id == name), None)

    def cores_of(self, offering: Offering | None) -> float | None:
        """Whole cores of one instance: its vCPUs over `vcpus_per_core`; without vCPUs the device's own.

        None: not known, or a GPU. Half a core is possible: one vCPU of two that share it."""
        if self.is_gpu:
            return None
        if offering is None or offering.vcpus is None:
            return self.facts.cores.value if self.facts.cores else None
        shared = self.facts.vcpus_per_core
        return offering.vcpus / shared.value if shared else None

    @model_validator(mode="after")
    def _offerings_differ(self) -> HardwareProfile:
        ids = [o.id for o in self.offerings]
        if len(set(ids)) != len(ids):
            raise ValueError(f"two offerings share an id: {ids}")
        return self

    @field_validator("facts")
    @classmethod
    def _plausible(cls, facts: Facts, info: ValidationInfo) -> Facts:
        if device_class := info.data.get("device_class"):
            plausible.check(facts, device_class)
        return facts
