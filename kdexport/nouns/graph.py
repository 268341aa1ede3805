"""GraphCost: what one run of a graph asks of a machine; the input of every latency model."""

from __future__ import annotations

from pydantic import Field

from kdexport.nouns.base import Noun


class GraphCost(Noun):
    """Counts for one run at one shape (batch, tokens or image). fp32 bytes: a model of precision rescales them."""

    flops: float = Field(ge=0, description="2 per multiply-add")
    weight_bytes: float = Field(ge=0, description="parameters read in a run, fp32; of a table only the rows looked up")
    activation_bytes: float = Field(ge=0, description="tensors written between operators, fp32")
    num_operators: float = Field(gt=0, description="kernels after the runtime's usual fusions")
    num_params: int = Field(ge=0)
    tokens: int = Field(default=1, ge=1, description="batch x tokens, or batch for images")


class LatencyEstimate(Noun):
    """Median latency of one run, with a 90 % interval, and in words where it comes from."""

    p50_ms: float = Field(gt=0)
    low_ms: float = Field(gt=0)
    high_ms: float = Field(gt=0)
    model: str = Field(description="name of the latency model")
    basis: str = Field(description="e.g. 'no measurement of this device family; 31 published rows of 9 devices'")
    extrapolated: bool = False
