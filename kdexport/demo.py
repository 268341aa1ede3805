"""`kdexport demo`: the whole line on scikit-learn's digits (1,797 real scans, Alpaydin and Kaynak 1998), no network."""

from __future__ import annotations

import io
from pathlib import Path

from kdexport.storage.files import replacing, write_text

TEST_EVERY = 4  # each fourth row is test, so that all classes are there
PROJECT = """\
# What `kdexport demo` runs: an ensemble of three convolutional teachers, fitted on the spot, becomes small students.
name: digits
task: image_classification
data:
  train: {path: train.parquet, input: image, label: label}
  test: {path: test.parquet, input: image, label: label}
teachers:                       # three seeds of one architecture; the ensemble is the reference
  - fit: {spec: &architecture {backbone: image_convolution, channels: 1, width: 32, num_stages: 2, layers_per_stage: 2},
          epochs: 6, learning_rate: 0.002, seed: 1}
    licence: &own {distillation: allowed, source: "trained here, on data of scikit-learn (BSD-3-Clause)"}
  - fit: {spec: *architecture, epochs: 6, learning_rate: 0.002, seed: 2}
    licence: *own
  - fit: {spec: *architecture, epochs: 6, learning_rate: 0.002, seed: 3}
    licence: *own
targets: [local-cpu, jetson-orin-nano-super, rtx-4060, l4]
min_retention: 0.95
"""


def write_demo(folder: Path) -> Path:
    """The data as two Parquet files of PNG bytes, and the project file; returns its path."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows: dict[str, list[dict[str, object]]] = {"train": [], "test": []}
    for index, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        buffer = io.BytesIO()
        Image.fromarray((image * 255 / 16).round().astype("uint8")).save(buffer, "PNG")
        split = "test" if index % TEST_EVERY == 0 else "train"
        rows[split].append({"image": buffer.getvalue(), "label": str(label)})
    for split, records in rows.items():
        with replacing(folder / f"{split}.parquet") as temporary:
            pq.write_table(pa.Table.from_pylist(records), temporary)
    write_text(folder / "kdexport.yaml", PROJECT)
    return folder / "kdexport.yaml"
