"""PublishedLatency: one latency that someone else measured on a device, which corrects the estimate for it."""

from __future__ import annotations

from pydantic import Field

from kdexport.nouns.graph import GraphCost
from kdexport.nouns.sourced import Precision, Sourced


class PublishedLatency(Sourced):
    """Median or mean of one run, model alone, single stream, with the counts of the model that was run."""

    model: str = Field(min_length=1, description="name and input, e.g. 'bert-base, 128 tokens'")
    runtime: str = Field(min_length=1, description="onnxruntime, openvino, tensorrt, tflite, armnn, pytorch ...")
    precision: Precision
    batch: int = Field(default=1, ge=1)
    cores: int | None = Field(default=None, ge=1, description="of a CPU, that the run used; none: all")
    p50_ms: float = Field(gt=0)
    flops: float = Field(gt=0, description="of the whole batch, 2 per multiply-add")
    num_params: int = Field(gt=0)
    num_operators: float = Field(gt=0, description="kernels after the runtime's usual fusions")
    activation_bytes: float = Field(
        default=0.0, ge=0, description="tensors written between operators by the whole batch, as fp32"
    )

    @property
    def cost(self) -> GraphCost:
        return GraphCost(
            flops=self.flops,
            weight_bytes=4.0 * self.num_params,
            activation_bytes=self.activation_bytes,
            num_operators=self.num_operators,
            num_params=self.num_params,
            tokens=self.batch,
        )
