"""The Monte Carlo log-likelihood: its masks, its exact value, and that batches change nothing."""

from itertools import combinations

import pytest
import torch

from cd4lm.decoding.likelihood import log_likelihoods
from cd4lm.diffusion.likelihood import likelihood_masks, log_likelihood_estimate
from cd4lm.diffusion.noise import row_keys

PROMPT, ANSWER = torch.tensor([5, 9, 2, 14]), torch.tensor([7, 3, 21])


def key(seed: int) -> torch.Tensor:
    return row_keys(torch.tensor([11]), seed)


def estimate(model, pairs, samples=64, batch_size=16, seed=0, ids=None) -> list[float]:
    ids = range(len(pairs)) if ids is None else ids
    found = log_likelihoods(
        model, pairs, mask_id=59, samples=samples, batch_size=batch_size, seed=seed, row_ids=list(ids)
    )
    return list(found)


@torch.no_grad()
def exact(model, prompt, answer) -> float:
    """The expectation itself: every number of masks, every choice of positions."""
    n, total = len(answer), 0.0
    for k in range(1, n + 1):
        chosen = list(combinations(range(n), k))
        for positions in chosen:
            masked = torch.zeros(n, dtype=torch.bool)
            masked[list(positions)] = True
            x = torch.cat((prompt, answer.masked_fill(masked, 59)))[None]
            log_p = model(input_ids=x).logits[0, len(prompt) :].double().log_softmax(-1)
            total += log_p.gather(-1, answer[:, None])[:, 0][masked].sum().item() * n / k / n / len(chosen)
    return total


class TestMasks:
    def test_counts_are_spread_evenly_over_one_to_n(self):
        counts = likelihood_masks(8, 64, key(0)).sum(dim=1)
        assert counts.bincount(minlength=9).tolist() == [0] + [8] * 8

    def test_every_position_is_masked_as_often(self):
        share = torch.cat([likelihood_masks(5, 200, key(seed)) for seed in range(20)]).double().mean(dim=0)
        assert share.sub(0.6).abs().max() < 0.03  # mean of k/n over k = 1..5

    def test_fewer_samples_than_tokens_are_still_unbiased_in_the_count(self):
        counts = torch.stack([likelihood_masks(7, 2, key(seed)).sum(dim=1) for seed in range(500)])
        assert counts.double().mean().item() == pytest.approx(4, abs=0.15)
        assert counts.min() == 1 and counts.max() == 7

    def test_estimate_by_hand(self):
        log_p = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
        masked = torch.tensor([[True, False], [True, True]])
        assert log_likelihood_estimate(log_p, masked).item() == ((-1 * 2 / 1) + (-7 * 2 / 2)) / 2


class TestModel:
    def test_converges_to_the_exact_value(self, model):
        wanted = exact(model, PROMPT, ANSWER)
        few, many = (
            [estimate(model, [(PROMPT, ANSWER)], samples, 256, seed)[0] - wanted for seed in range(12)]
            for samples in (6, 600)
        )
        assert max(map(abs, many)) < 0.1 * abs(wanted)
        assert sum(map(abs, many)) < sum(map(abs, few)) / 4  # ten times the samples' root, with room

    def test_one_token_is_exact_with_one_state(self, model):
        x = torch.cat((PROMPT, torch.tensor([59])))[None]
        wanted = model(input_ids=x).logits[0, -1].double().log_softmax(-1)[7].item()
        assert estimate(model, [(PROMPT, torch.tensor([7]))], samples=500)[0] == pytest.approx(wanted, abs=1e-5)

    def test_batches_and_neighbours_change_nothing(self, model):
        pairs = [(PROMPT, ANSWER), (torch.arange(1, 20), torch.tensor([4])), (torch.tensor([8]), torch.arange(30, 42))]
        together = estimate(model, pairs, batch_size=7)
        alone = [estimate(model, [pair], batch_size=1, ids=[i])[0] for i, pair in enumerate(pairs)]
        assert together == pytest.approx(alone, abs=1e-4)

    @pytest.mark.parametrize("pair", [(PROMPT[:0], ANSWER), (PROMPT, ANSWER[:0]), (PROMPT, torch.arange(40).repeat(4))])
    def test_refused(self, model, pair):
        with pytest.raises(ValueError, match="pair 0 has"):
            estimate(model, [pair])
