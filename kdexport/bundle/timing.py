"""How fast a bundle answers on this machine: raw request to answer, and the engine alone, one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import Field

from kdexport.bundle.verify import load_predictor, read_manifest
from kdexport.nouns.base import Noun
from kdexport.nouns.measurement import Environment, Latency
from kdexport.nouns.project import Table
from kdexport.storage.tables import Raw, read_rows

MIN_SAMPLES = 10_000  # p99.9 needs 6,636; the seconds allowed end it sooner
MAX_REQUESTS = 512  # distinct ones, asked in a cycle


class BundleTiming(Noun):
    """All measured here, single stream, batch 1."""

    bundle: str
    runtime: str
    precision: str
    threads: int
    requests: int = Field(description="distinct requests, asked in a cycle")
    requests_from: str
    end_to_end: Latency
    model: Latency
    peak_memory_bytes: int = Field(description="resident memory of this process at its peak, Python included")
    environment: Environment


def time_bundle(bundle: Path, table: Table | None, seconds: float) -> BundleTiming:
    """table: none means the bundle's golden inputs. Takes at most about `seconds`, warm-up included."""
    from kdexport.measure.environment import detect
    from kdexport.measure.memory import peak_rss_bytes
    from kdexport.measure.timer import interleave

    manifest = read_manifest(bundle)
    predictor = load_predictor(bundle)
    requests = _requests(bundle, table, manifest.preprocessor.kind == "image")
    tensors = [predictor.encoder.encode(raw) for raw in requests]
    functions: dict[str, Callable[[int], object]] = {
        "end to end": lambda i: predictor.predict(requests[i]),
        "model": lambda i: predictor._engine(tensors[i]),
    }
    timings = interleave(functions, len(requests), min_samples=MIN_SAMPLES, max_seconds=seconds)
    environment = detect(predictor.threads)
    return BundleTiming(
        bundle=str(bundle),
        runtime=manifest.runtime,
        precision=manifest.precision,
        threads=predictor.threads,
        requests=len(requests),
        requests_from=table.path if table else "the bundle's golden inputs",
        end_to_end=timings.latency("end to end", environment.id),
        model=timings.latency("model", environment.id),
        peak_memory_bytes=peak_rss_bytes(),
        environment=environment,
    )


def _requests(bundle: Path, table: Table | None, images: bool) -> Sequence[Raw]:
    if table is not None:
        return read_rows(table, "image" if images else "text", labelled=False).inputs[:MAX_REQUESTS]
    from kdexport.bundle.runner.build import read_golden

    raw: Sequence[Raw] = read_golden(bundle)[0]
    return raw
