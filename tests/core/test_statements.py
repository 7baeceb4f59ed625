"""What is asked for is said to the networks in the words of the public statements, alike at every hospital."""

from __future__ import annotations

import pytest
import torch

from lavq_core.data.labels import diagnostic_statements, public_statements
from lavq_core.models.prior import draw_statements
from lavq_core.settings import TextConfig
from lavq_core.text.statements import named, public_encoder, requests

TEXT = TextConfig(width=12)


def test_a_statement_is_one_token_of_its_description() -> None:
    memory = requests([["IMI", "LAFB"], ["CLBBB"]], TEXT)
    assert memory.tokens.shape == (2, 2, 12)
    assert memory.mask.tolist() == [[True, True], [True, False]]
    words = public_statements()["description"]
    expected = public_encoder("lsa", 12).encode([words["IMI"], words["LAFB"], words["CLBBB"]])
    torch.testing.assert_close(memory.tokens[memory.mask], expected)
    assert not memory.tokens[~memory.mask].any()


@pytest.mark.parametrize("codes", [[], ["NORM"], ["XYZ"], ["NORM", "XYZ"]])
def test_norm_and_what_nobody_knows_is_no_statement(codes: list[str]) -> None:
    memory = requests([codes, ["IMI", *codes]], TEXT)
    assert memory.mask.sum(1).tolist() == [0, 1]
    torch.testing.assert_close(memory.tokens[1, 0], requests([["IMI"]], TEXT).tokens[0, 0])


def test_every_statement_says_something_of_its_own() -> None:
    codes = [code for code in public_statements().index if code != "NORM"]
    memory = requests([[code] for code in codes], TextConfig(width=48))
    assert memory.mask.all()
    tokens = memory.tokens[:, 0]
    torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(len(codes)))
    words = public_statements()["description"]
    assert words[codes].is_unique
    assert float(torch.pdist(tokens).min()) > 1e-3


def test_every_site_says_it_alike() -> None:
    """Sites train shared networks on these embeddings: they must agree to the last bit, in every process."""
    first = requests([["IMI"], ["LVH"]], TEXT).tokens
    public_encoder.cache_clear()
    assert torch.equal(requests([["IMI"], ["LVH"]], TEXT).tokens, first)


def test_a_statement_is_said_alike_whoever_else_is_asked() -> None:
    alone, among = requests([["IMI"]], TEXT), requests([["CLBBB", "LVH"], ["IMI"], []], TEXT)
    torch.testing.assert_close(among.tokens[1, 0], alone.tokens[0, 0])
    assert requests([], TEXT).tokens.shape == (0, 1, 12)


def test_drawn_statements_have_their_names() -> None:
    order = diagnostic_statements()
    assert named(torch.tensor([0, 43, 0])) == [[order[0]], [order[43]], [order[0]]]
    assert named(torch.zeros(0, dtype=torch.int64)) == []
    seen = torch.zeros(5, len(order))
    seen[3, order.index("CLBBB")] = 7.0
    drawn = draw_statements(seen, torch.tensor([3, 3]), torch.Generator().manual_seed(0))
    assert named(drawn) == [["CLBBB"], ["CLBBB"]]
