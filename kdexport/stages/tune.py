"""tune: temperature, and the balance of soft and hard targets, searched on dev by short complete schedules."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdexport.measure.calibration import row_nll
from kdexport.nouns.project import Training
from kdexport.nouns.spec import StudentSpec
from kdexport.nouns.student import Recipe, Trial, Tuning
from kdexport.training.loop import Progress
from kdexport.training.student import Curriculum, quality_on_dev, shortened, torch_logits, train_student

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)
VERSION = 2
SHARE = 0.05  # of the full training, each trial: a fifth of it in all
TRIED = ((1.0, 0.1), (1.0, 0.5), (1.0, 1.0), (2.0, 0.1))  # temperature, hard weight: the default first
CHECKPOINTS = "checkpoint-*.safetensors"  # one a trial; removed by the pipeline, once the stage's result is written
CLEAR = 2.0  # standard errors by which a trial must beat the default


def candidates(wishes: Training, recipe: Recipe) -> list[tuple[float, float]]:
    """Temperatures and hard weights to try: none but the recipe's where the project names both."""
    default = (recipe.temperature, recipe.hard_weight)
    free = [
        (t if wishes.temperature is None else default[0], w if wishes.hard_weight is None else default[1])
        for t, w in TRIED
    ]
    return list(dict.fromkeys([default, *free]))


def tune(
    tried: list[tuple[float, float]],
    spec: StudentSpec,
    curriculum: Curriculum,
    folder: Path,
    progress: Progress | None,
) -> Tuning:
    """The default stays unless another trial is clearly likelier to give the true labels of dev, row by row, and no
    worse by the metric: on a thousand rows the metric alone tells few of them apart."""
    dataset, metric = curriculum.dataset, curriculum.metric
    some, answers, short, share = shortened(curriculum.rows, curriculum.labels, curriculum.recipe, SHARE)
    trials: list[Trial] = []
    first: np.ndarray | None = None
    for number, (temperature, hard_weight) in enumerate(tried, 1):
        word = f"trial {number}/{len(tried)}"
        told = (lambda done, total, state, word=word: progress(done, total, f"{word}, {state}")) if progress else None
        started, checkpoint = time.monotonic(), folder / CHECKPOINTS.replace("*", str(number))
        recipe = short.model_copy(update={"temperature": temperature, "hard_weight": hard_weight})
        trained = train_student(spec, replace(curriculum, rows=some, labels=answers, recipe=recipe), checkpoint, told)
        logits = torch_logits(trained.module, trained.dev)
        assert dataset.dev.labels is not None
        found = row_nll(logits, dataset.dev.labels, dataset.dev.weights)
        first = found if first is None else first
        trials.append(
            Trial(
                temperature=temperature,
                hard_weight=hard_weight,
                dev_quality=quality_on_dev(logits, dataset, metric),
                dev_nll=float(found.mean()),
                gain_nll=float((first - found).mean()),
                gain_error=float((first - found).std()) / math.sqrt(len(found)),
                seconds=round(time.monotonic() - started, 3),
            )
        )
        log.info("trial temperature=%g hard_weight=%g dev=%.4f", temperature, hard_weight, trials[-1].dev_quality)
    chosen = choose(trials)
    return Tuning(trials=tuple(trials), chosen=chosen, schedule_share=share, reason=reason(trials, chosen))


def choose(trials: list[Trial]) -> int:
    """The trial with the largest gain among those that are clear, else the first."""
    clear = [
        i
        for i, t in enumerate(trials)
        if t.gain_nll > CLEAR * t.gain_error and t.dev_quality >= trials[0].dev_quality and i > 0
    ]
    return max(clear, key=lambda i: trials[i].gain_nll, default=0)


def reason(trials: list[Trial], chosen: int) -> str:
    kept = trials[chosen]
    told = f"temperature {kept.temperature:g}, hard weight {kept.hard_weight:g}"
    if chosen == 0:
        return f"{told}: none of {len(trials) - 1} others is clearly better on dev"
    return f"{told}: {kept.gain_nll:.3f} ± {CLEAR * kept.gain_error:.3f} nats a dev row better than the default"
