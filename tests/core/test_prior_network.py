"""The prior network: codes of a beat are drawn together, as the disease asked for puts them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lavq_core.models.beat_input import BeatInput
from lavq_core.models.blocks import Read
from lavq_core.models.prior import count_codes, draw_from_counts
from lavq_core.models.prior_network import PriorNetwork
from lavq_core.models.twins import draw_symbols
from lavq_core.settings import CodebookConfig, SeparatorConfig

K, N, MEMORY = 8, 24, 12
NORMAL, HIDDEN = K, K + 1


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_prior(tokens: int = N) -> PriorNetwork:
    torch.manual_seed(0)
    return PriorNetwork(SeparatorConfig(width=16, blocks=1, heads=2), CodebookConfig(size=K), tokens, MEMORY).eval()


def asked(count: int, statements: int = 2, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random unit tokens of statements, all there."""
    tokens = F.normalize(torch.randn(count, statements, MEMORY, generator=rng(seed)), dim=-1)
    return tokens, torch.ones(count, statements, dtype=torch.bool)


def covariates(count: int, seed: int = 2) -> Tensor:
    return torch.randn(count, 3, generator=rng(seed))


def symbols_of(count: int, seed: int = 3) -> Tensor:
    return torch.randint(K + 1, (count, N), generator=rng(seed))


# --- scores ----------------------------------------------------------------------------------------------------------


def test_every_token_gets_a_score_for_every_code_and_for_left_normal() -> None:
    prior = make_prior()
    assert (prior.normal, prior.hidden) == (NORMAL, HIDDEN)
    assert prior(covariates(3), *asked(3), symbols_of(3)).shape == (3, N, K + 1)


def test_scores_depend_on_statements_covariates_place_and_the_other_symbols() -> None:
    prior, (memory, mask), patients, symbols = make_prior(), asked(3), covariates(3), symbols_of(3)
    with torch.no_grad():
        scores = prior(patients, memory, mask, symbols)
        other = symbols.clone()
        other[:, 5] = (other[:, 5] + 1) % K
        for changed in (
            prior(patients, memory.roll(1, 0), mask, symbols),
            prior(patients + 1.0, memory, mask, symbols),
            prior(patients, memory, mask, other),
        ):
            assert float((scores - changed)[:, 0].abs().max()) > 1e-4
        blank = prior(patients, memory, mask, torch.full_like(symbols, HIDDEN))
    assert float((blank[:, 0] - blank[:, 7]).abs().max()) > 1e-4


def test_padding_and_order_of_statements_say_nothing() -> None:
    prior, (memory, mask), patients, symbols = make_prior(), asked(3, 3), covariates(3), symbols_of(3)
    noise = 100.0 * torch.randn(3, 4, MEMORY, generator=rng(5))
    longer = torch.cat([memory, noise], dim=1)
    with torch.no_grad():
        scores = prior(patients, memory, mask, symbols)
        padded = prior(patients, longer, torch.cat([mask, mask.new_zeros(3, 4)], dim=1), symbols)
        ordered = prior(patients, memory[:, [2, 0, 1]], mask, symbols)
    torch.testing.assert_close(scores, padded, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores, ordered, rtol=1e-4, atol=1e-5)


def test_what_is_said_of_one_patient_does_not_depend_on_the_others() -> None:
    prior, (memory, mask), patients, symbols = make_prior(), asked(3), covariates(3), symbols_of(3)
    with torch.no_grad():
        together = prior(patients, memory, mask, symbols)
        for i in range(3):
            row = slice(i, i + 1)
            alone = prior(patients[row], memory[row], mask[row], symbols[row])
            torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-5)


# --- the masked loss -------------------------------------------------------------------------------------------------


class Scripted(PriorNetwork):
    """A prior network whose scores are given; it keeps what it was shown."""

    scores: Tensor
    shown: Tensor

    def _score(self, symbols: Tensor, known: Tensor, asked: Read, places: Tensor | None = None) -> Tensor:
        self.shown = symbols
        if places is None:
            return self.scores
        return self.scores.gather(1, places.unsqueeze(-1).expand(-1, -1, self.scores.shape[-1]))


def scripted(count: int) -> Scripted:
    made = Scripted(SeparatorConfig(width=16, blocks=1, heads=2), CodebookConfig(size=K), N, MEMORY)
    made.scores = torch.randn(count, N, K + 1, generator=rng(7))
    return made


