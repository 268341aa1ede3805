from __future__ import annotations

import csv
import itertools
import json
import random
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from kdexport.bundle.runner.tokenizer import TextEncoder
from kdexport.errors import Unsupported
from kdexport.tasks import Prepared
from kdexport.tasks import text_classification as task
from tests.tasks.conftest import queries

SHARED_FIXTURE = [HealthCheck.function_scoped_fixture]


def plain(document: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(document)
    tokenizer.no_padding()
    return tokenizer


def vocabulary(document: str) -> dict[str, int]:
    return dict(json.loads(document)["model"]["vocab"])


def known(tokenizer: Tokenizer, text: str) -> bool:
    return "[UNK]" not in tokenizer.encode(text).tokens


def test_the_trimmed_tokenizer_cuts_the_training_texts_as_the_teacher_does(
    texts: list[str], teacher_tokenizer: str
) -> None:
    student, teacher = (plain(t) for t in (task.prepare(texts, teacher_tokenizer, 0).tokenizer_json, teacher_tokenizer))
    for text in texts:
        assert student.encode(text).tokens == teacher.encode(text).tokens


def test_trimming_drops_pieces_that_nobody_uses(texts: list[str], teacher_tokenizer: str) -> None:
    prepared = task.prepare(texts, teacher_tokenizer, 0)
    dropped = set(vocabulary(teacher_tokenizer)) - set(vocabulary(prepared.tokenizer_json))
    ids = set(vocabulary(prepared.tokenizer_json).values())
    assert prepared.vocab_size == len(ids) < len(vocabulary(teacher_tokenizer))
    assert any("quartz".startswith(piece) and len(piece) > 2 for piece in dropped)


@pytest.mark.parametrize("vocab_size", [0, 1])
def test_every_single_character_is_kept_however_small_the_vocabulary(
    texts: list[str], teacher_tokenizer: str, vocab_size: int
) -> None:
    kept = vocabulary(task.prepare(texts, teacher_tokenizer, vocab_size).tokenizer_json)
    single = {p for p in vocabulary(teacher_tokenizer) if len(p.removeprefix("##")) == 1}
    assert len(single) > 40
    assert single <= set(kept)


def test_the_kept_ids_are_the_teachers_ids_of_the_pieces(texts: list[str], teacher_tokenizer: str) -> None:
    prepared, before = task.prepare(texts, teacher_tokenizer, 0), vocabulary(teacher_tokenizer)
    kept = vocabulary(prepared.tokenizer_json)
    assert sorted(kept.values()) == list(range(prepared.vocab_size))
    assert all(prepared.kept_ids[new] == before[piece] for piece, new in kept.items())


def test_the_padding_is_id_0(texts: list[str], teacher_tokenizer: str) -> None:
    document = json.loads(teacher_tokenizer)
    names = sorted(document["model"]["vocab"], key=document["model"]["vocab"].__getitem__)
    swapped = {**document["model"]["vocab"], "[PAD]": 4, names[4]: 0}  # a teacher whose padding is elsewhere
    document["model"]["vocab"] = swapped
    document["added_tokens"] = [t | {"id": swapped[t["content"]]} for t in document["added_tokens"]]
    for tokenizer in (teacher_tokenizer, json.dumps(document), ""):
        prepared = task.prepare(texts, tokenizer, 0)
        assert (vocabulary(prepared.tokenizer_json)["[PAD]"], prepared.preprocessor.pad_id) == (0, 0)


def test_sizes_worth_trying_are_exactly_what_preparing_gives(texts: list[str], teacher_tokenizer: str) -> None:
    for tokenizer in (teacher_tokenizer, ""):
        sizes = task.vocab_sizes(texts, tokenizer)
        assert sizes == sorted(set(sizes), reverse=True)
        assert [task.prepare(texts, tokenizer, size).vocab_size for size in sizes] == sizes


def test_a_smaller_vocabulary_keeps_the_most_frequent_pieces(texts: list[str], teacher_tokenizer: str) -> None:
    sizes = [*task.vocab_sizes(texts, teacher_tokenizer), 1]
    kept = [set(vocabulary(task.prepare(texts, teacher_tokenizer, size).tokenizer_json)) for size in sizes]
    assert all(small <= large for large, small in itertools.pairwise(kept))
    assert len(kept[-1]) < len(kept[0])


@settings(max_examples=150, deadline=None, suppress_health_check=SHARED_FIXTURE)
@given(st.text(alphabet=st.sampled_from("abcdefghijklmnopqrstuvwxyzé019 -?!,ABÉ\u4f60\u00df\u0130[]"), max_size=40))
def test_no_text_that_the_teacher_knows_becomes_unknown(texts: list[str], teacher_tokenizer: str, text: str) -> None:
    student, teacher = (plain(t) for t in (task.prepare(texts, teacher_tokenizer, 1).tokenizer_json, teacher_tokenizer))
    assert known(student, text) or not known(teacher, text)


@settings(max_examples=100, deadline=None, suppress_health_check=SHARED_FIXTURE)
@given(st.text(max_size=60))
def test_any_text_is_encoded_and_decodes_to_the_same_ids_as_what_ships(
    texts: list[str], teacher_tokenizer: str, tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    prepared = task.prepare(texts, teacher_tokenizer, 0)
    path = tmp_path_factory.getbasetemp() / "tokenizer.json"
    path.write_text(prepared.tokenizer_json, encoding="utf-8")
    runner = TextEncoder(path, prepared.preprocessor.max_length, prepared.preprocessor.pad_id)
    batch = task.encode(prepared, [text, "card"]).batch(np.arange(2))
    np.testing.assert_array_equal(batch, runner.encode_batch([text, "card"]))


def test_a_text_without_a_single_token_is_one_of_padding_here_and_in_what_ships(tmp_path: Path) -> None:
    """GPT-2 frames nothing: an empty text has no token, and no network takes a row without one."""
    document = json.loads(Tokenizer(models.BPE({"a": 0, "b": 1}, [])).to_str())
    prepared = task.prepare(["ab", "a"], json.dumps(document), 0)
    encoded = task.encode(prepared, ["", "ab", ""])
    assert encoded.batch(np.array([0, 2])).tolist() == [[0], [0]]
    assert encoded.lengths.tolist() == [1, 2, 1]
    (tmp_path / "t.json").write_text(prepared.tokenizer_json)
    ships = TextEncoder(tmp_path / "t.json", prepared.preprocessor.max_length)
    assert ships.encode("").tolist() == ships.encode_batch([""]).tolist() == [[0]]


def test_rows_are_padded_to_the_longest_of_the_batch(texts: list[str], teacher_tokenizer: str) -> None:
    encoded = task.encode(task.prepare(texts, teacher_tokenizer, 0), ["card", "card card", ""])
    assert encoded.lengths.tolist() == [3, 4, 2]
    assert (encoded.batch(np.array([0, 2])) == 0).tolist() == [[False] * 3, [False, False, True]]
    assert encoded.batch(np.array([2])).shape == (1, 2)


def test_a_long_text_is_cut_at_the_teachers_limit_and_never_above_128(texts: list[str], teacher_tokenizer: str) -> None:
    document = json.loads(teacher_tokenizer)
    for limit, wanted in ((32, 32), (512, 128)):
        document["truncation"]["max_length"] = limit
        prepared = task.prepare(texts, json.dumps(document), 0)
        assert prepared.preprocessor.max_length == wanted
        assert task.encode(prepared, ["card " * 400]).lengths.tolist() == [wanted]


def test_a_tokenizer_that_cannot_be_trimmed_is_refused_by_name(texts: list[str]) -> None:
    document = json.dumps({"model": {"type": "WordLevel", "vocab": {}, "unk_token": "[UNK]"}})
    for call in (lambda: task.prepare(texts, document, 0), lambda: task.vocab_sizes(texts, document)):
        with pytest.raises(Unsupported, match="tokenizer model 'WordLevel' cannot be trimmed"):
            call()


def test_without_a_teachers_tokenizer_one_is_learnt_from_the_texts(texts: list[str]) -> None:
    prepared = task.prepare(texts, "", 0)
    tokenizer = plain(prepared.tokenizer_json)
    assert all(known(tokenizer, text) for text in texts)
    assert known(tokenizer, "quartz 42 {zebra}")  # letters that no text held
    assert tokenizer.encode("payment").tokens == ["[CLS]", "payment", "[SEP]"]


def test_a_learnt_tokenizer_is_the_same_every_time() -> None:
    texts = queries(300, 9) + [f"{a}{b} word{a}" for a in "abcdefgh" for b in "ijklmnop"]
    assert len({task.prepare(texts, "", 0).tokenizer_json for _ in range(4)}) == 1


def test_variants_hold_only_words_of_the_texts_but_for_those_mistyped(texts: list[str]) -> None:
    words = {w for t in texts for w in t.split()} | {"alone"}
    rows = [*texts, "", "alone"]
    variants = [str(v) for v in task.augment(rows, 8, seed=0)]
    rounds = [variants[i : i + len(rows)] for i in range(0, len(variants), len(rows))]
    foreign = [sum(not words.issuperset(v.split()) for v in found) for found in rounds]
    assert [n > 0 for n in foreign] == [kind == "mistype" for kind in task.rounds(8, {})]


def test_a_mistyped_text_differs_in_a_tenth_of_its_characters_at_most_and_is_never_empty() -> None:
    text = "please tell me why the transfer to my savings account has not arrived yet"
    for seed in range(30):
        wrong = " ".join(task._mistype(text.split(), [], random.Random(seed)))
        assert wrong != text
        kept = SequenceMatcher(None, text, wrong, autojunk=False).ratio()
        assert kept > 0.8  # 8 slips of 73 characters, each of which may cost two
    assert task._mistype(["a"], [], random.Random(0)) == ["a"]


def test_no_variant_of_a_text_with_words_is_empty(texts: list[str]) -> None:
    assert all(task.augment(texts, 12, seed=4))


def test_the_real_teacher_is_trimmed_to_a_fifteenth_without_changing_a_query(shared: Path) -> None:
    tokenizer = (shared / "models" / "banking77-teacher" / "tokenizer.json").read_text(encoding="utf-8")
    with open(shared / "data" / "banking77" / "train.csv", encoding="utf-8") as f:
        texts = [row["text"] for row in csv.DictReader(f)][:3000]
    prepared = task.prepare(texts, tokenizer, 0)
    student, teacher = plain(prepared.tokenizer_json), plain(tokenizer)
    assert prepared.vocab_size < len(vocabulary(tokenizer)) / 15
    wanted = [e.tokens for e in teacher.encode_batch(texts)]
    assert [e.tokens for e in student.encode_batch(texts)] == wanted


@settings(max_examples=150, deadline=None, suppress_health_check=SHARED_FIXTURE)
@given(text=st.text(max_size=20))
def test_no_text_that_the_real_teacher_knows_becomes_unknown(shared: Path, text: str) -> None:
    student, teacher = real_pair(shared)
    assert known(student, text) or not known(teacher, text)


_REAL: list[Tokenizer] = []


def real_pair(shared: Path) -> list[Tokenizer]:
    if not _REAL:
        tokenizer = (shared / "models" / "banking77-teacher" / "tokenizer.json").read_text(encoding="utf-8")
        prepared: Prepared = task.prepare(["my card was lost"], tokenizer, 0)
        _REAL.extend([plain(prepared.tokenizer_json), plain(tokenizer)])
    return _REAL
