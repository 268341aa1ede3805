"""Manifest: the table of contents of a bundle, with the hash of every file and the lineage of the model."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from kdexport.nouns.base import Noun
from kdexport.nouns.profile import Precision


class FileEntry(Noun):
    path: str = Field(description="relative to the bundle, '/' separated")
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Preprocessor(Noun):
    """Raw request -> tensors, declared. Text: `tokenizer` file and `max_length`. Image: size and normalisation."""

    kind: Literal["text", "image"]
    tokenizer: str = Field(default="", description="text: file in the bundle (tokenizers JSON)")
    max_length: int = Field(default=0, description="text: longest sequence, special tokens included")
    pad_id: int = 0
    mode: Literal["L", "RGB"] = Field(default="RGB", description="image: Pillow mode")
    height: int = 0
    width: int = 0
    mean: tuple[float, ...] = Field(default=(), description="image: per channel, on pixels scaled to 0..1")
    std: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _complete_by_kind(self) -> Preprocessor:
        if self.kind == "text" and not (self.tokenizer and self.max_length >= 2):
            raise ValueError("text needs 'tokenizer' and a 'max_length' of at least 2")
        channels = 1 if self.mode == "L" else 3
        if self.kind == "image" and not (self.height > 0 and self.width > 0):
            raise ValueError("image needs 'height' and 'width'")
        if self.kind == "image" and not (len(self.mean) == len(self.std) == channels and all(self.std)):
            raise ValueError(
                f"image of mode {self.mode} needs {channels} numbers in 'mean' and in 'std', none of std 0"
            )
        return self


class Manifest(Noun):
    schema_version: Literal[1] = 1
    name: str
    task: str
    target: str
    artifact: Literal["engine", "recipe"]
    runtime: str
    precision: Precision
    threads: int = Field(ge=1)
    max_batch: int = Field(default=32, ge=1, description="recipe: largest batch that the engine is built for")
    labels: tuple[str, ...]
    model: str = Field(description="path of the ONNX graph or engine that answers")
    input_name: str = Field(description="text: int64 (B, T) ids, padded with pad_id; image: float32 (B, C, H, W)")
    output_name: str = Field(default="logits", description="float32 (B, C)")
    preprocessor: Preprocessor
    abstain_below: float | None = Field(default=None, description="top score under which the answer is null")
    files: tuple[FileEntry, ...] = ()
    lineage: dict[str, Any] = Field(default={}, description="teacher, licence, data, seeds, decisions, environment")
    figures: dict[str, Any] = Field(default={}, description="quality, latency and parity as in report.json")
    checksum: str = Field(default="", description="SHA-256 over all other keys, set when a bundle is written")

    @field_validator("lineage", "figures")
    @classmethod
    def _finite(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not _all_finite(value):
            raise ValueError("holds NaN or infinity, which JSON has no word for; leave the figure out")
        return value


def _all_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_all_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_all_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
