from __future__ import annotations

import csv
import json
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from kdexport.bundle.runner import tokenizer as runner_tokenizer
from kdexport.bundle.runner.tokenizer import TextEncoder, bert_frame

from .conftest import MAX_LENGTH, SPECIALS, WORDS, word_piece

TEACHER = Path("/work/shared/models/banking77-teacher/tokenizer.json")
QUERIES = Path("/work/shared/data/banking77/test.csv")

ODD = [
    "\x00",
    "\x01",
    "\x7f",
    "\t",
    "\n",
    "\r",
    "\x85",
    "\xa0",
    "\u200b",
    "\ufeff",
    "é",
    "É",
    "e\u0301",
    "ß",
    "ﬁ",
    "中文",
    "“",
    "—",
    "🙂",
    "\u2028",
]
PARTS = st.one_of(
    st.sampled_from([*SPECIALS, *WORDS, "a" * 99, "a" * 100, "a" * 101, "[", "]", "[[CLS]]", "[cls]"]),
    st.sampled_from(ODD),
    st.sampled_from(list(string.printable)),
    st.text(max_size=6),
)
TEXTS = st.lists(PARTS, max_size=20).flatmap(
    lambda parts: st.sampled_from(["", " "]).map(lambda glue: glue.join(parts))
)


def reference(tokenizer: Tokenizer, text: str, max_length: int) -> list[int]:
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return list(tokenizer.encode(text).ids)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[TextEncoder, Tokenizer]:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    word_piece().save(str(path))
    return TextEncoder(path, MAX_LENGTH), Tokenizer.from_file(str(path))


@settings(max_examples=400, deadline=None)
@given(text=TEXTS)
def test_ids_are_those_of_the_tokenizers_library_on_any_text(pair: tuple[TextEncoder, Tokenizer], text: str) -> None:
    encoder, tokenizer = pair
    assert encoder.has_fast_path
    for _ in ("first sight", "from the cache"):
        assert encoder.encode(text).tolist() == [reference(tokenizer, text, MAX_LENGTH)]


@pytest.mark.parametrize("max_length", [2, 3, 4, 200])
def test_truncation_keeps_the_last_special_token_at_every_length(tmp_path: Path, max_length: int) -> None:
    tokenizer = word_piece()
    tokenizer.save(str(tmp_path / "t.json"))
    encoder = TextEncoder(tmp_path / "t.json", max_length)
    for text in ["", "my", "my card", "abcabcabc", "a" * 100, "a" * 101, "my card " * 30, "my cárd " * 30]:
        assert encoder.encode(text).tolist() == [reference(tokenizer, text, max_length)]


def test_the_truncation_and_padding_written_in_the_file_do_not_count(tmp_path: Path) -> None:
    tokenizer = word_piece()
    tokenizer.enable_truncation(4, direction="left")
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(tmp_path / "t.json"))
    encoder = TextEncoder(tmp_path / "t.json", 6)
    assert encoder.encode("my card cash how do i").tolist() == [[2, 5, 6, 7, 8, 3]]
    assert encoder.encode("my cárd é how do i")[0, -1] == 3


@pytest.mark.parametrize("normaliser", [{"lowercase": False}, {"strip_accents": True}, {"clean_text": False}])
def test_other_settings_of_the_bert_normaliser_keep_the_fast_path(tmp_path: Path, normaliser: dict[str, bool]) -> None:
    tokenizer = word_piece(**normaliser)
    tokenizer.save(str(tmp_path / "t.json"))
    encoder = TextEncoder(tmp_path / "t.json", MAX_LENGTH)
    assert encoder.has_fast_path
    for text in ["My CARD", "My\tcard", "é card", "card\x01card"]:
        assert encoder.encode(text).tolist() == [reference(tokenizer, text, MAX_LENGTH)]


def test_a_tokenizer_that_is_not_berts_always_falls_back() -> None:
    document = json.loads(word_piece().to_str())
    assert bert_frame(document) == ([2], [3])
    added = {**document["added_tokens"][0], "content": "card"}
    for change in (
        {"normalizer": {"type": "Lowercase"}},
        {"normalizer": None},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"model": {"type": "BPE"}},
        {"post_processor": None},
        {"added_tokens": [added]},
        {"post_processor": {**document["post_processor"], "single": document["post_processor"]["single"][:2]}},
    ):
        assert bert_frame({**document, **change}) is None, change


def test_mpnets_frame_and_special_tokens_keep_the_fast_path(tmp_path: Path) -> None:
    document = json.loads(word_piece().to_str())
    document["post_processor"] = {
        "type": "RobertaProcessing",
        "sep": ["[SEP]", 3],
        "cls": ["[CLS]", 2],
        "trim_offsets": True,
        "add_prefix_space": False,
    }
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True), AddedToken("<S>", normalized=True)])
    tokenizer.save(str(tmp_path / "t.json"))
    encoder = TextEncoder(tmp_path / "t.json", MAX_LENGTH)
    assert encoder.has_fast_path
    for text in ["my card", "", "my <mask> card", "my < card >", "<s> my card", "my  <mask>card"]:
        assert encoder.encode(text).tolist() == [reference(tokenizer, text, MAX_LENGTH)]


def test_an_added_word_is_found_although_it_is_plain_text(tmp_path: Path) -> None:
    tokenizer = word_piece()
    tokenizer.add_tokens(["my card"])
    tokenizer.save(str(tmp_path / "t.json"))
    encoder = TextEncoder(tmp_path / "t.json", MAX_LENGTH)
    assert encoder.encode("how my card").tolist() == [reference(tokenizer, "how my card", MAX_LENGTH)]


def test_a_batch_is_padded_on_the_right(pair: tuple[TextEncoder, Tokenizer]) -> None:
    ids = pair[0].encode_batch(["my card", "", "my cárd cash"])
    assert ids.dtype == np.int64
    assert ids.shape == (3, 5)
    assert ids[1].tolist() == [2, 3, 0, 0, 0]


def test_the_cache_starts_empty_and_stays_bounded(
    pair: tuple[TextEncoder, Tokenizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_tokenizer, "MAX_CACHED_WORDS", 10)
    word_piece().save(str(tmp_path / "t.json"))
    encoder = TextEncoder(tmp_path / "t.json", MAX_LENGTH)
    assert len(encoder._words) == 0
    for i in range(100):
        encoder.encode(f"a{i} {'b' * 33}")
        assert len(encoder._words) <= 10
    assert "b" * 33 not in encoder._words


def test_a_lone_surrogate_is_read_as_a_question_mark(pair: tuple[TextEncoder, Tokenizer]) -> None:
    assert pair[0].encode("my \ud800 card").tolist() == pair[0].encode("my ? card").tolist()


def test_a_length_without_room_for_the_special_tokens_is_refused(tmp_path: Path) -> None:
    word_piece().save(str(tmp_path / "t.json"))
    with pytest.raises(ValueError, match="max_length is 1; at least 2"):
        TextEncoder(tmp_path / "t.json", 1)


@pytest.mark.skipif(not (TEACHER.exists() and QUERIES.exists()), reason="the shared Banking77 teacher is not here")
def test_ids_are_equal_on_every_test_query_of_banking77() -> None:
    tokenizer = Tokenizer.from_file(str(TEACHER))
    encoder = TextEncoder(TEACHER, 64)
    with open(QUERIES, newline="") as f:
        texts = [row[0] for row in csv.reader(f)][1:]
    assert len(texts) == 3080
    tokenizer.enable_truncation(64)
    assert all(
        encoder.encode(t)[0].tolist() == e.ids for t, e in zip(texts, tokenizer.encode_batch(texts), strict=True)
    )