def test_the_loss_is_the_mean_cross_entropy_of_the_hidden_symbols() -> None:
    prior, symbols = scripted(5), symbols_of(5)
    loss = prior.loss(covariates(5), *asked(5), symbols, rng(0))
    hidden = prior.shown == HIDDEN
    assert torch.equal(prior.shown[~hidden], symbols[~hidden])
    wrong = [
        -float(prior.scores[b, n].log_softmax(0)[symbols[b, n]]) for b in range(5) for n in range(N) if hidden[b, n]
    ]
    assert 0 < len(wrong) < 5 * N
    assert float(loss) == pytest.approx(sum(wrong) / len(wrong), rel=1e-5)


def test_shown_symbols_are_not_scored() -> None:
    prior, symbols = scripted(5), symbols_of(5)
    loss = prior.loss(covariates(5), *asked(5), symbols, rng(0))
    shown = prior.shown != HIDDEN
    prior.scores = prior.scores + 50.0 * torch.randn(5, N, K + 1, generator=rng(8)) * shown[..., None]
    assert torch.equal(prior.loss(covariates(5), *asked(5), symbols, rng(0)), loss)
    prior.scores = prior.scores + torch.randn(5, N, K + 1, generator=rng(8)) * ~shown[..., None]
    assert not torch.equal(prior.loss(covariates(5), *asked(5), symbols, rng(0)), loss)


def test_from_a_tenth_to_all_of_a_beat_is_hidden() -> None:
    """Drawing begins with everything hidden and ends with next to nothing: both are trained."""
    prior, count = scripted(400), 400
    prior.loss(covariates(count), *asked(count), symbols_of(count), rng(0))
    share = (prior.shown == HIDDEN).float().mean(1)
    assert float(share.mean()) == pytest.approx(0.505, abs=0.05)  # uniform from 0 to 1, but a tenth at least
    assert float((share < 0.15).float().mean()) > 0.05
    assert float((share > 0.9).float().mean()) > 0.05
    assert float(share[share < 0.2].mean()) > 0.08


