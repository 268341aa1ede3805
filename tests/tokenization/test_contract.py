"""What holds for every tokenizer model that can be trimmed."""

from __future__ import annotations

import csv
import itertools
import json
import random
import string
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from kdexport import registry
from kdexport.bundle.runner.tokenizer import TextEncoder
from kdexport.errors import Unsupported
from kdexport.tokenization import PADDING, Trimmed, _kind_of, _post_processor, trim, vocab_sizes
from tests.tokenization.conftest import odd_strings, queries, teacher_of

ODD = odd_strings(2000)


def plain(document: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(document)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def cut(document: str, texts: list[str]) -> list[list[int]]:
    return [e.ids for e in plain(document).encode_batch(texts)]


def unknown_id(document: str) -> int | None:
    kind, parsed = _kind_of(json.loads(document), document)
    piece = kind.unknown(parsed["model"])
    return None if piece is None else plain(document).token_to_id(piece)


def in_teachers_ids(trimmed: Trimmed, rows: list[list[int]]) -> list[list[int]]:
    return [[trimmed.kept_ids[i] for i in row] for row in rows]


def mistyped(texts: list[str], rate: float, seed: int) -> list[str]:
    chance = random.Random(seed)

    def changed(a: str, b: str) -> str:
        return chance.choice([chance.choice(string.ascii_lowercase), "", a + a, b + a]) if chance.random() < rate else a

    return ["".join(changed(a, b) for a, b in zip(text, text[1:] + " ", strict=True)) for text in texts]


def _queries(path: Path) -> list[str]:
    with open(path, encoding="utf-8", newline="") as f:
        return [row["text"] for row in csv.DictReader(f)]


def sizes_of(texts: list[str], teacher: str) -> list[int]:
    return [*vocab_sizes(texts, teacher), vocab_sizes(texts, teacher)[-1] - 7, 1]


def test_every_module_of_the_folder_has_a_teacher_here() -> None:
    kinds = {json.loads(teacher_of(k))["model"]["type"] for k in ("wordpiece", "unigram", "byte_level_bpe")}
    assert {kind.lower() for kind in kinds} == set(registry.names("tokenization"))


def test_the_texts_are_cut_as_the_teacher_cuts_them(texts: list[str], teacher: str) -> None:
    trimmed = trim(texts, teacher, 0)
    assert len(trimmed.kept_ids) < plain(teacher).get_vocab_size()
    assert in_teachers_ids(trimmed, cut(trimmed.document, texts)) == cut(teacher, texts)


def test_a_text_of_kept_pieces_is_cut_as_before_at_every_size(texts: list[str], teacher: str) -> None:
    tried = [*texts, *queries(200, 5), *ODD]
    wanted = cut(teacher, tried)
    for size in sizes_of(texts, teacher):
        trimmed = trim(texts, teacher, size)
        made = in_teachers_ids(trimmed, cut(trimmed.document, tried))
        whole = [i for i, row in enumerate(wanted) if set(row) <= set(trimmed.kept_ids)]
        assert [made[i] for i in whole] == [wanted[i] for i in whole]
    assert len(whole) > 5


def test_no_text_of_printable_characters_becomes_unknown(texts: list[str], teacher: str) -> None:
    """Nor any of the letters in the texts' scripts: the é of café, and its neighbours."""
    trimmed, unknown = trim(texts, teacher, 1), unknown_id(teacher)
    tried = [*string.printable, "ï", *queries(100, 9), *MADE_OF_PRINTABLE]
    new = unknown_id(trimmed.document)
    for text, before, after in zip(tried, cut(teacher, tried), cut(trimmed.document, tried), strict=True):
        assert new is None or new not in after or unknown in before, text


MADE_OF_PRINTABLE = ["".join(part) for part in itertools.product("aZ9!é~", "qX0-£ ", "Zjé@")]


def test_ids_are_dense_and_the_padding_is_id_0(texts: list[str], teacher: str) -> None:
    for size in sizes_of(texts, teacher):
        trimmed = trim(texts, teacher, size)
        tokenizer = plain(trimmed.document)
        assert set(tokenizer.get_vocab().values()) == set(range(len(trimmed.kept_ids)))
        assert all(0 not in row for row in cut(trimmed.document, queries(50, 3)))
    padding = tokenizer.id_to_token(0)
    assert padding == PADDING or plain(teacher).token_to_id(padding) == trimmed.kept_ids[0]


def test_a_size_gives_that_many_pieces_and_a_smaller_one_a_part_of_them(texts: list[str], teacher: str) -> None:
    sizes = vocab_sizes(texts, teacher)
    assert sizes == sorted(set(sizes), reverse=True)
    smaller = range(sizes[0], max(sizes[-1] - 10, 0), -3)
    kept = [trim(texts, teacher, size).kept_ids for size in smaller]
    assert [len(set(ids)) for ids in kept if len(ids) > len(kept[-1])] == [n for n in smaller if n > len(kept[-1])]
    assert all(set(few) <= set(many) for many, few in itertools.pairwise(kept))


def test_the_frame_and_the_added_tokens_keep_their_meaning(texts: list[str], teacher: str) -> None:
    trimmed = trim(texts, teacher, 1)
    before, after = plain(teacher), plain(trimmed.document)
    assert after.encode("").tokens == before.encode("").tokens
    assert after.encode("", "").tokens == before.encode("", "").tokens
    for token in json.loads(teacher)["added_tokens"]:
        found = after.token_to_id(token["content"])
        assert trimmed.kept_ids[found] == token["id"]
        assert after.encode(token["content"]).tokens == before.encode(token["content"]).tokens


def test_an_added_word_in_use_is_kept_with_its_id_outside_the_model(texts: list[str], teacher: str) -> None:
    tokenizer = Tokenizer.from_str(teacher)
    tokenizer.add_tokens(["top-up", "nobody says this"])
    document = tokenizer.to_str()
    trimmed = trim(texts, document, 0)
    assert trimmed.kept_ids[plain(trimmed.document).token_to_id("top-up")] == tokenizer.token_to_id("top-up")
    assert plain(trimmed.document).token_to_id("nobody says this") is None
    assert in_teachers_ids(trimmed, cut(trimmed.document, texts)) == cut(document, texts)


def test_what_ships_gives_the_library_s_ids_on_odd_strings(texts: list[str], teacher: str, tmp_path: Path) -> None:
    trimmed = trim(texts, teacher, 0)
    (tmp_path / "tokenizer.json").write_text(trimmed.document, encoding="utf-8")
    runner = TextEncoder(tmp_path / "tokenizer.json", trimmed.max_length, 0)
    library = Tokenizer.from_str(trimmed.document)
    wanted = [e.ids or [0] for e in library.encode_batch(ODD)]  # a text of no pieces is one of padding: see the runner
    assert [runner.encode(text)[0].tolist() for text in ODD] == wanted
    assert max(map(max, filter(None, wanted))) < len(trimmed.kept_ids)


def test_truncation_is_the_teachers_and_padding_is_left_to_the_batch(texts: list[str], teacher: str) -> None:
    tokenizer = Tokenizer.from_str(teacher)
    tokenizer.enable_padding(length=40)
    for limit, wanted in ((32, 32), (512, 128)):
        tokenizer.enable_truncation(limit, direction="left")
        trimmed = trim(texts, tokenizer.to_str(), 0)
        assert trimmed.max_length == wanted
        student = Tokenizer.from_str(trimmed.document)
        assert len(student.encode("card " * 400).ids) == wanted
        assert len(student.encode("card").ids) < 10


@pytest.mark.parametrize("kind", ["WordLevel", "Mystery", None])
def test_a_model_that_cannot_be_trimmed_is_refused_by_name(texts: list[str], kind: str | None) -> None:
    document = json.dumps({"model": {"type": kind, "vocab": {}}})
    with pytest.raises(
        Unsupported, match=f"tokenizer model '{kind}' cannot be trimmed.*BPE, Unigram, WordPiece teachers"
    ):
        trim(texts, document, 0)


def test_a_frame_that_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match="post-processor 'Mystery' is not known"):
        _post_processor.ids({"type": "Sequence", "processors": [{"type": "Mystery"}]})


