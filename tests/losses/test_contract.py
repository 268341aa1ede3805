"""What every loss promises, run over every file in kdexport/losses."""

from __future__ import annotations

import pytest
import torch

from kdexport import registry
from kdexport.losses import dkd, load_loss
from kdexport.losses.kl import loss as kl

LOSSES = registry.names("losses")
TEMPERATURES = (0.5, 1.0, 4.0)


def logits(seed: int, rows: int = 6, classes: int = 5, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


def value_and_gradient(name: str, student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0):  # type: ignore[no-untyped-def]
    student = student.clone().requires_grad_()
    value = load_loss(name)(student, teacher, temperature)
    value.mean().backward()
    assert student.grad is not None
    return value.detach().mean(), student.grad


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", LOSSES)
def test_equal_logits_are_a_minimum_without_slope(name: str, temperature: float) -> None:
    teacher = logits(0)
    least, gradient = value_and_gradient(name, teacher, teacher, temperature)
    assert gradient.abs().max() < 1e-5
    for seed in range(1, 6):
        assert load_loss(name)(teacher + 0.3 * logits(seed), teacher, temperature).mean() > least


@pytest.mark.parametrize("name", LOSSES)
def test_it_is_one_float32_number_a_row_whatever_the_precision_of_the_logits(name: str) -> None:
    value = load_loss(name)(logits(0).bfloat16(), logits(1), 1.0)
    assert (value.shape, value.dtype) == (torch.Size([6]), torch.float32)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e4])
@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_give_a_finite_value_and_gradient(name: str, scale: float) -> None:
    for student, teacher in ((scale * logits(0), logits(1)), (logits(0), scale * logits(1))):
        value, gradient = value_and_gradient(name, student, teacher)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_rows_and_of_classes_does_not_matter(name: str) -> None:
    student, teacher = logits(0), logits(1)
    rows, columns = torch.randperm(6), torch.randperm(5)
    values = load_loss(name)(student, teacher, 2.0)
    torch.testing.assert_close(load_loss(name)(student[rows], teacher[rows], 2.0), values[rows])
    torch.testing.assert_close(load_loss(name)(student[:, columns], teacher[:, columns], 2.0), values)


@pytest.mark.parametrize("name", LOSSES)
def test_a_row_does_not_depend_on_the_others_of_its_batch(name: str) -> None:
    student, teacher = logits(0), logits(1)
    torch.testing.assert_close(
        load_loss(name)(student[2:3], teacher[2:3], 1.0), load_loss(name)(student, teacher, 1.0)[2:3]
    )


@pytest.mark.parametrize(("rows", "classes"), [(5, 5), (6, 4)])
@pytest.mark.parametrize("name", LOSSES)
def test_other_shapes_are_refused(name: str, rows: int, classes: int) -> None:
    with pytest.raises(ValueError, match=rf"student \(6, 5\), teacher \({rows}, {classes}\)"):
        load_loss(name)(logits(0), logits(1, rows, classes), 1.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
@pytest.mark.parametrize("name", LOSSES)
def test_a_temperature_of_zero_or_less_is_refused(name: str, temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        load_loss(name)(logits(0), logits(1), temperature)


def test_kl_is_what_a_reader_finds_by_hand() -> None:
    """Teacher (3/4, 1/4), student (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2) = 0.1308 nats."""
    teacher, student = torch.tensor([[0.75, 0.25]]).log(), torch.zeros(1, 2)
    assert float(kl(student, teacher, 1.0)) == pytest.approx(0.130812, abs=1e-5)


def test_kl_at_a_high_temperature_nears_half_the_mean_square_of_centred_differences() -> None:
    """Hinton et al. 2015, section 2.1: sum of squares / (2 C) a row."""
    student, teacher = logits(0), logits(1)
    difference = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    assert float(kl(student, teacher, 1000.0).mean()) == pytest.approx(
        float((difference**2).sum(1).mean()) / 10, rel=0.02
    )


def test_standardised_logits_need_only_the_same_relations() -> None:
    teacher = logits(0)
    assert load_loss("logit_standardisation")(2.5 * teacher + 7.0, teacher, 2.0).abs().max() < 1e-6
    assert kl(2.5 * teacher + 7.0, teacher, 2.0).mean() > 0.1


def test_dkd_with_the_others_weighed_by_what_is_left_of_the_first_class_is_kl() -> None:
    """Zhao et al. 2022, equation 6: KL = TCKD + (1 - p_first) NCKD."""
    student, teacher = logits(0), logits(1)
    left = 1 - teacher.softmax(-1).amax(-1)
    first = teacher.argmax(-1, keepdim=True)
    among = kl(dkd._others(student, first), dkd._others(teacher, first), 1.0)
    found = load_loss("dkd")(student, teacher, 1.0) + (left - dkd.OTHERS_WEIGHT) * among
    torch.testing.assert_close(found, kl(student, teacher, 1.0))
