from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from kdexport.errors import BadInput, Damaged
from kdexport.training import loop
from kdexport.training.loop import History, Schedule, Terms, train

ROWS, WIDTH, CLASSES = 40, 6, 3
SCHEDULE = Schedule(
    epochs=3, batch_size=8, learning_rate=0.01, seed=5, threads=1, averaging=0.8, checkpoint_seconds=0.0
)
STEPS = 15
LENGTHS = np.random.default_rng(2).integers(1, 9, ROWS)


class Killed(BaseException):
    """What no handler of errors may swallow."""


def network() -> torch.nn.Module:
    """Dropout draws random numbers, batch normalisation keeps statistics: both must survive a kill."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(WIDTH, 8),
        torch.nn.BatchNorm1d(8),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.4),
        torch.nn.Linear(8, CLASSES),
    )


class Objective:
    """The loss of rows of a fixed random problem; killed at the given step, counted from 0."""

    def __init__(self, module: torch.nn.Module, killed_at: int | None = None) -> None:
        chance = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(ROWS, WIDTH, generator=chance)
        self.targets = self.inputs[:, :CLASSES].argmax(1)
        self.module, self.killed_at, self.batches = module, killed_at, list[list[int]]()

    def __call__(self, rows: np.ndarray) -> Terms:
        if len(self.batches) == self.killed_at:
            raise Killed
        self.batches.append(rows.tolist())
        loss = cross_entropy(self.module(self.inputs[rows]), self.targets[rows])
        return {"whole": 0.75 * loss, "part": 0.25 * loss}


def fit(
    folder: Path,
    killed_at: int | None = None,
    schedule: Schedule = SCHEDULE,
    evaluate: Callable[[torch.nn.Module], float] | None = None,
) -> tuple[torch.nn.Module, Objective, History]:
    module = network()
    objective = Objective(module, killed_at)
    history = train(module, LENGTHS, objective, schedule, folder / "checkpoint", evaluate)
    return module, objective, history


def bits(module: torch.nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in module.state_dict().items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], list[list[int]], History]:
    module, objective, history = fit(tmp_path_factory.mktemp("undisturbed"))
    return bits(module), objective.batches, history


def test_training_learns(undisturbed: tuple[dict[str, bytes], list[list[int]], History]) -> None:
    losses = undisturbed[2].losses
    assert len(losses) == 3
    assert losses[-1] < 0.9 * losses[0]


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(
    tmp_path: Path, undisturbed: tuple[dict[str, bytes], list[list[int]], History]
) -> None:
    assert bits(fit(tmp_path / "a")[0]) == undisturbed[0]
    other = Schedule(**{**vars(SCHEDULE), "seed": 6})
    assert bits(fit(tmp_path / "b", schedule=other)[0]) != undisturbed[0]


@pytest.mark.parametrize("step", [0, 1, 2, 4, 5, 6, 9, 10, 13, 14])
def test_a_training_killed_at_any_step_resumes_to_the_same_bits(
    tmp_path: Path, undisturbed: tuple[dict[str, bytes], list[list[int]], History], step: int
) -> None:
    with pytest.raises(Killed):
        fit(tmp_path, killed_at=step)
    module, objective, history = fit(tmp_path)
    assert bits(module) == undisturbed[0]
    assert history == undisturbed[2]
    assert objective.batches == undisturbed[1][STEPS - len(objective.batches) :]
    assert len(objective.batches) <= STEPS - step + 1  # at most one step is done again


@pytest.mark.parametrize("save", [0, 1, 3, 4, 8, 14])
def test_a_training_killed_while_it_writes_a_checkpoint_resumes_to_the_same_bits(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: tuple[dict[str, bytes], list[list[int]], History],
    save: int,
) -> None:
    from safetensors import torch as safetensors

    write, calls = safetensors.save_file, []

    def killed(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        calls.append(path)
        if len(calls) == save + 1:
            path.write_bytes(b"half a checkpoint")
            raise Killed
        write(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(safetensors, "save_file", killed)
        with pytest.raises(Killed):
            fit(tmp_path)
    module, _, history = fit(tmp_path)
    assert bits(module) == undisturbed[0]
    assert history == undisturbed[2]


def test_a_training_killed_three_times_resumes_to_the_same_bits(
    tmp_path: Path, undisturbed: tuple[dict[str, bytes], list[list[int]], History]
) -> None:
    for steps in (3, 4, 2):
        with pytest.raises(Killed):
            fit(tmp_path, killed_at=steps)
    assert bits(fit(tmp_path)[0]) == undisturbed[0]


def test_a_kill_in_the_evaluation_loses_no_epoch_and_repeats_none(tmp_path: Path) -> None:
    def evaluate(qualities: list[float], killed: bool) -> Callable[[torch.nn.Module], float]:
        def quality(judged: torch.nn.Module) -> float:
            if killed and len(qualities) == 1:
                raise Killed
            qualities.append(len(qualities) / 10)
            return qualities[-1]

        return quality

    whole = fit(tmp_path / "a", evaluate=evaluate([], killed=False))[2]
    with pytest.raises(Killed):
        fit(tmp_path / "b", evaluate=evaluate([], killed=True))
    resumed = fit(tmp_path / "b", evaluate=evaluate([0.0], killed=False))[2]
    assert (resumed.losses, resumed.dev_quality) == (whole.losses, whole.dev_quality) == (whole.losses, (0.0, 0.1, 0.2))


def test_how_often_a_checkpoint_is_written_changes_no_bit(
    tmp_path: Path, undisturbed: tuple[dict[str, bytes], list[list[int]], History]
) -> None:
    seldom = Schedule(**{**vars(SCHEDULE), "checkpoint_seconds": 1e9})
    with pytest.raises(Killed):
        fit(tmp_path, killed_at=7, schedule=seldom)
    module, objective, _ = fit(tmp_path, schedule=seldom)
    assert bits(module) == undisturbed[0]
    assert len(objective.batches) == STEPS - 5  # from the end of the epoch


def test_a_damaged_checkpoint_is_refused_and_says_what_to_delete(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(tmp_path, killed_at=7)
    data = (tmp_path / "checkpoint").read_bytes()
    for damaged in (b"", data[:50], data[:-9]):
        (tmp_path / "checkpoint").write_bytes(damaged)
        with pytest.raises(Damaged, match=r"checkpoint: .*[Dd]elete it"):
            fit(tmp_path)


def test_a_training_that_diverges_ends_at_once_and_says_what_to_lower(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"the loss is (nan|inf) at step \d+ of 15, .*1e\+30; lower learning_rate"):
        fit(tmp_path, schedule=replace(SCHEDULE, learning_rate=1e30))


def test_every_row_is_seen_once_an_epoch_and_in_another_order_each_time(
    undisturbed: tuple[dict[str, bytes], list[list[int]], History],
) -> None:
    batches = undisturbed[1]
    epochs = [list(itertools.chain(*batches[i : i + 5])) for i in (0, 5, 10)]
    assert all(sorted(epoch) == list(range(ROWS)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_batches_hold_rows_of_like_length(undisturbed: tuple[dict[str, bytes], list[list[int]], History]) -> None:
    spread = np.mean([np.ptp(LENGTHS[rows]) for rows in undisturbed[1]])
    assert spread < np.ptp(LENGTHS) / 2


def test_the_last_batch_may_be_smaller() -> None:
    assert [SCHEDULE.steps_per_epoch(n) for n in (1, 8, 9, 40)] == [1, 1, 2, 5]


def test_the_learning_rate_warms_up_then_falls_to_zero() -> None:
    shares = [loop._rate_share(step, 100) for step in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == shares[9] == shares[10] == 1.0
    assert all(a > b for a, b in itertools.pairwise(shares[10:]))
    assert shares[-1] < 0.001


def test_the_module_is_left_ready_to_answer(tmp_path: Path) -> None:
    assert not fit(tmp_path)[0].training


def test_bf16_training_keeps_weights_in_float32(tmp_path: Path) -> None:
    module, _, history = fit(tmp_path, schedule=Schedule(**{**vars(SCHEDULE), "bf16": True}))
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert np.isfinite(history.losses).all()


def test_the_terms_of_the_loss_and_their_gradients_are_told_for_each_epoch(
    undisturbed: tuple[dict[str, bytes], list[list[int]], History],
) -> None:
    history = undisturbed[2]
    assert [sum(terms.values()) for terms in history.terms] == pytest.approx(history.losses)
    for terms, norms in zip(history.terms, history.gradient_norms, strict=True):
        assert terms["whole"] == pytest.approx(3 * terms["part"])
        assert norms["whole"] == pytest.approx(3 * norms["part"], rel=1e-5) != 0.0


def test_the_average_of_the_weights_is_what_is_judged_and_kept(tmp_path: Path) -> None:
    judged: list[dict[str, bytes]] = []

    def evaluate(module: torch.nn.Module) -> float:
        judged.append(bits(module))
        return 0.0

    kept = bits(fit(tmp_path / "a", evaluate=evaluate)[0])
    assert judged[-1] == kept
    last = bits(fit(tmp_path / "b", schedule=Schedule(**{**vars(SCHEDULE), "averaging": 0.0}))[0])
    assert last != kept


def test_an_average_is_what_a_reader_finds_by_hand() -> None:
    average, module = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(average.weight, 1.0)
    torch.nn.init.constant_(module.weight, 2.0)
    loop._follow(average, module, 0.9)
    assert average.weight.item() == pytest.approx(1.1)
