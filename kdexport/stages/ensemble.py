"""ensemble: how several teachers answer as one, decided once on dev rows, before anything is labelled."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdexport.dataset import Split
from kdexport.nouns.project import Ensemble
from kdexport.nouns.teacher import Combination, TeacherMember
from kdexport.teachers._doubts import doubts
from kdexport.teachers._ensemble import settle

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)
VERSION = 1


def ensemble(
    members: Sequence[TeacherMember],
    answers: Sequence[np.ndarray],
    dev: Split,
    classes: Sequence[str],
    wishes: Ensemble,
) -> Combination:
    """answers: of each member to the dev rows, logits (N, C) in the order of `classes`.

    Raises BadInput for a member whose answers are constant or worse than chance, and for wishes that dev rows cannot
    meet: no number is fitted there where a member has learnt from them."""
    warnings = doubts(members, answers, dev, classes)
    for warning in warnings:
        log.warning("%s", warning)
    found = settle(members, answers, dev, wishes)
    log.info("ensemble %s", found.reason)
    return found.model_copy(update={"warnings": tuple(warnings)})
