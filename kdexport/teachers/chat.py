"""A teacher that is a language model behind an OpenAI-compatible server: POST URL/chat/completions.

It is shown the classes, each with a code, and a text; its log-probabilities of the codes are the scores, or its votes
where the server tells none. See `_label_scores.py` for how, `_asking.py` for pace, retries and money."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexport.errors import BadInput, Unsupported, unknown_name
from kdexport.nouns.endpoint import Amount, AskingCost, Chat, ChatQuestion, Example, Message
from kdexport.nouns.project import TeacherSource
from kdexport.nouns.teacher import TeacherMember
from kdexport.storage.files import content_key, read_json, sha256_bytes, write_json
from kdexport.storage.tables import Raw
from kdexport.tasks import load_task
from kdexport.teachers import TeacherContext, columns_for, member_of
from kdexport.teachers._answers import Answers, answers_file, key_of, open_answers, spent_on_other_questions
from kdexport.teachers._asking import Asker, Fault, api_key, ask_all, asking, knock
from kdexport.teachers._label_scores import LETTERS, Codes, Reply, logits_of, read_replies, spoken

if TYPE_CHECKING:
    import numpy as np

READING = 1  # how answers become logits: a part of the key
PATH = "/chat/completions"
QUESTION = "question.json"
TOP_LOGPROBS = 20  # as many as OpenAI's server tells
CONTENT_FREE = ("N/A", "-", "[text]")  # Zhao et al. 2021, section 5: several are averaged
LONGEST_EXAMPLE = 400  # characters, where the class has a shorter one
PROBE_TEXTS = 3
PROMPT = """\
Classify each text into exactly one of these classes:
{labels}

Answer with {how} only.

