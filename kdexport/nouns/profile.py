"""HardwareProfile: facts of one device in one power mode; Offering: a way to pay for it."""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from kdexport.nouns.base import Noun

DeviceClass = Literal["edge-gpu", "edge-cpu", "cpu", "datacenter-gpu"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]


class Sourced(Noun):
    """A statement of fact: where it was read, and when."""

    source: str = Field(min_length=3, description="page, repository or data sheet that states the value")
    date: datetime.date = Field(description="when the source was published or read")
    note: str = Field(default="", description="how the value was derived, or what it conflicts with")

    @field_validator("source", "note")
    @classmethod
    def _confirmed(cls, text: str) -> str:
        if "[memory]" in text:
            raise ValueError("a fact tagged [memory] is not sourced; confirm it or leave it out")
        return text


class Number(Sourced):
    """A positive quantity; its unit is in the name of the key that holds it."""

    value: Annotated[float, Field(gt=0)]


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
    isa: Text | None = Field(default=None, description="instruction set of the CPU that runs or hosts the model")
    compute_capability: Text | None = Field(default=None, description="CUDA compute capability, e.g. '8.9'")

    @model_validator(mode="after")
    def _dense(self) -> Facts:
        fp16, int8 = self.peak_fp16_tflops, self.peak_int8_tops
        if fp16 and int8 and int8.value > 4.5 * fp16.value:
            raise ValueError(
                f"peak_int8_tops {int8.value:g} is over 4.5 times peak_fp16_tflops {fp16.value:g}: "
                "a sparse peak or a unit slip? Write the dense peak"
            )
        return self


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

    @property
    def is_gpu(self) -> bool:
        return self.device_class.endswith("gpu")

    def offering(self, name: str) -> Offering | None:
        return next((o for o in self.offerings if o.id == name), None)

    @model_validator(mode="after")
    def _offerings_differ(self) -> HardwareProfile:
        ids = [o.id for o in self.offerings]
        if len(set(ids)) != len(ids):
            raise ValueError(f"two offerings share an id: {ids}")
        return self

    @field_validator("facts")
    @classmethod
    def _plausible(cls, facts: Facts, info: ValidationInfo) -> Facts:
        """Catches slips by 1,000 between units, and sparse peaks of GPUs, whose dense int8 is twice fp16."""
        device_class = info.data.get("device_class", "")
        low, high = (50, 20_000) if device_class == "datacenter-gpu" else (1, 4_000)
        bandwidth, fp16, int8 = facts.memory_bandwidth_gb_per_s, facts.peak_fp16_tflops, facts.peak_int8_tops
        if bandwidth and not low <= bandwidth.value <= high:
            raise ValueError(
                f"memory_bandwidth_gb_per_s {bandwidth.value:g} is outside {low} to {high:,} "
                f"for class {device_class}: a unit slip? Write 10^9 bytes per second"
            )
        if device_class.endswith("gpu") and fp16 and int8 and int8.value > 2.2 * fp16.value:
            raise ValueError(
                f"peak_int8_tops {int8.value:g} is over 2.2 times peak_fp16_tflops {fp16.value:g}: a sparse int8 peak, "
                "or fp16 with FP32 accumulation? Write both dense, fp16 with FP16 accumulation"
            )
        return facts
