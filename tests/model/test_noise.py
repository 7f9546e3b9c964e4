"""NEFTune: how large the noise is, where there is some, and where there is none."""

from __future__ import annotations

import torch

from finetune.model.adapter import add_adapter
from finetune.model.noise import lengths
from finetune.model.reference import reference
from finetune.model.score import with_score_head
from finetune.model.speed import prepare_for_training
from finetune.recipe import TrainSection
from finetune.recipe_peft import LoraSection
from tests.conftest import tiny_llama

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 0, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
KEPT = MASK.flatten().nonzero()[:, 0]
ALPHA, WIDTH = 5.0, 64


def wrapped(**more):
    """A tiny model for training and a list that takes what its first layer gets: (B, T, WIDTH)."""
    model, _ = add_adapter(tiny_llama(258), LoraSection(r=2), seed=0)
    ready = prepare_for_training(model, TrainSection(max_steps=1, **{"neftune_noise_alpha": ALPHA} | more))
    seen: list[torch.Tensor] = []
    layer = model.get_base_model().model.layers[0]
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    return ready.train(), seen


def test_lengths_by_hand():
    """A row's real tokens; of packed rows each document's, what fills up a row being a document of its own."""
    assert lengths(MASK, None).tolist() == [[6.0] * 6, [3.0, 3.0, 3.0, 0.0, 0.0, 0.0]]
    packed = torch.tensor([[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 1]])
    assert lengths(None, packed).tolist() == [[3, 3, 3, 2, 2, 1], [4, 4, 4, 4, 2, 2]]


def test_the_noise_is_uniform_within_its_bound():
    """alpha / sqrt(L d): 5 / sqrt(6 * 64) = 0.2552 in the row of 6 tokens, 5 / sqrt(3 * 64) = 0.3608 in that of 3, with
    the standard deviation bound / sqrt(3) of a uniform distribution; none at what fills up the row."""
    model, seen = wrapped()
    embedded = model.model.get_input_embeddings().weight[IDS].detach()
    torch.manual_seed(0)
    for _ in range(20):
        model(IDS, MASK, KEPT)
    noise = torch.stack(seen) - embedded  # (20, B, T, WIDTH)
    for row, length, bound in ((0, 6, 0.255155), (1, 3, 0.360844)):
        part = noise[:, row, :length]
        assert bound * 0.99 < part.abs().max() <= bound * 1.0001
        assert abs(part.std() * 3**0.5 / bound - 1) < 0.02
        assert abs(part.mean() / bound) < 0.02
    assert torch.equal(noise[:, 1, 3:], torch.zeros(20, 3, WIDTH))


def test_packed_rows_take_their_documents_lengths():
    model, seen = wrapped()
    positions = torch.tensor([[0, 1, 2, 3, 4, 0], [0, 1, 0, 1, 2, 3]])
    embedded = model.model.get_input_embeddings().weight[IDS].detach()
    torch.manual_seed(0)
    for _ in range(20):
        model(IDS, None, KEPT, positions)
    largest = (torch.stack(seen) - embedded).abs().amax((0, 3))
    bound = ALPHA / (torch.tensor([[5, 5, 5, 5, 5, 1], [2, 2, 4, 4, 4, 4]]) * WIDTH).sqrt()
    assert bool(((largest <= bound * 1.0001) & (largest > bound * 0.97)).all())


def test_no_noise_but_in_training():
    """Looks, the reference policy within a training step, answers: the embeddings as they are."""
    model, seen = wrapped()
    embedded = model.model.get_input_embeddings().weight[IDS].detach()
    with torch.no_grad():
        model(IDS, MASK, KEPT)
    with reference(model) as policy:
        policy(IDS, MASK, KEPT)
    model.model(input_ids=IDS, attention_mask=MASK)
    model.eval()
    model(IDS, MASK, KEPT)
    assert len(seen) == 4
    assert all(torch.equal(given, embedded) for given in seen)
    model.train()(IDS, MASK, KEPT)
    assert not torch.equal(seen[-1], embedded)


def test_a_reward_model_gets_noise_in_training_too():
    """Rewards of a head of ones move with the noise; at a look they don't."""
    model, _ = add_adapter(with_score_head(tiny_llama(258), ["reward"]), LoraSection(r=2), seed=0)
    ready = prepare_for_training(model, TrainSection(max_steps=1, neftune_noise_alpha=ALPHA)).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "score" in name:
                parameter.fill_(1.0)
        looks = [ready(IDS, MASK) for _ in range(2)]
    trained = [ready(IDS, MASK) for _ in range(2)]
    assert torch.equal(looks[0], looks[1])
    assert not torch.allclose(trained[0], trained[1])
    assert not torch.allclose(trained[0], looks[0])


def test_gradient_checkpointing_sees_the_same_noise():
    """The embeddings are not computed again in the backward pass, so that gradients are those without checkpointing."""
    gradients = []
    for checkpointing in (False, True):
        model, _ = wrapped(gradient_checkpointing=checkpointing)
        torch.manual_seed(3)
        model(IDS, MASK, KEPT).logsumexp(1).sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(left, right) for left, right in zip(*gradients, strict=True))