{text}"""
REMINDER = "That is none of the classes. Answer with {how} only, nothing else."
HOW = {"letters": "the letter of the class", "numbers": "the number of the class", "names": "the name of the class"}
# A token is at least one byte (byte-level BPE, or SentencePiece with byte fallback), and a chat template adds a few:
MESSAGE_TOKENS, TEMPLATE_TOKENS = 16, 64
# English text, by the tokenizers of GPT-4, Llama 3, SmolLM2: 3.5 to 5 bytes a token; labels and typos take more tokens
BYTES_PER_TOKEN = (4.2, 2.8, 5.5)  # expected, and for the dear and the cheap end of the interval
PLACEHOLDER = re.compile(r"\{(text|labels|how)\}")


# --- made ready


def check(source: TeacherSource, context: TeacherContext) -> None:
    _question(source, context)
    api_key(_settings(source))


def ready(source: TeacherSource, context: TeacherContext, folder: Path) -> TeacherMember:
    settings = _settings(source)
    question = _question(source, context)
    knock(settings, "/models")
    write_json(folder / QUESTION, question)
    return member_of(
        source,
        kind="chat",
        name=settings.model,
        classes=question.classes,
        question=QUESTION,
        source=_server_name(settings),
        sha256=_hash(question),
    )


def content(source: TeacherSource) -> str:
    """Of the settings that change an answer: not the pace, not the price, not the key."""
    fields = set(ChatQuestion.model_fields) | {"prompt", "describe", "examples", "answers"}
    return content_key(READING, {k: v for k, v in _settings(source).model_dump(mode="json").items() if k in fields})


def _settings(source: TeacherSource) -> Chat:
    assert source.chat is not None
    return source.chat


def _server_name(settings: Chat) -> str:
    return f"{settings.url} {settings.model}"


def _question(source: TeacherSource, context: TeacherContext) -> ChatQuestion:
    """All that is asked besides the text. Raises BadInput, Unsupported."""
    settings = _settings(source)
    if load_task(context.project.task).input_kind != "text":
        raise Unsupported("chat: a language model is asked about texts; for pictures use open_inference or function")
    classes = source.labels or context.classes
    columns_for(classes, context.classes, settings.model)
    for name in settings.describe:
        if name not in classes:
            raise unknown_name("class", name, classes, "describe")
    style = settings.answers if settings.answers != "auto" else "letters" if len(classes) <= len(LETTERS) else "numbers"
    codes = _codes(classes, style)
    head, turn = _parts(settings.prompt or PROMPT)
    told = {"labels": _listed(classes, codes, style, settings.describe), "how": HOW[style]}
    messages = [Message(role="system", content=_fill(head, told))] if head.strip() else []
    by_class = dict(zip(classes, codes, strict=True))
    for example in _examples(settings, context):
        if example.label not in by_class:
            raise unknown_name("class", example.label, classes, "examples")
        messages.append(Message(role="user", content=_fill(turn, {**told, "text": example.text})))
        messages.append(Message(role="assistant", content=by_class[example.label]))
    return ChatQuestion(
        url=settings.url,
        model=settings.model,
        classes=classes,
        codes=codes,
        style=style,
        messages=tuple(messages),
        turn=_fill(turn, told),
        max_tokens=_most_tokens(codes, style),
        votes=settings.votes,
        temperature=settings.temperature,
        extra=settings.extra,
        content_free=settings.content_free,
    )


def _hash(question: ChatQuestion) -> str:
    return content_key(READING, question)


def _codes(classes: Sequence[str], style: str) -> tuple[str, ...]:
    """Of one width, so that none begins another: letters, or numbers from 10, 100 or 1000 on."""
    if style == "letters":
        if len(classes) > len(LETTERS):
            raise BadInput(f"answers: letters serve {len(LETTERS)} classes, not {len(classes)}; use numbers or names")
        return tuple(LETTERS[: len(classes)])
    if style == "numbers":
        first = next(10**n for n in range(1, 9) if 9 * 10**n >= len(classes))
        return tuple(str(first + i) for i in range(len(classes)))
    names = tuple(" ".join(c.replace("_", " ").split()) for c in classes)
    if len({spoken(n, names=True) for n in names}) < len(classes):
        raise BadInput("answers: two classes have names that are spoken alike; use letters or numbers")
    return names


def _listed(classes: Sequence[str], codes: Sequence[str], style: str, describe: dict[str, str]) -> str:
    def line(name: str, code: str) -> str:
        words = describe.get(name, "")
        shown = f"- {code}" if style == "names" else f"{code}: {name.replace('_', ' ')}"
        return f"{shown} ({words})" if words else shown

    return "\n".join(map(line, classes, codes))


def _parts(prompt: str) -> tuple[str, str]:
    """What stands before the paragraph of {text}, and the rest."""
    before, _, after = prompt.partition("{text}")
    head, gap, start = before.rpartition("\n\n")
    return (head, start + "{text}" + after) if gap else ("", prompt)


def _fill(template: str, values: dict[str, str]) -> str:
    """In one pass: what a text holds is never read as a placeholder."""
    return PLACEHOLDER.sub(lambda match: values.get(match.group(1), match.group(0)), template)


def _examples(settings: Chat, context: TeacherContext) -> list[Example]:
    """Given ones; or so many of each class, the same for the same rows in any order, classes in turn."""
    if not isinstance(settings.examples, int):
        return list(settings.examples)
    if not settings.examples:
        return []
    if context.train_labels is None:
        raise BadInput("examples: the rows have no labels; give examples with text and label")
    by_class: dict[str, list[str]] = {name: [] for name in context.classes}
    for text, label in zip(context.train_inputs, context.train_labels, strict=True):
        by_class[context.classes[label]].append(str(text))
    for texts in by_class.values():
        texts.sort(key=lambda text: (len(text) > LONGEST_EXAMPLE, sha256_bytes(text.encode())))
    return [
        Example(text=texts[turn], label=name)
        for turn in range(settings.examples)
        for name, texts in by_class.items()
        if turn < len(texts) and texts[turn]
    ]


def _most_tokens(codes: Sequence[str], style: str) -> int:
    """Room for the longest code; an answer that is cut short is still read."""
    longest = max(len(code.encode()) for code in codes)
    return math.ceil(longest / 3) + 2 if style == "names" else longest + 3


# --- asked


def answer(source: TeacherSource, member: TeacherMember, inputs: Sequence[Raw], folder: Path) -> np.ndarray:
    """Log-probabilities (N, C); zeros where no answer came. Raises CapReached, or BadInput where the server is down or
    more than a fifth of its answers are none; what was answered stays in the run folder's `answers`."""
    import numpy as np

    settings = _settings(source)
    question = ChatQuestion.model_validate(read_json(folder / str(member.question)))
    sha = _hash(question)
    path = answers_file(folder.parent, "chat", _server_name(settings), sha)
    answers = open_answers(path)
    keys = [key_of(str(text), sha) for text in inputs]
    missing = {key: str(text) for key, text in zip(keys, inputs, strict=True) if key not in answers}
    wanted = {**({key_of(t, sha): t for t in CONTENT_FREE} if question.content_free else {}), **missing}
    wanted = {key: text for key, text in wanted.items() if key not in answers}
    if wanted:
        _ask(settings, question, answers, spent_on_other_questions(path), wanted)
    prior = _prior(question, answers, sha)
    zeros = np.zeros(len(question.classes))
    rows = [zeros if (row := _logits(answers, key)) is None else row - prior for key in keys]
    return np.array(rows, dtype=np.float32).reshape(len(rows), len(question.classes))


