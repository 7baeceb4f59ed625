"""Texts as vectors and reports as memories: related findings lie near each other, and nothing is fetched in silence."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavq_core.errors import ConfigError
from lavq_core.text.encoders import LatentSemanticEncoder, TextEncoder, TransformerEncoder, make_encoder
from lavq_core.text.memory import free_text_memory, statement_memory

WIDTH = 48
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "sinus", "rhythm", "inferior", "infarction", "left", "block"]


@pytest.fixture(scope="module")
def descriptions(sample: Path) -> dict[str, str]:
    table = pd.read_csv(sample / "scp_statements.csv", index_col=0)
    return table["description"].dropna().astype(str).to_dict()


@pytest.fixture(scope="module")
def encoder(descriptions: dict[str, str]) -> TextEncoder:
    return make_encoder("lsa", WIDTH, list(descriptions.values()))


# --- the embedded encoder --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("finding", "related", "unrelated"),
    [("IMI", "AMI", "CLBBB"), ("IMI", "ASMI", "LVH"), ("CLBBB", "CRBBB", "AMI"), ("LAFB", "LPFB", "NORM")],
)
def test_related_findings_are_nearer_than_unrelated_ones(
    encoder: TextEncoder, descriptions: dict[str, str], finding: str, related: str, unrelated: str
) -> None:
    one, near, far = encoder.encode([descriptions[code] for code in (finding, related, unrelated)])
    assert float(one @ near) > float(one @ far) + 0.1


def test_embeddings_are_unit_vectors_of_the_asked_width(encoder: TextEncoder, descriptions: dict[str, str]) -> None:
    found = encoder.encode(list(descriptions.values()))
    assert found.shape == (len(descriptions), WIDTH)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(len(descriptions)))


def test_different_statements_have_different_embeddings(encoder: TextEncoder, descriptions: dict[str, str]) -> None:
    texts = sorted(set(descriptions.values()))
    assert float(torch.pdist(encoder.encode(texts)).min()) > 1e-3


def test_an_empty_text_is_the_zero_vector(encoder: TextEncoder) -> None:
    assert not encoder.encode(["", "   ", "zzqx"]).any()  # nothing known is nothing said
    assert encoder.encode([]).shape == (0, WIDTH)


def test_every_site_embeds_alike(descriptions: dict[str, str]) -> None:
    """Sites do not exchange their encoders: the same public table must give the same bits."""
    texts = [*descriptions.values(), "sinus rhythm, left axis deviation"]
    first, second = (LatentSemanticEncoder(list(descriptions.values()), WIDTH).encode(texts) for _ in range(2))
    assert torch.equal(first, second)


@settings(max_examples=6, deadline=None)
@given(texts=st.lists(st.text(max_size=30), max_size=4))
def test_any_text_can_be_encoded_and_each_on_its_own(encoder: TextEncoder, texts: list[str]) -> None:
    together = encoder.encode(texts)
    assert torch.isfinite(together).all()
    for text, row in zip(texts, together, strict=True):
        torch.testing.assert_close(encoder.encode([text])[0], row)


@pytest.mark.parametrize(
    ("vocabulary", "width"),
    [(["left block", "right block"], 48), (["sinus rhythm", "left block", "old infarction"], 1)],
)
def test_a_small_vocabulary_is_padded_to_the_width(vocabulary: list[str], width: int) -> None:
    found = LatentSemanticEncoder(vocabulary, width).encode(vocabulary)
    assert found.shape == (len(vocabulary), width)
    assert torch.isfinite(found).all()


# --- transformers ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a BERT of random weights and a dozen words."""
    from transformers import BertConfig, BertModel, BertTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


TEXTS = ["sinus rhythm", "inferior myocardial infarction", "", "left block"]


