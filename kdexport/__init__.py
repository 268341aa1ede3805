"""kdexport: a large model becomes a small one that fits a given machine, at a given price.

`import kdexport as kd; kd.run("kdexport.yaml")` does what `kdexport run kdexport.yaml` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "plan", "run"]

if TYPE_CHECKING:
    from kdexport.pipeline import plan, run


def __getattr__(name: str) -> Any:
    if name in ("plan", "run"):
        from kdexport import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'kdexport' has no attribute '{name}'")
