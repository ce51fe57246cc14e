"""The Monte Carlo log-likelihood: its masks, its exact value, and that batches change nothing."""

from itertools import combinations

import pytest
import torch

from cd4lm.decoding.likelihood import log_likelihoods
from cd4lm.diffusion.likelihood import likelihood_masks, log_likelihood_estimate, mask_counts
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
def by_count(model, prompt, answer) -> torch.Tensor:
    """For each number of masks k = 1..n the mean over every choice of positions of n/k times the summed log p, (n,)."""
    n, found = len(answer), []
    for k in range(1, n + 1):
        chosen, total = list(combinations(range(n), k)), 0.0
        for positions in chosen:
            masked = torch.zeros(n, dtype=torch.bool)
            masked[list(positions)] = True
            x = torch.cat((prompt, answer.masked_fill(masked, 59)))[None]
            log_p = model(input_ids=x).logits[0, len(prompt) :].double().log_softmax(-1)
            total += log_p.gather(-1, answer[:, None])[:, 0][masked].sum().item() * n / k
        found.append(total / len(chosen))
    return torch.tensor(found, dtype=torch.float64)


def exact(model, prompt, answer) -> float:
    """The expectation itself: every number of masks is as likely (LLaDA, equation 6)."""
    return by_count(model, prompt, answer).mean().item()


def shares(n: int, counts: list[int]) -> torch.Tensor:
    """How often each of 1..n is among the counts, as shares, (n,)."""
    return torch.tensor(counts).bincount(minlength=n + 1)[1:].double() / len(counts)


def our_counts(n: int, samples: int) -> list[int]:
    """Counts of all samples for every offset; they change only where n * offset is whole, so n offsets are all cases."""
    offsets = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return [int(k) for offset in offsets for k in mask_counts(n, samples, offset)]


def rounded_counts(n: int, b: int) -> list[int]:
    """Counts of a batch of b in LLaDA's own program, for every k that it may draw: k + i n/b, rounded half to even."""
    return [(round(k + i * n / b) - 1) % n + 1 for k in range(1, n + 1) for i in range(b)]


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

    @pytest.mark.parametrize("n,samples", [(4, 8), (8, 16), (7, 16), (5, 3), (3, 128), (12, 1)])
    def test_every_count_has_the_same_share_exactly(self, n, samples):
        assert torch.equal(shares(n, our_counts(n, samples)), torch.full((n,), 1 / n, dtype=torch.float64))

    def test_rounding_half_to_even_prefers_even_counts(self):
        assert (4 * shares(4, rounded_counts(4, 8))).tolist() == [0.5, 1.5, 0.5, 1.5]
        assert (8 * shares(8, rounded_counts(8, 16))).tolist() == [0.5, 1.5] * 4
        assert (4 * shares(4, rounded_counts(4, 4))).tolist() == [1.0] * 4  # no halves, no bias

    def test_estimate_by_hand(self):
        log_p = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
        masked = torch.tensor([[True, False], [True, True]])
        assert log_likelihood_estimate(log_p, masked).item() == ((-1 * 2 / 1) + (-7 * 2 / 2)) / 2


class TestModel:
    def test_the_expectation_is_the_enumerated_value_and_that_of_rounding_is_not(self, model):
        """Four tokens, all fifteen sets of masks; the expectation of an estimator is its shares of counts, summed up."""
        answer = torch.tensor([7, 3, 21, 40])
        values = by_count(model, PROMPT, answer)
        ours, rounded = (
            (shares(4, counts) * values).sum().item() for counts in (our_counts(4, 8), rounded_counts(4, 8))
        )
        assert ours == pytest.approx(exact(model, PROMPT, answer), rel=1e-12)
        bias = (values * torch.tensor([-0.5, 0.5, -0.5, 0.5])).mean().item()
        assert abs(bias) > 0.005 * abs(ours) and rounded - ours == pytest.approx(bias, rel=1e-9)
        drawn = [estimate(model, [(PROMPT, answer)], 8, 64, seed)[0] for seed in range(1500)]
        error = torch.tensor(drawn).std().item() / len(drawn) ** 0.5
        assert (
            abs(sum(drawn) / len(drawn) - ours) < 4 * error < abs(bias)
        )  # the program itself, which tells the two apart

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
