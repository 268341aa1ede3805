"""GraphCost: what one run of a graph asks of a machine; the input of every latency model."""

from __future__ import annotations

from pydantic import Field

from kdexport.nouns.base import Noun


class InputShape(Noun):
    """Shape of one run: text (batch, tokens), image (batch, channels, height, width)."""

    batch: int = 1
    tokens: int = 0
    channels: int = 0
    height: int = 0
    width: int = 0


class GraphCost(Noun):
    """Counts for one run at one shape (batch, tokens or image). fp32 bytes: a model of precision rescales them."""

    flops: float = Field(ge=0, description="2 per multiply-add")
    weight_bytes: float = Field(ge=0, description="parameters read in a run, fp32; of a table only the rows looked up")
    activation_bytes: float = Field(ge=0, description="tensors written between operators, fp32")
    num_operators: float = Field(gt=0, description="kernels that the CPU runtime runs after its own optimiser")
    num_fused: float | None = Field(
        default=None, description="kernels where a compiler merges the rest into its neighbours; none: as num_operators"
    )
    num_params: int = Field(ge=0)
    tokens: int = Field(default=1, ge=1, description="batch x tokens, or batch for images")

    @property
    def fused_operators(self) -> float:
        """What an ahead-of-time compiler (TensorRT) is taken to launch."""
        return self.num_operators if self.num_fused is None else self.num_fused


class LatencyEstimate(Noun):
    """Median latency of one run, with a 90 % interval, and in words where it comes from."""

    p50_ms: float = Field(gt=0)
    low_ms: float = Field(gt=0)
    high_ms: float = Field(gt=0)
    model: str = Field(description="name of the latency model")
    basis: str = Field(description="e.g. 'no measurement of this device family; 31 published rows of 9 devices'")
    extrapolated: bool = False