@pytest.mark.parametrize("width", [8, 16, 24])
def test_a_local_transformer_embeds_deterministically(bert: Path, width: int) -> None:
    encoder = make_encoder(str(bert), width, [])
    found = encoder.encode(TEXTS)
    assert found.shape == (4, width)
    torch.testing.assert_close(found.norm(dim=-1), torch.tensor([1.0, 1.0, 0.0, 1.0]))
    assert float(torch.pdist(found[[0, 1, 3]]).min()) > 1e-3
    assert torch.equal(found, make_encoder(str(bert), width, []).encode(TEXTS))
    assert encoder.encode([]).shape == (0, width)


def test_a_wide_enough_reduction_keeps_angles(bert: Path) -> None:
    narrow, wide = (TransformerEncoder(str(bert), width).encode(TEXTS) for width in (16, 24))
    torch.testing.assert_close(narrow @ narrow.T, wide @ wide.T, rtol=1e-4, atol=1e-5)


def test_neither_padding_nor_batches_change_an_embedding(bert: Path) -> None:
    texts = [*TEXTS, "sinus rhythm left block inferior myocardial infarction"]
    in_one, in_two = (TransformerEncoder(str(bert), 16, batch=size).encode(texts) for size in (8, 2))
    torch.testing.assert_close(in_one, in_two, rtol=1e-4, atol=1e-5)


def test_a_text_beyond_the_models_length_is_cut(bert: Path) -> None:
    encoder = TransformerEncoder(str(bert), 16)
    long, longer = encoder.encode([" ".join(["sinus"] * count) for count in (100, 400)])
    torch.testing.assert_close(long, longer)


@pytest.mark.parametrize("damaged", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_model_is_refused(bert: Path, tmp_path: Path, damaged: str) -> None:
    for file in bert.iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content[: len(content) // 2] if file.name == damaged else content)
    assert str(tmp_path) in refusal(str(tmp_path))


@pytest.mark.parametrize("name", ["nobody/has-this-model", "./no/such/folder"])
def test_a_model_that_is_not_here_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # it reads the variable once, on import
    message = refusal(name)
    assert name in message
    assert "text.encoder=lsa" in message


def refusal(name: str) -> str:
    with pytest.raises(ConfigError) as caught:
        make_encoder(name, 8, [])
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- report memories -------------------------------------------------------------------------------------------------


def test_a_statement_is_one_token(encoder: TextEncoder, descriptions: dict[str, str]) -> None:
    memory = statement_memory([("IMI", "SR"), (), ("CLBBB",), ("XYZ", "IMI")], descriptions, encoder)
    assert memory.tokens.shape == (4, 2, WIDTH)
    assert memory.mask.tolist() == [[True, True], [False, False], [True, False], [True, False]]
    torch.testing.assert_close(memory.tokens[0, 0], encoder.encode([descriptions["IMI"]])[0])
    assert torch.equal(memory.tokens[3, 0], memory.tokens[0, 0])  # a code without a description is left out
    assert not memory.tokens[~memory.mask].any()


def test_a_sentence_of_free_text_is_one_token(encoder: TextEncoder) -> None:
    memory = free_text_memory(["sinus rhythm. left bundle branch block.", "", "sinus rhythm"], encoder)
    assert memory.mask.tolist() == [[True, True], [False, False], [True, False]]
    assert torch.equal(memory.tokens[0, 0], memory.tokens[2, 0])


def test_rows_are_taken_together(encoder: TextEncoder, descriptions: dict[str, str]) -> None:
    memory = statement_memory([("IMI",), ("AMI", "SR"), ()], descriptions, encoder)
    tokens, mask = memory.rows(torch.tensor([2, 1]))
    assert torch.equal(tokens, memory.tokens[[2, 1]])
    assert torch.equal(mask, memory.mask[[2, 1]])


def test_no_records_and_no_statements_leave_room_for_the_null_token(encoder: TextEncoder) -> None:
    assert statement_memory([], {}, encoder).tokens.shape == (0, 1, WIDTH)
    assert statement_memory([(), ()], {}, encoder).tokens.shape == (2, 1, WIDTH)
    assert free_text_memory(["...", " . "], encoder).mask.tolist() == [[False], [False]]
