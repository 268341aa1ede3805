"""A language model behind an OpenAI-compatible server: what it is asked, what is made of its answers, what is survived,
what it may cost. The server is a real one on loopback; it counts what reaches it."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from kdexport.errors import BadInput, CapReached, Damaged, Unsupported
from kdexport.nouns.endpoint import Chat
from kdexport.nouns.project import Project, TeacherSource
from kdexport.nouns.teacher import TeacherMember
from kdexport.teachers import TeacherContext, _asking, chat
from kdexport.teachers._answers import answers_of, open_answers
from tests.teachers.loopback import Loopback, Reply, completion, letter_of, serving, text_of

CLASSES = ("card", "pay", "refund")
TEXTS = tuple(f"{word} number {i}" for i in range(8) for word in CLASSES)
USAGE = {"prompt_tokens": 100, "completion_tokens": 1}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_asking, "FIRST_PAUSE_S", 0.01)


def knows(body: Any) -> Reply:
    """Sure of the right letter, with log-probabilities."""
    letter = letter_of(text_of(body), CLASSES)
    others = {other: 0.02 for other in "ABC" if other != letter}
    return Reply(completion(letter, [{letter: 0.9, **others, "The": 0.06}], USAGE))


class Scripted:
    """Misbehaves as told at its first requests, then knows. GET is answered as many servers do: 404."""

    def __init__(self, *first: Reply, then: Callable[[Any], Reply] = knows) -> None:
        self.first, self.then = list(first), then

    def __call__(self, method: str, path: str, body: Any) -> Reply:
        if method == "GET":
            return Reply({"error": "no such page"}, status=404)
        assert path == "/v1/chat/completions"
        return self.first.pop(0) if self.first else self.then(body)


class Asked:
    """A teacher made ready in `folder`, as a run does it."""

    def __init__(self, folder: Path, server: Loopback, inputs: Sequence[str] = TEXTS, **settings: Any) -> None:
        self.stages = folder / "stages"
        given = {"url": f"{server.url}/v1", "model": "small", "max_parallel": 1, **settings}
        self.source = TeacherSource.model_validate({"chat": given})
        self.context = context_for(self.source, inputs)
        own = self.stages / "teach-1"
        own.mkdir(parents=True, exist_ok=True)
        member = chat.ready(self.source, self.context, own)
        self.member: TeacherMember = member.model_copy(update={"question": f"teach-1/{member.question}"})
        self.file = answers_of(folder, self.member)

    def logits(self, texts: Sequence[str] = TEXTS) -> np.ndarray:
        return chat.answer(self.source, self.member, texts, self.stages)

    def summary(self) -> Any:
        return open_answers(self.file).summary("small")


def context_for(
    source: TeacherSource, inputs: Sequence[Any] = TEXTS, task: str = "text_classification"
) -> TeacherContext:
    project = Project.model_validate(
        {"name": "p", "task": task, "teachers": [source], "data": {"train": {"path": "t.csv"}}, "targets": ["l4"]}
    )
    labels = np.arange(len(inputs), dtype=np.int64) % 3
    return TeacherContext(project, CLASSES, inputs, labels, inputs[:2], labels[:2], threads=1)


def right(logits: np.ndarray, texts: Sequence[str] = TEXTS) -> bool:
    return [CLASSES[i] for i in logits.argmax(1)] == [t.split()[0] for t in texts]


# --- what is asked, and what is made of it


def test_scores_come_from_the_log_probabilities_of_the_letters(tmp_path: Path) -> None:
    with serving(Scripted()) as server:
        logits = Asked(tmp_path, server).logits()
    assert logits.shape == (len(TEXTS), 3)
    assert logits.dtype == np.float32
    assert right(logits)
    np.testing.assert_allclose(np.exp(logits).max(1), 0.9 / 0.94, rtol=1e-4)
    assert server.asked[0]["top_logprobs"] == 20


def test_the_prompt_lists_every_class_with_its_code_and_description(tmp_path: Path) -> None:
    with serving(Scripted()) as server:
        Asked(tmp_path, server, describe={"pay": "a payment"}).logits(TEXTS[:1])
    system, user = server.asked[0]["messages"]
    assert "A: card\nB: pay (a payment)\nC: refund" in system["content"]
    assert user == {"role": "user", "content": TEXTS[0]}


def test_a_text_with_braces_is_sent_as_it_is(tmp_path: Path) -> None:
    text = "card {labels} {text} {how} \\1"
    with serving(Scripted()) as server:
        Asked(tmp_path, server).logits([text])
    assert server.asked[0]["messages"][-1]["content"] == text


def test_a_prompt_of_the_users_own_is_cut_at_the_paragraph_of_the_text(tmp_path: Path) -> None:
    with serving(Scripted()) as server:
        Asked(tmp_path, server, prompt="Sort into:\n{labels}\n\nMail: {text}\nClass:").logits(TEXTS[:1])
    system, user = server.asked[0]["messages"]
    assert system["content"].startswith("Sort into:\nA: card")
    assert user["content"] == f"Mail: {TEXTS[0]}\nClass:"


def test_examples_are_turns_of_the_training_rows_and_the_same_in_any_order_of_rows(tmp_path: Path) -> None:
    source = TeacherSource.model_validate({"chat": {"url": "http://h/v1", "model": "m", "examples": 2}})
    there, back = context_for(source), context_for(source, TEXTS)
    rows = np.arange(len(TEXTS))[::-1]
    assert back.train_labels is not None
    back = TeacherContext(
        back.project, CLASSES, [TEXTS[i] for i in rows], back.train_labels[rows], TEXTS[:2], None, threads=1
    )
    first, second = chat._question(source, there), chat._question(source, back)
    assert first == second
    assert [m.role for m in first.messages] == ["system", *["user", "assistant"] * 6]
    assert [m.content for m in first.messages[2::2]] == ["A", "B", "C"] * 2


@pytest.mark.parametrize(("style", "answer"), [("numbers", "11"), ("names", "pay"), ("letters", "B")])
def test_each_way_to_name_a_class_is_read(tmp_path: Path, style: str, answer: str) -> None:
    with serving(Scripted(then=lambda body: Reply(completion(answer, [{answer: 0.8, "x": 0.2}])))) as server:
        logits = Asked(tmp_path, server, answers=style).logits(TEXTS[:2])
    assert logits.argmax(1).tolist() == [1, 1]


def test_more_than_twenty_classes_are_numbered_with_two_digits(tmp_path: Path) -> None:
    names = tuple(f"class {i}" for i in range(77))
    source = TeacherSource.model_validate({"chat": {"url": "http://h/v1", "model": "m"}, "labels": [*names, *CLASSES]})
    question = chat._question(source, context_for(source))
    assert question.codes[:2] == ("10", "11")
    assert question.codes[-1] == "89"


def test_votes_are_asked_where_no_log_probabilities_come(tmp_path: Path) -> None:
    words = iter(["A", "A", "B", "A"])
    with serving(Scripted(then=lambda body: Reply(completion(next(words))))) as server:
        logits = Asked(tmp_path, server, votes=4, temperature=0.7).logits(["card"])
    assert len(server.asked) == 4
    np.testing.assert_allclose(np.exp(logits[0]), (np.array([3, 1, 0]) + 0.1 / 3) / 4.1, rtol=1e-4)


def test_a_server_that_knows_n_is_asked_for_all_other_votes_at_once(tmp_path: Path) -> None:
    def many(body: Any) -> Reply:
        one = completion("A")
        return Reply({"choices": one["choices"] * body.get("n", 1)})

    with serving(Scripted(then=many)) as server:
        Asked(tmp_path, server, votes=5, temperature=0.7).logits(["card"])
    assert [body.get("n", 1) for body in server.asked] == [1, 4]


@pytest.mark.parametrize("parallel", [1, 4])
def test_a_server_that_refuses_logprobs_is_asked_without_and_not_again_with(tmp_path: Path, parallel: int) -> None:
    def old(body: Any) -> Reply:
        if "logprobs" in body:
            return Reply({"error": {"message": "logprobs is not supported"}}, status=400)
        return Reply(completion(letter_of(text_of(body), CLASSES)))

    with serving(Scripted(then=old)) as server:
        assert right(Asked(tmp_path, server, max_parallel=parallel).logits())
    assert 1 <= sum("logprobs" in body for body in server.asked) <= parallel


def test_an_answer_outside_of_the_classes_is_asked_again_once_with_a_reminder(tmp_path: Path) -> None:
    with serving(Scripted(Reply(completion("I cannot say")))) as server:
        assert right(Asked(tmp_path, server).logits(TEXTS[:1]), TEXTS[:1])
    assert len(server.asked) == 2
    assert [m["role"] for m in server.asked[1]["messages"][-3:]] == ["user", "assistant", "user"]


def test_a_text_without_an_answer_has_all_classes_alike_and_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def lost(body: Any) -> Reply:
        return Reply(completion("no idea")) if text_of(body) == TEXTS[3] else knows(body)

    with serving(Scripted(then=lost)) as server, caplog.at_level(logging.WARNING):
        teacher = Asked(tmp_path, server)
        logits = teacher.logits()
    assert logits[3].tolist() == [0.0, 0.0, 0.0]
    assert teacher.summary().unanswered == 1
    assert "23 texts answered, 1 without an answer" in caplog.text


def test_more_than_a_fifth_without_an_answer_ends_the_run_with_the_number(tmp_path: Path) -> None:
    def often_lost(body: Any) -> Reply:
        return Reply(completion("no idea")) if text_of(body).startswith("card") else knows(body)

    with serving(Scripted(then=often_lost)) as server:
        with pytest.raises(BadInput, match=r"8 of 24 texts brought no answer .*33%; at most 20% may"):
            Asked(tmp_path, server).logits()


def test_content_free_answers_are_taken_off(tmp_path: Path) -> None:
    """A model that answers A to everything, and a little less so to what is B."""

    def biased(body: Any) -> Reply:
        second = 0.4 if "pay" in text_of(body) else 0.1
        return Reply(completion("A", [{"A": 0.5, "B": second, "C": 0.1}]))

    with serving(Scripted(then=biased)) as server:
        logits = Asked(tmp_path, server, content_free=True).logits(["pay"])
    assert len(server.asked) == 1 + len(chat.CONTENT_FREE)
    assert logits.argmax(1).tolist() == [1]


# --- what is survived


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(b'{"choices": [{"mess'), "malformed"),
        (Reply(b"\xff\xfe not json"), "malformed"),
        (Reply({"choices": []}), "malformed"),
        (Reply({"choices": [{"message": {"content": ["A"]}}]}), "malformed"),
        (Reply(completion("A"), truncate=100), "truncated"),
        (Reply(reset=True), "connection"),
        (Reply({"error": "busy"}, status=503), "http 503"),
        (Reply({"error": "slow down"}, status=429, headers={"Retry-After": "0"}), "http 429"),
        (Reply(completion("A"), wait_s=5.0), "timeout"),
        (Reply(completion("A"), drip_s=0.02), "timeout"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fault_is_survived_counted_and_told(
    tmp_path: Path, reply: Reply, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(Scripted(reply)) as server, caplog.at_level(logging.WARNING):
        teacher = Asked(tmp_path, server, timeout_s=0.5 if kind == "timeout" else 60)
        assert right(teacher.logits())
    faults = teacher.summary().faults
    assert set(faults) == {kind}
    assert faults[kind] == 1 or kind == "timeout"  # on a busy machine another answer may be late, too
    assert f"faults survived: {kind} {faults[kind]}" in caplog.text


def test_a_server_that_asks_for_a_pause_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(_asking.Pace, "pause", lambda self, seconds: pauses.append(seconds))
    with serving(Scripted(Reply({}, status=429, headers={"Retry-After": "7"}))) as server:
        Asked(tmp_path, server).logits(TEXTS[:1])
    assert pauses == [7.0]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("2", 2.0),
        ("-3", 0.0),
        ("9999", 600.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("soon", None),
        ("nan", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert _asking._seconds(header) == seconds


def test_requests_start_no_faster_than_the_project_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(_asking.time, "monotonic", lambda: 100.0)
    pace = _asking.Pace(requests_per_s=4)
    monkeypatch.setattr(pace, "sleep", slept.append)
    for _ in range(3):
        pace.wait()
    assert slept == [0.0, 0.25, 0.5]


def test_a_connection_is_used_for_many_requests(tmp_path: Path) -> None:
    with serving(Scripted()) as server:
        teacher = Asked(tmp_path, server)
        teacher.logits()
    assert len(server.connections) == 1
    assert teacher.summary().faults == {}


def test_a_server_that_is_down_ends_the_run_and_what_was_answered_is_kept(tmp_path: Path) -> None:
    with serving(Scripted()) as server:
        teacher = Asked(tmp_path, server, max_attempts=2)
        teacher.logits(TEXTS[:5])
        server.answer = lambda *_: Reply({"error": "down"}, status=503)
        with pytest.raises(BadInput, match=r"does not answer \(http 503.*2 attempts each.* 0 of these 19 texts"):
            teacher.logits()
        server.answer = Scripted()
        assert right(teacher.logits())
    assert max(Counter(text_of(b) for b in server.asked[:5] + server.asked[-19:]).values()) == 1


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "see api_key_env"), (404, "see url, model"), (400, "see url, model")]
)
def test_a_request_that_can_never_succeed_ends_the_run_at_once(tmp_path: Path, status: int, hint: str) -> None:
    with serving(Scripted(then=lambda body: Reply({"error": "not this"}, status=status))) as server:
        with pytest.raises(BadInput, match=f"http {status}.*not this.*{hint}"):
            Asked(tmp_path, server).logits()
    assert len(server.asked) == 1


def test_a_single_text_that_is_refused_is_no_answer(tmp_path: Path) -> None:
    def filtered(body: Any) -> Reply:
        return Reply({"error": "content filter"}, status=400) if text_of(body) == TEXTS[5] else knows(body)

    with serving(Scripted(then=filtered)) as server:
        logits = Asked(tmp_path, server).logits()
    assert logits[5].tolist() == [0.0, 0.0, 0.0]
    assert logits[4].argmax() == 1


@pytest.mark.parametrize("bad", [(5,), tuple(range(4, 12))], ids=["one", "a third of all, together"])
def test_a_text_that_brings_no_answer_is_asked_once_more_at_the_end_and_its_answer_is_not_lost(
    tmp_path: Path, bad: tuple[int, ...]
) -> None:
    """Else its row would be labelled with all classes alike, unseen, for ever: a finished stage asks nothing again."""
    left = Counter({TEXTS[i]: 2 for i in bad[:2]})

    def slow_at_first(body: Any) -> Reply:
        text = text_of(body)
        left[text] -= 1
        return Reply({"error": "busy"}, status=503) if left[text] >= 0 else knows(body)

    with serving(Scripted(then=slow_at_first)) as server:
        teacher = Asked(tmp_path, server, max_attempts=2)
        assert right(teacher.logits())
    assert teacher.summary().unanswered == 0


def test_a_text_that_never_brings_an_answer_is_counted_told_and_not_asked_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hopeless = {TEXTS[4], TEXTS[11], TEXTS[17], TEXTS[20]}  # more than make a server that is down

    def stuck(body: Any) -> Reply:
        return Reply(b"<html>") if text_of(body) in hopeless else knows(body)

    with serving(Scripted(then=stuck)) as server, caplog.at_level(logging.WARNING):
        teacher = Asked(tmp_path, server, max_attempts=2)
        logits = teacher.logits()
        asked = len(server.asked)
        teacher.logits()
        assert len(server.asked) == asked == 20 + 4 * 2 * 2
    assert [i for i, row in enumerate(logits) if not row.any()] == [4, 11, 17, 20]
    assert "20 texts answered, 4 without an answer" in caplog.text


def test_a_slow_answer_leaves_the_next_one_its_whole_time(tmp_path: Path) -> None:
    """The time that was left for one body is not what the next request has for all of its own."""
    slow = iter([Reply(completion("A"), wait_s=0.6), Reply(completion("A"), wait_s=0.6)])

    with serving(Scripted(then=lambda body: next(slow))) as server:
        teacher = Asked(tmp_path, server, timeout_s=1.0)
        teacher.logits(TEXTS[:2])
    assert teacher.summary().faults == {}


def test_a_connection_that_the_server_closed_meanwhile_is_opened_anew_and_costs_nothing(tmp_path: Path) -> None:
    """Servers close what is idle for some seconds; asked slower than that, each request would fail once, and its price
    would be held for ever."""
    closing = Reply(completion("A", usage=USAGE))

    with serving(Scripted(then=lambda body: closing)) as server:
        teacher = Asked(tmp_path, server, max_usd=50, **PRICED)
        teacher.logits(TEXTS[:1])
        with _asking.asking(chat._settings(teacher.source), open_answers(teacher.file), ()) as asker:
            for _ in range(2):
                asker.server.ask("POST", chat.PATH, {"messages": [{"role": "user", "content": "x"}]})
                server.close_idle()
    assert len(server.connections) == 3
    assert teacher.summary().usd == pytest.approx(PRICE_USD)


@pytest.mark.parametrize("tokens", [10**400, 1e308], ids=["400 digits", "no whole number"])
def test_a_usage_that_no_number_holds_is_a_malformed_answer(tmp_path: Path, tokens: float) -> None:
    absurd = completion("A", usage={"prompt_tokens": tokens, "completion_tokens": 1})
    with serving(Scripted(Reply(absurd))) as server:
        teacher = Asked(tmp_path, server, max_usd=50, **PRICED)
        assert right(teacher.logits(TEXTS[:1]), TEXTS[:1])


def test_nobody_there_is_said_before_the_first_text(tmp_path: Path) -> None:
    with serving(Scripted()) as server:
        pass
    with pytest.raises(BadInput, match=r"does not answer .*is the server up\?"):
        Asked(tmp_path, server)


# --- asked once


def test_a_text_is_asked_once_also_where_it_stands_twice_and_is_asked_for_again(tmp_path: Path) -> None:
    with serving(Scripted()) as server:
        teacher = Asked(tmp_path, server, max_parallel=4)
        first = teacher.logits([*TEXTS, *TEXTS])
        np.testing.assert_array_equal(first, teacher.logits([*TEXTS, *TEXTS]))
    assert sorted(text_of(b) for b in server.asked) == sorted(TEXTS)


def test_another_prompt_is_another_question_and_asked_anew(tmp_path: Path) -> None:
    with serving(Scripted()) as server:
        Asked(tmp_path, server).logits(TEXTS[:2])
        Asked(tmp_path, server, describe={"card": "of plastic"}).logits(TEXTS[:2])
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    "settings",
    [
        {"max_parallel": 3},
        {"timeout_s": 9},
        {"max_usd": 1, "usd_per_million_input_tokens": 1, "usd_per_million_output_tokens": 1},
    ],
)
def test_pace_and_price_change_no_answer(settings: dict[str, Any]) -> None:
    plain = {"url": "http://h/v1", "model": "m"}
    sources = [TeacherSource.model_validate({"chat": given}) for given in (plain, plain | settings)]
    assert chat.content(sources[0]) == chat.content(sources[1])


@pytest.mark.parametrize("settings", [{"model": "n"}, {"url": "http://g/v1"}, {"temperature": 1}, {"prompt": "{text}"}])
def test_what_changes_an_answer_changes_the_content(settings: dict[str, Any]) -> None:
    plain = {"url": "http://h/v1", "model": "m"}
    sources = [TeacherSource.model_validate({"chat": given}) for given in (plain, plain | settings)]
    assert chat.content(sources[0]) != chat.content(sources[1])


def test_no_text_stands_in_the_cache(tmp_path: Path) -> None:
    with serving(Scripted()) as server:
        teacher = Asked(tmp_path, server)
        teacher.logits()
    assert "number" not in teacher.file.read_text()


def test_a_torn_last_line_is_cut_off_and_its_text_asked_again(tmp_path: Path) -> None:
    with serving(Scripted()) as server:
        teacher = Asked(tmp_path, server)
        whole = teacher.logits()
        data = teacher.file.read_bytes()
        teacher.file.write_bytes(data[:-20])
        np.testing.assert_array_equal(teacher.logits(), whole)
    assert len(server.asked) == len(TEXTS) + 1


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    with serving(Scripted()) as server:
        teacher = Asked(tmp_path, server)
        teacher.logits()
        teacher.file.write_bytes(b"not json\n" + teacher.file.read_bytes())
        with pytest.raises(Damaged, match=r"jsonl:1: not a line of answers; remove it"):
            teacher.logits()


KILLED = """
import sys
from pathlib import Path
from tests.teachers.test_chat import Asked, TEXTS
from tests.teachers.loopback import Loopback
print("ready", flush=True)
Asked(Path(sys.argv[1]), Loopback(lambda *_: None, url=sys.argv[2])).logits()
"""


def test_killed_and_resumed_nothing_that_was_answered_is_asked_twice(tmp_path: Path) -> None:
    """The server kills its client in the middle of the eleventh request, and never answers that one."""
    answered: Counter[str] = Counter()

    def deadly(body: Any) -> Reply:
        if len(server.asked) == 11:
            client.kill()
            client.wait()
        if client.poll() is not None:
            return Reply(reset=True)
        answered[text_of(body)] += 1
        return knows(body)

    with serving(Scripted(then=deadly)) as server:
        root = Path(__file__).parents[2]
        client = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), server.url], cwd=root)
        client.wait(timeout=60)
        assert client.returncode == -signal.SIGKILL
        before = sum(answered.values())
        server.answer = Scripted(then=lambda body: (answered.update([text_of(body)]), knows(body))[1])
        assert right(Asked(tmp_path, server).logits())
    assert before == 10
    assert answered == Counter(TEXTS)


# --- money

PRICED = {"usd_per_million_input_tokens": 1000.0, "usd_per_million_output_tokens": 4000.0}
PRICE_USD = (100 * 1000 + 1 * 4000) / 1e6  # of one request by USAGE: 0.104


def bill(server: Loopback) -> float:
    return server.replied[200] * PRICE_USD


def test_the_cap_is_never_passed_and_a_higher_one_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with serving(Scripted()) as server:
        with pytest.raises(
            CapReached, match=r"max_usd 1\.5 would be passed.*of these 24 texts are answered, and kept; raise"
        ):
            Asked(tmp_path, server, max_usd=1.5, max_parallel=4, **PRICED).logits()
        assert 0.8 < bill(server) <= 1.5
        teacher = Asked(tmp_path, server, max_usd=10, max_parallel=4, **PRICED)
        assert right(teacher.logits())
    assert sorted(text_of(b) for b in server.asked) == sorted(TEXTS)
    assert teacher.summary().usd == pytest.approx(bill(server))
    assert teacher.summary().usd == pytest.approx(24 * PRICE_USD)


def test_what_a_request_may_cost_is_held_also_where_no_answer_tells_its_price(tmp_path: Path) -> None:
    """A time-out may have been billed: it counts as dear as it can be."""
    with serving(Scripted(Reply(completion("A"), wait_s=5.0))) as server:
        teacher = Asked(tmp_path, server, timeout_s=0.2, max_usd=50, **PRICED)
        teacher.logits(TEXTS[:1])
    assert teacher.summary().usd > 2 * PRICE_USD


def test_a_request_that_the_server_turned_away_costs_nothing(tmp_path: Path) -> None:
    with serving(Scripted(Reply({}, status=503))) as server:
        teacher = Asked(tmp_path, server, max_usd=50, **PRICED)
        teacher.logits(TEXTS[:1])
    assert teacher.summary().usd == pytest.approx(PRICE_USD)


@pytest.mark.parametrize("status", [502, 504])
def test_a_gateway_that_lost_an_answer_may_have_had_it_billed(tmp_path: Path, status: int) -> None:
    with serving(Scripted(Reply({}, status=status))) as server:
        teacher = Asked(tmp_path, server, max_usd=50, **PRICED)
        teacher.logits(TEXTS[:1])
    assert teacher.summary().usd > 2 * PRICE_USD


def test_what_a_schema_in_extra_may_cost_is_held_too(tmp_path: Path) -> None:
    """A server puts it into the prompt."""
    schema = {"response_format": {"type": "json_schema", "json_schema": {"description": "x" * 5000}}}
    with serving(Scripted()) as server:
        with pytest.raises(CapReached, match="may cost"):
            Asked(tmp_path, server, max_usd=5, extra=schema, **PRICED).logits(TEXTS[:1])
    assert server.asked == []


def test_another_prompt_shares_the_cap(tmp_path: Path) -> None:
    with serving(Scripted()) as server:
        Asked(tmp_path, server, max_usd=1.5, **PRICED).logits(TEXTS[:8])
        with pytest.raises(CapReached):
            Asked(tmp_path, server, max_usd=1.5, describe={"card": "x"}, **PRICED).logits()
    assert bill(server) <= 1.5


def test_what_was_held_at_a_kill_counts_as_spent(tmp_path: Path) -> None:
    with serving(Scripted()) as server:
        teacher = Asked(tmp_path, server, max_usd=1.5, **PRICED)
        teacher.file.parent.mkdir()
        teacher.file.write_text('{"hold": 1, "usd": 1.4999}\n')
        with pytest.raises(CapReached):
            teacher.logits()
    assert server.asked == []


def test_a_cost_is_told_before_anything_is_asked_and_holds_the_truth(tmp_path: Path) -> None:
    with serving(Scripted()) as server:
        teacher = Asked(tmp_path, server, max_usd=5, **PRICED)
        told = chat.cost(teacher.source, teacher.context, TEXTS, tmp_path, probe=False)
        assert server.asked == []
        assert (told.texts, told.answered, told.requests) == (24, 0, 24)
        assert told.input_tokens is not None
        assert told.input_tokens.kind == "estimated"
        assert told.input_tokens.low < told.input_tokens.value < told.input_tokens.high
        assert "24 of 24 texts to ask; 24 requests" in told.told()
        probed = chat.cost(teacher.source, teacher.context, TEXTS, tmp_path, probe=True)
        assert len(server.asked) == 3
    assert probed.input_tokens is not None
    assert (probed.answered, probed.input_tokens.value) == (3, 2100)
    assert "the server's own usage of 3 requests" in probed.method
    assert probed.usd is not None
    assert probed.usd.value == pytest.approx(21 * PRICE_USD)
    assert probed.spent_usd == pytest.approx(3 * PRICE_USD)


# --- secrets, and what is refused


def test_the_key_is_sent_and_shown_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-very-secret")
    echo = Reply({"error": "Incorrect API key provided: sk-very-secret"}, status=401)
    with serving(
        Scripted(knows({"messages": [{"role": "user", "content": "card"}]}), then=lambda body: echo)
    ) as server:
        teacher = Asked(tmp_path, server, api_key_env="SOME_KEY")
        with caplog.at_level(logging.DEBUG), pytest.raises(BadInput, match="http 401") as caught:
            teacher.logits()
    assert server.headers[0]["Authorization"] == "Bearer sk-very-secret"
    assert "secret" not in str(caught.value) + caplog.text
    assert not any("secret" in p.read_text() for p in tmp_path.rglob("*") if p.is_file())


def test_a_key_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    source = TeacherSource.model_validate({"chat": {"url": "http://h/v1", "model": "m", "api_key_env": "SOME_KEY"}})
    with pytest.raises(BadInput, match="SOME_KEY is not set; export SOME_KEY="):
        chat.check(source, context_for(source))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"describe": {"cart": "x"}}, "describe: unknown class 'cart'; did you mean 'card'"),
        ({"examples": [{"text": "x", "label": "fund"}]}, "examples: unknown class 'fund'; did you mean 'refund'"),
    ],
)
def test_a_class_that_is_not_there_is_named(settings: dict[str, Any], message: str) -> None:
    source = TeacherSource.model_validate({"chat": {"url": "http://h/v1", "model": "m", **settings}})
    with pytest.raises(BadInput, match=message):
        chat.check(source, context_for(source))


def test_letters_serve_twenty_classes() -> None:
    labels = [*CLASSES, *map(str, range(18))]
    source = TeacherSource.model_validate(
        {"chat": {"url": "http://h/v1", "model": "m", "answers": "letters"}, "labels": labels}
    )
    with pytest.raises(BadInput, match="letters serve 20 classes, not 21; use numbers or names"):
        chat.check(source, context_for(source))


def test_pictures_are_refused() -> None:
    source = TeacherSource.model_validate({"chat": {"url": "http://h/v1", "model": "m"}})
    with pytest.raises(Unsupported, match="asked about texts"):
        chat.check(source, context_for(source, task="image_classification"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "ftp://h"}, "http://HOST"),
        ({"url": "http://user:pass@h/v1"}, "no user, password or query"),
        ({"url": "http://h/v1?key=x"}, "no user, password or query"),
        ({"api_key_env": "sk-123"}, "name of an environment variable is wanted, not the key itself"),
        ({"max_usd": 3}, "max_usd needs usd_per_million_input_tokens"),
        ({"votes": 3}, "samples at temperature 0 are all alike"),
        ({"extra": {"stream": True}}, "extra: stream is kdexport's own"),
        ({"prompt": "classify"}, r"\{text\} must stand in it"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Chat.model_validate({"url": "http://h/v1", "model": "m", **settings})


def test_a_model_that_is_only_asked_has_not_seen_the_training_rows() -> None:
    source = TeacherSource.model_validate({"chat": {"url": "http://h/v1", "model": "m"}})
    assert source.trained_on == ()
    given = TeacherSource.model_validate({"chat": {"url": "http://h/v1", "model": "m"}, "trained_on": ["train"]})
    assert given.trained_on == ("train",)
