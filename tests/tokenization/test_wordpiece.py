from __future__ import annotations

import json

from tokenizers import Tokenizer

from kdexport.tokenization import trim, wordpiece
from tests.tokenization.conftest import queries, teacher_of

MODEL = {
    "type": "WordPiece",
    "unk_token": "[UNK]",
    "continuing_subword_prefix": "##",
    "vocab": {p: i for i, p in enumerate(["[UNK]", "a", "##a", "你", "##你", "好", "aa", "##xa"])},
}


def test_characters_never_seen_are_alike_and_those_without_a_piece_stay_inside_another() -> None:
    found = wordpiece.essential(MODEL, frozenset("ax"))
    assert found.alike == {"你", "##你", "好"}
    assert found.kept == {"a", "##a", "##xa", "[UNK]"}  # x has no piece of its own


def test_foreign_characters_share_one_row_and_the_rest_of_the_word_survives() -> None:
    trimmed = trim(queries(60, 0), teacher_of("wordpiece"), 0)
    student = Tokenizer.from_str(trimmed.document)
    assert len({student.token_to_id(character) for character in ("你", "п", "ν")}) == 1
    assert student.token_to_id("п") < len(trimmed.kept_ids)
    ids = student.encode("пcard 你lost").ids
    assert student.token_to_id("[UNK]") not in ids


def test_of_many_special_tokens_only_those_in_use_stay() -> None:
    document = json.loads(teacher_of("wordpiece"))
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.add_special_tokens([f"<extra_{i}>" for i in range(100)])
    trimmed = trim([*queries(20, 0), "card <extra_7>"], tokenizer.to_str(), 0)
    kept = Tokenizer.from_str(trimmed.document)
    assert kept.token_to_id("<extra_7>") is not None
    assert kept.token_to_id("<extra_8>") is None
    assert kept.encode("lost").tokens == ["<s>", "lost", "</s>"]
