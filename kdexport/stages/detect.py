"""detect: this machine as a hardware profile. What is not known of it stays blank."""

from __future__ import annotations

import datetime
import platform
from typing import Literal

from kdexport.measure.environment import cores_allowed
from kdexport.nouns.measurement import Environment
from kdexport.nouns.profile import Facts, HardwareProfile, Number, Text
from kdexport.nouns.target import LOCAL


def local_profile(environment: Environment) -> HardwareProfile:
    today = datetime.date.fromisoformat(environment.taken_at[:10])
    source = "detected on this machine by kdexport"
    host: Literal["x86-64", "aarch64"] = "aarch64" if platform.machine() in ("aarch64", "arm64") else "x86-64"
    return HardwareProfile(
        id=LOCAL,
        name=f"this machine ({environment.cpu})",
        device_class="cpu",
        vendor="detected",
        host=host,
        facts=Facts(
            cores=Number(value=cores_allowed(), source=source, date=today),
            memory_gib=Number(value=environment.memory_bytes / 2**30, source=source, date=today),
            isa=Text(value=" ".join(environment.isa) or "baseline", source=source, date=today),
        ),
    )