def _logits(answers: Answers, key: str) -> np.ndarray | None:
    import numpy as np

    found = answers.logits(key) if key in answers else None
    return None if found is None else np.array(found)


def _prior(question: ChatQuestion, answers: Answers, sha: str) -> Any:
    """Log of the mean answer to texts without content; 0 where it is not wanted."""
    import numpy as np

    if not question.content_free:
        return 0.0
    found = [row for t in CONTENT_FREE if (row := _logits(answers, key_of(t, sha))) is not None]
    return np.log(np.mean([np.exp(row) for row in found], 0)) if found else 0.0


def _ask(
    settings: Chat, question: ChatQuestion, answers: Answers, elsewhere_usd: float, wanted: dict[str, str]
) -> None:
    """Every wanted text (by key) once; what comes is written at once."""
    with asking(settings, answers, wanted, settings.max_usd, elsewhere_usd) as asker:
        ask_all([{key: text} for key, text in wanted.items()], _Talk(settings, question, asker).label, asker)


class _Talk:
    """One question to one server."""

    def __init__(self, settings: Chat, question: ChatQuestion, asker: Asker) -> None:
        self.settings, self.question, self.asker = settings, question, asker
        self.codes = Codes(question.codes, names=question.style == "names")
        self.ask_logprobs = True

    def label(self, job: Mapping[str, str]) -> None:
        """job: one text by its key. Writes what the model answers: asked again once where that is no class. Raises
        Gone."""
        ((key, text),) = job.items()
        messages = [*self.question.messages, Message(role="user", content=_fill(self.question.turn, {"text": text}))]
        try:
            replies = self._replies(messages)
            logits = logits_of(replies, self.codes)
            if logits is None:
                reminder = _fill(REMINDER, {"how": HOW[self.question.style]})
                said = Message(role="assistant", content=replies[0].text)
                replies = self._replies([*messages, said, Message(role="user", content=reminder)])
                logits = logits_of(replies, self.codes)
        except Fault as fault:
            self.asker.no_answer(key, fault)
            return
        self.asker.answers.answer({key: "outside" if logits is None else logits.tolist()})
        self.asker.require_answers()

    def _replies(self, messages: Sequence[Message]) -> list[Reply]:
        """One, where it holds log-probabilities, else as many as votes are wanted."""
        replies = self._request(messages, 1)
        while len(replies) < self.question.votes and not replies[0].tokens:
            replies += self._request(messages, self.question.votes - len(replies))
        return replies

    def _request(self, messages: Sequence[Message], count: int) -> list[Reply]:
        most = most_usd(self.settings, self.question, messages, count)
        body = self._body(messages, count)
        try:
            return self.asker.request(PATH, body, read_replies, most, self._cost)
        except Fault as fault:
            if not ("logprobs" in body and fault.status in (400, 422) and "logprobs" in fault.detail):
                raise
            self.ask_logprobs = False
            return self._request(messages, count)

    def _body(self, messages: Sequence[Message], count: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.question.model,
            "messages": [m.model_dump() for m in messages],
            "max_tokens": self.question.max_tokens,
            "temperature": self.question.temperature,
        }
        if self.ask_logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        if count > 1:
            body["n"] = count
        if "max_completion_tokens" in self.question.extra:
            body.pop("max_tokens")
        return body | self.question.extra

    def _cost(self, document: Any) -> tuple[float, int, int] | None:
        """By the server's own count; None where it tells none."""
        usage = document.get("usage") if isinstance(document, dict) else None
        if not isinstance(usage, dict):
            return None
        inputs, outputs = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if not isinstance(inputs, int) or not isinstance(outputs, int) or min(inputs, outputs) < 0:
            return None
        return self.settings.usd(inputs, outputs), inputs, outputs