def test_the_loss_is_of_its_generator_and_reaches_every_weight() -> None:
    prior, given = make_prior(), (covariates(4), *asked(4), symbols_of(4))
    first, again, other = (prior.loss(*given, rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    first.backward()
    for name, weight in prior.named_parameters():
        assert weight.grad is not None, name
        assert float(weight.grad.abs().max()) > 0, name


# --- drawing ---------------------------------------------------------------------------------------------------------


def draw(prior: PriorNetwork, count: int, seed: int, valid: Tensor | None = None) -> Tensor:
    return prior.sample(covariates(count), torch.ones(count, N) if valid is None else valid, *asked(count), rng(seed))


def test_drawn_symbols_are_codes_or_left_normal() -> None:
    drawn = draw(make_prior(), 60, 0)
    assert drawn.shape == (60, N)
    assert drawn.dtype == torch.int64
    assert drawn.unique().tolist() == list(range(K + 1))  # an untrained network leaves nothing out, "hidden" is gone


def test_what_belongs_to_the_next_beat_is_left_normal() -> None:
    valid = (torch.arange(N) < torch.tensor([N, 15, 3, 0])[:, None]).float()
    drawn = draw(make_prior(), 4, 0, valid)
    assert bool((drawn[valid == 0] == NORMAL).all())
    assert bool((drawn[valid == 1] != NORMAL).any())


def test_the_generator_decides_and_nothing_else() -> None:
    prior = make_prior()
    torch.manual_seed(1)
    first = draw(prior, 5, 0)
    torch.manual_seed(2)
    assert torch.equal(draw(prior, 5, 0), first)
    assert not torch.equal(draw(prior, 5, 1), first)


def test_twins_of_one_request_differ() -> None:
    prior, (memory, mask) = make_prior(), asked(1)
    patients = covariates(1).expand(20, -1)
    drawn = prior.sample(patients, torch.ones(20, N), memory.expand(20, -1, -1), mask.expand(20, -1), rng(0))
    assert len({tuple(row) for row in drawn.tolist()}) == 20


def test_scores_of_some_tokens_are_those_of_all() -> None:
    prior, (memory, mask), symbols = make_prior(), asked(3), symbols_of(3)
    symbols[:, ::2] = HIDDEN
    places = torch.rand(3, N, generator=rng(5)).argsort(dim=1)[:, :2]
    with torch.no_grad():
        known, read = prior._known(covariates(3)), prior.statements.read(memory, mask)
        some = prior._score(symbols, known, read, places)
        everything = prior(covariates(3), memory, mask, symbols)
    torch.testing.assert_close(some, everything.gather(1, places.unsqueeze(-1).expand(-1, -1, K + 1)))


def test_tokens_are_drawn_from_their_scores() -> None:
    prior = scripted(2000)
    prior.scores = torch.randn(N, K + 1, generator=rng(7)).expand(2000, -1, -1)
    drawn = draw(prior, 2000, 0)
    for n in (0, N // 2, N - 1):
        shares = torch.bincount(drawn[:, n], minlength=K + 1) / 2000
        torch.testing.assert_close(shares, prior.scores[0, n].softmax(-1), rtol=0.0, atol=0.04)


@pytest.mark.parametrize(("count", "tokens"), [(0, N), (3, 5), (2, 1), (3, 30)])
def test_any_number_of_patients_and_of_tokens_can_be_drawn(count: int, tokens: int) -> None:
    drawn = make_prior(tokens).sample(covariates(count), torch.ones(count, tokens), *asked(count), rng(0))
    assert drawn.shape == (count, tokens)
    assert bool((drawn <= NORMAL).all())


# --- what it learns --------------------------------------------------------------------------------------------------

FIRST, SECOND = F.normalize(torch.randn(2, MEMORY, generator=rng(9)), dim=-1)  # two statements
TOY = 4  # tokens


def toy(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Covariates, statements and symbols. Tokens 0 and 1 carry the same code, 1 or 2, by chance; token 2 carries code 3
    with the first statement and 4 with the second; token 3 is open in the old (code 5) and shut in the young.
    """
    generator = rng(seed)
    patients, by_chance = torch.randn(count, 3, generator=generator), torch.randint(1, 3, (count,), generator=generator)
    second = torch.rand(count, generator=generator) < 0.5
    memory = torch.where(second[:, None, None], SECOND, FIRST)
    last = torch.where(patients[:, 1] > 0, 5, NORMAL)
    symbols = torch.stack([by_chance, by_chance, 3 + second.long(), last], dim=1)
    return patients, memory, torch.ones(count, 1, dtype=torch.bool), symbols


@pytest.fixture(scope="module")
def taught() -> PriorNetwork:
    prior, generator = make_prior(TOY), rng(0)
    optimiser = torch.optim.Adam(prior.parameters(), lr=3e-3)
    for number in range(120):
        optimiser.zero_grad()
        prior.loss(*toy(64, 100 + number), generator).backward()
        optimiser.step()
    return prior


def agreement(drawn: Tensor) -> float:
    return float((drawn[:, 0] == drawn[:, 1]).float().mean())


def test_codes_that_go_together_are_drawn_together(taught: PriorNetwork) -> None:
    """Counts say what each token carries, but draw it token by token."""
    patients, memory, mask, symbols = toy(300, 0)
    drawn = taught.sample(patients, torch.ones(300, TOY), memory, mask, rng(0))
    by_counts = draw_from_counts(
        count_codes(symbols % K, symbols < K, torch.ones(300, 1), K), torch.zeros(300, dtype=torch.int64), rng(0)
    )
    for found in (drawn, by_counts):
        assert float((found[:, 0] == 1).float().mean()) == pytest.approx(0.5, abs=0.25)
    assert agreement(symbols) == 1.0
    assert agreement(drawn) > 0.9
    assert agreement(by_counts) < 0.65


def test_statements_and_covariates_decide_what_they_decided_in_training(taught: PriorNetwork) -> None:
    patients, memory, mask, symbols = toy(300, 1)
    drawn = taught.sample(patients, torch.ones(300, TOY), memory, mask, rng(0))
    assert float((drawn[:, 2] == symbols[:, 2]).float().mean()) > 0.9
    assert float((drawn[:, 3] == symbols[:, 3]).float().mean()) > 0.8


def test_a_request_without_a_statement_leaves_everything_normal(taught: PriorNetwork) -> None:
    """The network itself would open a gate: it has been taught abnormal records only."""
    patients, memory, mask, _ = toy(6, 2)
    mask[1:4] = False
    given = BeatInput(torch.zeros(6, 8, 16), patients, torch.ones(6, TOY))
    drawn = draw_symbols(taught, given, memory, mask, rng(0))
    assert bool((drawn[1:4] == NORMAL).all())
    assert bool((drawn[[0, 4, 5], :3] < K).all())
    assert bool((taught.sample(patients, given.valid, memory, mask, rng(0))[1:4] < K).any())


def test_drawing_leaves_the_network_as_it_was(taught: PriorNetwork) -> None:
    before = {name: value.clone() for name, value in taught.state_dict().items()}
    patients, memory, mask, _ = toy(3, 3)
    drawn = taught.sample(patients, torch.ones(3, TOY), memory, mask, rng(0))
    assert not drawn.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in taught.state_dict().items())
