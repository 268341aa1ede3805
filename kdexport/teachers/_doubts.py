"""What speaks against a teacher's answers: one answer to everything, worse than chance, classes that look swapped.

Shapes everywhere: logits (N, C), predicted and truth int64 (N,), indices into `classes`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdexport.dataset import Split
from kdexport.errors import BadInput
from kdexport.nouns.teacher import TeacherMember

if TYPE_CHECKING:
    import numpy as np

LEAST_ROWS = 20  # fewer rows may well have one answer
SAME_LOGIT = 1e-6
SWAPPED_ROWS = 3  # fewer rows of a class tell nothing
SWAPPED_FACTOR = 2  # times as many rows under the other class as under its own
CERTAIN_GAIN = 0.2  # of all rows: no accident, but another order of the classes
DISAGREEMENT = 0.1  # of the rows: seeds of one base model differ on fewer
SHOWN = 3


def doubts(
    members: Sequence[TeacherMember], answers: Sequence[np.ndarray], dev: Split, classes: Sequence[str]
) -> list[str]:
    """Warnings about the members of an ensemble. Raises BadInput for one that cannot be right.

    answers: of each to the dev rows; where these have no labels, each is judged by the others together."""
    import numpy as np

    warnings: list[str] = []
    rows = f"{len(dev):,} dev rows"
    for number, (member, logits) in enumerate(zip(members, answers, strict=True), 1):
        who = f"teacher {number} ({member.name})"
        refuse_constant(logits, who)
        predicted = logits.argmax(1)
        if dev.labels is not None:
            refuse_worse_than_chance(predicted, dev.labels, classes, who, rows, dev.weights)
            warnings += refuse_or_warn_swapped(predicted, dev.labels, classes, who, rows)
        elif len(answers) > 2:  # of two, neither can say which is wrong
            meant = np.sum([other for other in answers if other is not logits], axis=0).argmax(1)
            warnings += refuse_or_warn_swapped(predicted, meant, classes, who, f"{rows}, by the other teachers")
    return warnings + disagreement(answers, [m.name for m in members], rows)


def refuse_constant(logits: np.ndarray, who: str) -> None:
    """Raises BadInput where every row has the same logits: weights that are zero, or inputs that do not arrive."""
    if len(logits) < LEAST_ROWS or float((logits.max(0) - logits.min(0)).max()) > SAME_LOGIT:
        return
    raise BadInput(
        f"{who}: gives one and the same answer to each of {len(logits):,} rows; are its weights zero, or do its "
        "inputs not reach it?"
    )


def mean_recall(predicted: np.ndarray, truth: np.ndarray, row_weights: np.ndarray | None = None) -> float:
    """Over the classes that occur in truth; chance has 1 / C, whatever the balance of the classes."""
    import numpy as np

    weights = np.ones(len(truth)) if row_weights is None else row_weights
    rows = np.bincount(truth, weights)
    right = np.bincount(truth, weights * (predicted == truth), minlength=len(rows))
    return float((right[rows > 0] / rows[rows > 0]).mean())


def refuse_worse_than_chance(
    predicted: np.ndarray,
    truth: np.ndarray,
    classes: Sequence[str],
    who: str,
    rows: str,
    row_weights: np.ndarray | None = None,
) -> None:
    """Raises BadInput. rows: what they are called. Compared by the mean of the classes' recalls: on rows of which 98 %
    are of one class, answering that class always is right on 98 % and knows nothing."""
    import numpy as np

    right, occurring = mean_recall(predicted, truth, row_weights), len(np.unique(truth))
    if occurring < 2 or right >= 1 / len(classes):
        return
    share = float((predicted == truth).mean())
    balanced = f", {right:.1%} as a mean over the classes" if abs(share - right) >= 0.001 else ""
    order = swapped(predicted, truth, len(classes))
    hint = f"; {_exchanged(order, predicted, truth, classes)}" if order else ""
    raise BadInput(
        f"{who} is right on {share:.1%} of the {rows}{balanced}, chance is {1 / len(classes):.1%}{hint}: are its "
        "labels in another order? give 'labels' for the teacher in the project file"
    )


def swapped(predicted: np.ndarray, truth: np.ndarray, num_classes: int) -> dict[int, int]:
    """{what is answered: what is meant} for the classes whose answers another class's rows claim, in whole cycles: the
    permutation that agrees best (Hungarian method), as far as the rows speak plainly for it."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(counts, (predicted, truth), 1)
    meant = linear_sum_assignment(-counts)[1]
    plain = {
        a: int(b)
        for a, b in enumerate(meant)
        if a != b and counts[a, b] >= max(SWAPPED_ROWS, SWAPPED_FACTOR * counts[a, a])
    }
    return {a: b for a in plain for b in [plain[a]] if _in_cycle(a, plain)}


def _in_cycle(start: int, order: dict[int, int]) -> bool:
    at = start
    for _ in range(len(order)):
        if at not in order:
            return False
        at = order[at]
        if at == start:
            return True
    return False


def refuse_or_warn_swapped(
    predicted: np.ndarray, truth: np.ndarray, classes: Sequence[str], who: str, rows: str
) -> list[str]:
    """A warning where classes look swapped; raises BadInput where so many are that it is another order."""
    import numpy as np

    order = swapped(predicted, truth, len(classes))
    if not order:
        return []
    gain = float((np.array([order.get(int(p), int(p)) for p in predicted]) == truth).mean())
    gain -= float((predicted == truth).mean())
    told = (
        f"{who} is right on {float((predicted == truth).mean()):.1%} of the {rows}; "
        f"{_exchanged(order, predicted, truth, classes)}: check the order of its labels"
    )
    if gain >= CERTAIN_GAIN:
        raise BadInput(f"{told}, and give 'labels' for the teacher in the project file: every output's class, in order")
    return [told]


def _exchanged(order: dict[int, int], predicted: np.ndarray, truth: np.ndarray, classes: Sequence[str]) -> str:
    import numpy as np

    after = float((np.array([order.get(int(p), int(p)) for p in predicted]) == truth).mean())
    named = ", ".join(f"'{classes[a]}' for '{classes[b]}'" for a, b in list(order.items())[:SHOWN])
    more = f" and {len(order) - SHOWN} more" if len(order) > SHOWN else ""
    return f"with {len(order)} classes exchanged it is on {after:.1%} (it answers {named}{more})"


def disagreement(answers: Sequence[np.ndarray], names: Sequence[str], rows: str) -> list[str]:
    """A warning where two members give different answers to many rows; the pair that differs most is named."""
    if len(answers) < 2:
        return []
    differ, first, second = max(
        (float((answers[i].argmax(1) != answers[j].argmax(1)).mean()), i, j)
        for i in range(len(answers))
        for j in range(i)
    )
    if differ < DISAGREEMENT:
        return []
    return [
        f"teachers disagree: {_named(names, second)} and {_named(names, first)} give different answers to "
        f"{differ:.1%} of the {rows}"
    ]


def _named(names: Sequence[str], index: int) -> str:
    """Two members may have one name."""
    return f"teacher {index + 1} ({names[index]})"
