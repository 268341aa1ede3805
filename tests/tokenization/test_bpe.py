from __future__ import annotations

import json

from tokenizers import Tokenizer, decoders

from kdexport.tokenization import bpe, trim
from tests.tokenization.conftest import queries, teacher_of

# a b c d with the merges ab, cd, abcd, bc: 'abcd' is reached by ab and cd
MODEL = {
    "type": "BPE",
    "vocab": {p: i for i, p in enumerate(["a", "b", "c", "d", "ab", "cd", "abcd", "bc", "xx"])},
    "merges": [["a", "b"], ["c", "d"], ["ab", "cd"], ["b", "c"]],
}


def test_a_piece_comes_after_every_piece_that_it_is_merged_from() -> None:
    assert bpe.in_order(MODEL, ["abcd", "bc"]) == ["ab", "cd", "abcd", "bc"]


def test_a_piece_that_no_merge_reaches_needs_no_other() -> None:
    assert bpe.in_order(MODEL, ["xx"]) == ["xx"]


def test_only_merges_between_kept_pieces_stay_in_their_order() -> None:
    kept = {p: i for i, p in enumerate(["a", "b", "c", "d", "ab", "bc"])}
    assert bpe.trimmed(MODEL, kept)["merges"] == ["a b", "b c"]


def test_merges_written_as_one_string_are_read_too() -> None:
    old = MODEL | {"merges": ["a b", "c d", "ab cd", "b c"]}
    assert bpe.in_order(old, ["abcd"]) == bpe.in_order(MODEL, ["abcd"])
    assert bpe.trimmed(old, MODEL["vocab"]) == bpe.trimmed(MODEL, MODEL["vocab"])  # type: ignore[arg-type]


def test_merges_of_pieces_with_a_space_are_written_as_pairs() -> None:
    model = {"type": "BPE", "vocab": {" ": 0, "a": 1, " a": 2}, "merges": [[" ", "a"]]}
    assert bpe.trimmed(model, model["vocab"])["merges"] == [[" ", "a"]]  # type: ignore[arg-type]


def test_all_256_bytes_stay_so_that_nothing_is_unknown() -> None:
    for kind in ("byte_level_bpe", "bpe_without_padding"):
        trimmed = trim(["card"], teacher_of(kind), 1)
        student = Tokenizer.from_str(trimmed.document)
        assert 256 <= len(trimmed.kept_ids) <= 256 + 6
        student.decoder = decoders.ByteLevel()
        assert student.decode(student.encode("naïve 你好 🙂").ids).strip() == "naïve 你好 🙂"


def test_a_model_that_falls_back_to_bytes_keeps_them_and_drops_letters_never_seen() -> None:
    trimmed = trim(queries(50, 0), teacher_of("bpe_of_sentencepiece"), 0)
    vocabulary = json.loads(trimmed.document)["model"]["vocab"]
    assert {f"<0x{b:02X}>" for b in range(256)} <= vocabulary.keys()
    assert "é" in vocabulary
    assert "你" not in vocabulary
    assert Tokenizer.from_str(trimmed.document).encode("你").tokens[-3:] == ["<0xE4>", "<0xBD>", "<0xA0>"]


def test_padding_is_a_special_token_that_frames_no_text_or_a_new_piece() -> None:
    document = json.loads(teacher_of("bpe_without_padding"))
    assert Tokenizer.from_str(trim(["card"], json.dumps(document), 0).document).id_to_token(0) == "<|endoftext|>"
    document["added_tokens"] = []
    assert Tokenizer.from_str(trim(["card"], json.dumps(document), 0).document).id_to_token(0) == "[PAD]"


def test_dropout_is_for_training_a_teacher_and_left_out() -> None:
    document = json.loads(teacher_of("byte_level_bpe"))
    document["model"]["dropout"] = 0.5
    student = Tokenizer.from_str(trim(queries(40, 1), json.dumps(document), 0).document)
    assert len({tuple(student.encode("refunded payment exchange").ids) for _ in range(20)}) == 1
