"""What each policy commits on blocks small enough to work out by hand, and what holds for all of them."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from cd4lm.decoding import (
    ConfidenceAdaptive,
    DecodeConfig,
    EntropyAdaptive,
    EntropyBounded,
    FactorAdaptive,
    FixedSteps,
    StepBudget,
    decode,
)
from cd4lm.decoding.policies import BlockView
from cd4lm.decoding.step import choose
from cd4lm.diffusion.sampling import negative_entropy

CONFIG = DecodeConfig(mask_id=59, gen_length=32, block_length=8)
# Of each policy: makes it from its parameter, and values of that from the strictest to the loosest.
LADDERS = {
    "cad": (ConfidenceAdaptive, [1.0, 0.99, 0.9, 0.5, 0.01]),
    "entropy": (EntropyAdaptive, [0.0, -0.01, -0.5, -2.0, -9.0]),
    "factor": (FactorAdaptive, [1e-3, 0.1, 0.5, 1.0, 4.0, 100.0]),
    "entropy_bounded": (EntropyBounded, [0.0, 1e-3, 0.1, 1.0, 5.0, 100.0]),
    "budget": (StepBudget, [1, 2, 3, 8, 100]),
}


def view_of(logits: torch.Tensor, candidates: torch.Tensor | None = None) -> BlockView:
    """All positions masked; confidence is the largest probability."""
    n, b, _ = logits.shape
    masked = torch.ones(n, b, dtype=torch.bool)
    return BlockView(
        logits=logits,
        confidence=logits.float().softmax(-1).amax(-1),
        masked=masked,
        candidates=masked if candidates is None else candidates,
        step=torch.zeros(n, dtype=torch.long),
        keys=torch.arange(n),
    )


def with_confidence(*rows) -> BlockView:
    """Two tokens, the first with exactly the probability given."""
    p = torch.tensor(rows, dtype=torch.float64)
    return replace(view_of(torch.stack((p.log(), (1 - p).log()), dim=-1)), confidence=p.float())


def random_view(seed: int, n: int = 64, b: int = 8, V: int = 30) -> BlockView:
    """Blocks from almost certain to almost uniform, with some positions that are no candidates."""
    generator = torch.Generator().manual_seed(seed)
    sharp = torch.rand(n, b, 1, generator=generator) * 12
    logits = torch.randn(n, b, V, generator=generator) * sharp
    return view_of(logits, torch.rand(n, b, generator=generator) < 0.8)


def counts(policy, view: BlockView) -> list[int]:
    return choose(view, policy, CONFIG).sum(dim=1).tolist()


class TestByHand:
    def test_factor(self):
        # (n + 1)(1 - c): 2 * 0.01, 3 * 0.05 = 0.15, 4 * 0.18 = 0.72, 5 * 0.22 = 1.10, 6 * 0.26 = 1.56
        view = with_confidence([0.95, 0.78, 0.99, 0.74, 0.82])
        for factor, n in [(0.01, 1), (0.03, 1), (0.16, 2), (0.7, 2), (0.73, 3), (1.0, 3), (1.11, 4), (1.6, 5)]:
            assert counts(FactorAdaptive(factor), view) == [n]
        assert choose(view, FactorAdaptive(0.73), CONFIG)[0].tolist() == [True, False, True, False, True]

    def test_factor_bound_is_strict(self):
        assert counts(FactorAdaptive(0.75), with_confidence([0.875, 0.75, 0.75])) == [1]  # 3 * 0.25 = 0.75 is not under
        assert counts(FactorAdaptive(0.7500001), with_confidence([0.875, 0.75, 0.5])) == [2]

    def test_entropy_bounded(self):
        view = with_confidence([0.9, 0.99, 0.6, 0.999])
        h = sorted(-p * math.log(p) - (1 - p) * math.log(1 - p) for p in (0.9, 0.99, 0.6, 0.999))
        for n in (1, 2, 3):
            assert counts(EntropyBounded(sum(h[:n]) - 1e-4), view) == [n]  # n + 1 would cost sum(h[:n])
            assert counts(EntropyBounded(sum(h[:n]) + 1e-4), view) == [n + 1]
        assert choose(view, EntropyBounded(h[0] + 1e-4), CONFIG)[0].tolist() == [False, True, False, True]

    def test_entropy_bounded_takes_everything_certain(self):
        logits = torch.full((1, 6, 4), -200.0)
        logits[..., 0] = 200.0
        assert counts(EntropyBounded(0.0), view_of(logits)) == [6]

    def test_budget(self):
        view = with_confidence([0.9, 0.1, 0.8, 0.7], [0.2, 0.3, 0.4, 0.5])
        assert choose(view, StepBudget(2), CONFIG).tolist() == [[True, False, True, False], [False, False, True, True]]

    def test_limits(self):
        view = with_confidence([0.9999] * 8, [0.3] * 8)
        for make in (ConfidenceAdaptive, FactorAdaptive):
            assert counts(make(0.9, min_tokens=3, max_tokens=5), view) == [5, 3]
        assert counts(EntropyBounded(0.05, min_tokens=3, max_tokens=5), view) == [5, 3]

    def test_a_block_that_takes_too_long_is_closed(self):
        view = with_confidence([0.3] * 8)
        late = replace(view, step=torch.tensor([4]))
        for policy in (FactorAdaptive(0.1, max_steps_per_block=4), EntropyBounded(0.0, max_steps_per_block=4)):
            assert counts(policy, view) == [1] and counts(policy, late) == [8]


@pytest.mark.parametrize("name", LADDERS)
class TestEveryPolicy:
    @pytest.mark.parametrize("seed", range(5))
    def test_at_least_one_and_only_candidates_up_to_the_cap(self, name, seed):
        make, values = LADDERS[name]
        view = random_view(seed)
        for value in values:
            commit = choose(view, make(value), CONFIG)
            assert commit.any(dim=1).all()
            held = ~view.candidates & view.candidates.any(dim=1, keepdim=True)
            assert not (commit & held).any()
            assert (commit.sum(dim=1) <= view.candidates.sum(dim=1).clamp(min=1)).all()
            if name != "budget":
                capped = choose(view, make(value, max_tokens=3), CONFIG)
                assert (capped.sum(dim=1) <= 3).all() and not (capped & ~commit).any()

    @pytest.mark.parametrize("seed", range(5))
    def test_a_looser_parameter_commits_a_superset(self, name, seed):
        make, values = LADDERS[name]
        view = random_view(seed)
        sets = [choose(view, make(value), CONFIG) for value in values]
        assert all(not (strict & ~loose).any() for strict, loose in pairwise(sets))
        assert sets[0].sum() < sets[-1].sum()

    @pytest.mark.parametrize("seed", range(3))
    def test_the_batch_changes_no_row(self, name, seed):
        make, values = LADDERS[name]
        view = random_view(seed)
        together = choose(view, make(values[2]), CONFIG)
        for i in range(0, 64, 7):
            one = BlockView(**{field: value[i : i + 1] for field, value in vars(view).items()})
            assert torch.equal(choose(one, make(values[2]), CONFIG)[0], together[i])

    def test_a_looser_parameter_costs_no_more_forwards_at_the_ends(self, name, model, prompts):
        make, values = LADDERS[name]
        strict, loose = (decode(model, prompts, make(v), CONFIG).nfe for v in (values[0], values[-1]))
        assert (strict == 32).all() and (loose == 4).all()


def test_the_rules_match_their_definitions_set_by_set():
    """Against the published definitions, evaluated for every n in plain Python."""
    for seed in range(3):
        view = random_view(seed)
        confidence, entropy = view.confidence, -negative_entropy(view.logits)
        for factor, gamma in [(0.3, 0.05), (1.0, 0.5), (2.5, 3.0)]:
            by_factor, by_entropy = counts(FactorAdaptive(factor), view), counts(EntropyBounded(gamma), view)
            for i, allowed in enumerate(view.candidates):
                c = sorted(confidence[i][allowed].tolist(), reverse=True)
                H = sorted(entropy[i][allowed].tolist())
                wanted = [n for n in range(1, len(c) + 1) if (n + 1) * (1 - c[n - 1]) < factor]
                assert by_factor[i] == max(wanted, default=1)
                wanted = [n for n in range(1, len(H) + 1) if sum(H[:n]) - max(H[:n]) <= gamma]
                assert by_entropy[i] == max(wanted, default=1)


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: FactorAdaptive(0.0), "factor=0.0"),
        (lambda: FactorAdaptive(math.nan), "factor=nan"),
        (lambda: EntropyBounded(-0.1), "gamma=-0.1"),
        (lambda: EntropyBounded(math.nan), "gamma=nan"),
        (lambda: StepBudget(0), "tokens=0"),
        (lambda: FactorAdaptive(min_tokens=0), "min_tokens=0"),
        (lambda: EntropyBounded(max_steps_per_block=0), "max_steps_per_block=0"),
        (lambda: FixedSteps(steps=0), "steps=0"),
    ],
)
def test_values_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
