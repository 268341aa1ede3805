from __future__ import annotations

import json

from tokenizers import Tokenizer

from kdexport.tokenization import trim, unigram
from tests.tokenization.conftest import queries, teacher_of

MODEL = {
    "type": "Unigram",
    "unk_id": 0,
    "byte_fallback": False,
    "vocab": [
        ["<unk>", 0.0],
        ["▁", -2.0],
        ["c", -3.0],
        ["a", -3.0],
        ["é", -4.0],
        ["я", -5.0],
        ["▁ca", -6.0],
        ["яя", -9.0],
    ],
}


def test_letters_of_the_texts_scripts_stay_and_so_does_the_rarest_piece() -> None:
    kept = unigram.essential(MODEL, frozenset("ca▁")).kept - {"<unk>"}
    assert kept == {"▁", "c", "a", "é", "яя"}  # я is of no script seen; яя sets the cost of the unknown piece


def test_a_letter_without_a_piece_of_its_own_stays_inside_another() -> None:
    model = MODEL | {"vocab": [entry for entry in MODEL["vocab"] if entry[0] != "é"] + [["cé", -7.0]]}  # type: ignore[attr-defined]
    assert "cé" in unigram.essential(model, frozenset("ca▁")).kept


def test_scores_are_kept_and_the_unknown_piece_is_renumbered() -> None:
    trimmed = unigram.trimmed(MODEL, {"[PAD]": 0, "▁ca": 1, "<unk>": 2})
    assert trimmed["vocab"] == [["[PAD]", -9.0], ["▁ca", -6.0], ["<unk>", 0.0]]
    assert trimmed["unk_id"] == 2


def test_a_script_that_the_texts_are_not_written_in_becomes_unknown() -> None:
    """Its pieces would be rows that nothing trains; the words around it are cut as ever."""
    trimmed = trim(queries(60, 0), teacher_of("unigram"), 0)
    student = Tokenizer.from_str(trimmed.document)
    assert student.encode("card 你好 lost").tokens == ["<s>", "▁card", "▁", "你好", "▁lost", "</s>"]
    assert student.encode("你好").ids[-2] == student.token_to_id("<unk>")


def test_a_model_that_falls_back_to_bytes_keeps_them_and_no_foreign_letter() -> None:
    document = json.loads(teacher_of("unigram"))
    document["model"]["byte_fallback"] = True
    document["model"]["vocab"] += [[f"<0x{b:02X}>", -12.0] for b in range(256)]
    student = Tokenizer.from_str(trim(queries(60, 0), json.dumps(document), 0).document)
    assert student.token_to_id("你") is None
    assert student.encode("你").tokens[-4:] == ["<0xE4>", "<0xBD>", "<0xA0>", "</s>"]


def test_a_teacher_without_padding_gets_a_new_piece_and_its_frame_keeps_its_ids() -> None:
    document = json.loads(teacher_of("unigram"))
    document["added_tokens"] = [t for t in document["added_tokens"] if t["content"] in ("<s>", "</s>", "<unk>")]
    assert document["added_tokens"][0] == document["added_tokens"][0] | {"content": "<s>", "id": 0}
    trimmed = trim(queries(60, 0), json.dumps(document), 0)
    student = Tokenizer.from_str(trimmed.document)
    assert (student.id_to_token(0), student.encode("lost").tokens) == ("[PAD]", ["<s>", "▁lost", "</s>"])
    assert student.encode("lost").ids[0] == student.token_to_id("<s>") != 0
