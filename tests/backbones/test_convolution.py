"""The text convolution: what it does while it is trained, besides what every backbone promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kdexport.backbones import convolution


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
def test_training_sees_the_logits_and_gradients_that_the_exported_graph_has(depth: int, padded: bool) -> None:
    spec = convolution.Spec(vocab_size=20, embedding_size=5, hidden_size=7, num_hidden_layers=depth)
    torch.manual_seed(0)
    module: Any = convolution.build(spec, 4)
    ids = torch.randint(1, 20, (3, 6))
    if padded:
        ids[0, 4:], ids[2, 1:] = 0, 0
    found = []
    for training in (True, False):
        module.train(training).zero_grad()
        logits = module(ids)
        (logits * torch.arange(4)).sum().backward()
        found.append((logits.detach(), [w.grad.clone() for w in module.parameters()]))
    torch.testing.assert_close(found[0], found[1])