def test_a_real_teacher_s_query_holds_no_unknown_piece_even_mistyped(shared: Path, tmp_path: Path) -> None:
    """Each character with probability 0.05: another letter, left out, doubled, or swapped with the next."""
    teacher = (shared / "models" / "banking77-teacher" / "tokenizer.json").read_text(encoding="utf-8")
    train, test = (_queries(shared / "data" / "banking77" / name)[:2000] for name in ("train.csv", "test.csv"))
    trimmed = trim(train, teacher, 700)
    tried = [*test, *mistyped(test, 0.05, 0), *ODD]
    unknown, teachers_unknown = unknown_id(trimmed.document), unknown_id(teacher)
    before, after = cut(teacher, tried), cut(trimmed.document, tried)
    assert len(trimmed.kept_ids) == 700
    assert not any(unknown in row for row in after[: 2 * len(test)])
    assert all(unknown not in row or teachers_unknown in old for row, old in zip(after, before, strict=True))
    (tmp_path / "tokenizer.json").write_text(trimmed.document, encoding="utf-8")
    runner = TextEncoder(tmp_path / "tokenizer.json", trimmed.max_length, 0)
    library = Tokenizer.from_str(trimmed.document)
    wanted = [e.ids or [0] for e in library.encode_batch(ODD)]  # a text of no pieces is one of padding: see the runner
    assert [runner.encode(text)[0].tolist() for text in ODD] == wanted