# --- what it costs


def most_usd(settings: Chat, question: ChatQuestion, messages: Sequence[Message], count: int) -> float:
    """USD of one request, never less than what is billed."""
    inputs = sum(len(m.content.encode()) + MESSAGE_TOKENS for m in messages) + TEMPLATE_TOKENS
    inputs += len(
        json.dumps(question.extra, default=str).encode()
    )  # a schema or tools: servers put them into the prompt
    own = [v for k in ("max_tokens", "max_completion_tokens") if isinstance(v := question.extra.get(k), int | float)]
    return settings.usd(inputs, max([question.max_tokens, *own]) * count)


def cost(
    source: TeacherSource, context: TeacherContext, texts: Sequence[str], run_folder: Path, probe: bool
) -> AskingCost:
    """What asking these distinct texts takes. probe: ask up to three of them, and count by the server's usage."""
    settings = _settings(source)
    question = _question(source, context)
    sha = _hash(question)
    path = answers_file(run_folder, "chat", _server_name(settings), sha)
    elsewhere_usd = spent_on_other_questions(path)
    answers = Answers(path)
    left = [t for t in texts if key_of(t, sha) not in answers]
    if probe and left:
        chosen = left[:: math.ceil(len(left) / PROBE_TEXTS)][:PROBE_TEXTS]
        _ask(settings, question, answers, elsewhere_usd, {key_of(t, sha): t for t in chosen})
        left = [t for t in texts if key_of(t, sha) not in answers]
    empty = CONTENT_FREE if question.content_free else ()
    requests = len(left) + sum(key_of(t, sha) not in answers for t in empty)
    inputs, outputs, method = _tokens(question, answers, left, requests)
    return AskingCost(
        teacher=settings.model,
        texts=len(texts),
        answered=len(texts) - len(left),
        requests=requests,
        input_tokens=inputs,
        output_tokens=outputs,
        usd=_priced(settings, inputs, outputs) if settings.priced else None,
        spent_usd=elsewhere_usd + answers.spent_usd,
        max_usd=settings.max_usd,
        seconds_at_least=requests / settings.requests_per_s if settings.requests_per_s else None,
        method=method,
    )


def _tokens(
    question: ChatQuestion, answers: Answers, texts: Sequence[str], requests: int
) -> tuple[Amount, Amount, str]:
    """Input and output tokens of all requests, and where they come from."""
    fixed = sum(len(m.content.encode()) for m in question.messages) + len(question.turn.encode())
    sent = requests * fixed + sum(len(t.encode()) for t in texts)
    if told := answers.requests_told:
        per_input, per_output = answers.input_tokens / told, answers.output_tokens / told
        method = f"the server's own usage of {told} requests, ± 15 % for texts of other lengths"
        return _around(per_input * requests, 0.15), _around(per_output * requests, 0.15), method
    extra = requests * (len(question.messages) + 1) * 6
    expected, dear, cheap = (sent / b + extra for b in BYTES_PER_TOKEN)
    votes = question.votes  # at the dear end: where the server tells no log-probabilities, and takes no `n`
    low = requests * (2 if question.style == "names" else 1)
    most = requests * question.max_tokens * votes
    inputs = Amount(value=round(expected), low=round(cheap), high=round(dear * votes))
    outputs = Amount(value=round((low + most) / 2), low=low, high=most)
    usual, fewest, most_bytes = BYTES_PER_TOKEN
    method = f"{usual:g} bytes a token ({fewest:g} to {most_bytes:g}), 6 tokens a message; --probe asks the server"
    return inputs, outputs, method


def _around(value: float, share: float) -> Amount:
    return Amount(value=round(value), low=round(value * (1 - share)), high=round(value * (1 + share)))


def _priced(settings: Chat, inputs: Amount, outputs: Amount) -> Amount:
    low, value, high = (settings.usd(getattr(inputs, k), getattr(outputs, k)) for k in ("low", "value", "high"))
    return Amount(value=value, low=low, high=high)
