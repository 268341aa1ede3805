"""Teachers that answer over HTTP: where they are, how they are asked, and what asking them costs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from kdexport.nouns.base import Noun

AnswerCode = Literal["auto", "letters", "numbers", "names"]
HEADER_SAFE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")


class Endpoint(Noun):
    """Where a teacher answers, and how fast it may be asked. None of it but url and model changes an answer."""

    url: str = Field(description="base address, e.g. http://localhost:8080/v1")
    model: str = Field(min_length=1, description="its name on the server")
    api_key_env: str | None = Field(default=None, description="environment variable that holds the key; never the key")
    requests_per_s: float | None = Field(default=None, gt=0, description="at most; none: as fast as answers come")
    max_parallel: int = Field(default=4, ge=1, le=256, description="requests under way at a time")
    timeout_s: float = Field(default=60.0, gt=0, description="for one whole answer")
    max_attempts: int = Field(default=6, ge=1, description="of one request, with growing pauses, until it is given up")

    @field_validator("url")
    @classmethod
    def _http(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            raise ValueError("http://HOST[:PORT]/PATH or https:// is wanted")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "no user, password or query in a url: put the key into a variable, and name it api_key_env"
            )
        return value.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _variable(cls, value: str | None) -> str | None:
        if value is not None and not HEADER_SAFE.match(value):
            raise ValueError("the name of an environment variable is wanted, not the key itself")
        return value


class Example(Noun):
    """One text with its class, shown in the prompt."""

    text: str = Field(min_length=1)
    label: str


class Chat(Endpoint):
    """A language model behind an OpenAI-compatible server: POST URL/chat/completions."""

    prompt: str | None = Field(
        default=None,
        description="template with {text}, {labels} and {how}: the paragraph of {text} is each turn of the user, what "
        "stands before it the system's message; absent: kdexport's own",
    )
    describe: dict[str, str] = Field(default={}, description="class -> a few words for the prompt")
    examples: int | tuple[Example, ...] = Field(
        default=0, description="shown in the prompt: so many of each class, of the training rows; or these"
    )
    answers: AnswerCode = Field(
        default="auto", description="how the model names a class; auto: letters up to 20 classes, numbers beyond"
    )
    content_free: bool = Field(
        default=False, description="take off what the model answers to empty texts (Zhao et al. 2021); for weak models"
    )
    votes: int = Field(
        default=1, ge=1, le=100, description="samples a text, where the server gives no log-probabilities"
    )
    temperature: float = Field(default=0.0, ge=0, le=2, description="of the sampling")
    extra: dict[str, Any] = Field(default={}, description="further members of the request, e.g. {seed: 1}")
    max_usd: float | None = Field(default=None, ge=0, description="never passed, over all runs in a run folder")
    usd_per_million_input_tokens: float | None = Field(default=None, ge=0, description="price; absent: not stated")
    usd_per_million_output_tokens: float | None = Field(default=None, ge=0, description="price; absent: not stated")

    @model_validator(mode="after")
    def _consistent(self) -> Chat:
        if self.prompt is not None and "{text}" not in self.prompt:
            raise ValueError("prompt: {text} must stand in it, where the text goes")
        if self.max_usd is not None and not self.priced:
            raise ValueError(
                "max_usd needs usd_per_million_input_tokens and usd_per_million_output_tokens, else it cannot be kept"
            )
        if own := {"model", "messages", "stream", "n", "logprobs", "top_logprobs"} & set(self.extra):
            raise ValueError(f"extra: {sorted(own)[0]} is kdexport's own")
        if self.votes > 1 and self.temperature == 0:
            raise ValueError("votes: samples at temperature 0 are all alike; set temperature, e.g. 0.7")
        if isinstance(self.examples, int) and not 0 <= self.examples <= 20:
            raise ValueError("examples: 0 to 20 a class")
        return self

    @property
    def priced(self) -> bool:
        return self.usd_per_million_input_tokens is not None and self.usd_per_million_output_tokens is not None

    def usd(self, input_tokens: float, output_tokens: float) -> float:
        """Price of so many tokens; 0 where the project states no prices."""
        per_input, per_output = self.usd_per_million_input_tokens or 0.0, self.usd_per_million_output_tokens or 0.0
        return (input_tokens * per_input + output_tokens * per_output) / 1e6


class OpenInference(Endpoint):
    """A classifier behind the Open Inference Protocol v2 (Triton, KServe, MLServer): POST URL/v2/models/MODEL/infer."""

    version: str | None = Field(default=None, description="of the model; absent: the server's choice")
    input: str | None = Field(default=None, description="tensor that takes raw text (BYTES); absent: the only one")
    tokenizer: Path | None = Field(default=None, description="folder with tokenizer.json: token tensors go in, no text")
    max_length: int = Field(default=512, ge=2, description="tokens a text, at most")
    output: str | None = Field(default=None, description="tensor of scores (B, C); absent: the only one")
    scores: Literal["auto", "logits", "probabilities"] = Field(
        default="auto", description="what the output holds; auto: told by its first answers"
    )
    max_batch: int = Field(default=32, ge=1, description="texts a request; the server's own limit is kept, too")


class Message(Noun):
    role: Literal["system", "user", "assistant"]
    content: str


class ChatQuestion(Noun):
    """All that a language model is asked besides the text: answers hold for this, and for nothing else."""

    url: str
    model: str
    classes: tuple[str, ...]
    codes: tuple[str, ...] = Field(description="what the model answers for each class")
    style: Literal["letters", "numbers", "names"]
    messages: tuple[Message, ...] = Field(description="before the text: the system's, and examples in turns")
    turn: str = Field(description="the user's message, with {text}")
    max_tokens: int
    votes: int
    temperature: float
    extra: dict[str, Any]
    content_free: bool


class Tensor(Noun):
    """As a model's metadata describes it; -1: any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class TensorQuestion(Noun):
    """All that a server is asked besides the texts: answers hold for this, and for nothing else."""

    url: str
    model: str
    version: str | None
    served: tuple[str, ...] = Field(description="versions that the server named when it was made ready")
    classes: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    output: str
    tokenizer_sha256: str
    max_length: int
    max_batch: int
    are_probabilities: bool


class Amount(Noun):
    """An estimated figure, with the interval that it is believed to lie in."""

    value: float
    low: float
    high: float
    kind: Literal["estimated"] = "estimated"


class AskingCost(Noun):
    """What labelling with one teacher takes, before it is asked."""

    teacher: str
    texts: int = Field(description="distinct: train, variants, unlabelled, dev, test, queries")
    answered: int = Field(description="of these, already in the run folder: not asked again")
    requests: int
    input_tokens: Amount | None = None
    output_tokens: Amount | None = None
    usd: Amount | None = Field(default=None, description="none where the project states no prices")
    spent_usd: float = Field(default=0.0, description="so far in this run folder, measured")
    max_usd: float | None = None
    seconds_at_least: float | None = Field(default=None, description="by requests_per_s")
    method: str = Field(description="where tokens come from")

    def told(self) -> str:
        """In one line."""
        parts = [f"{self.requests:,} requests"]
        if self.input_tokens and self.output_tokens:
            parts += [f"{_span(self.input_tokens, ',.0f')} tokens in, {_span(self.output_tokens, ',.0f')} out"]
        if self.usd:
            parts += [f"{_span(self.usd, '.4g')} USD"]
        if self.max_usd is not None:
            parts += [f"cap {self.max_usd:g} USD, spent {self.spent_usd:.4g}"]
        left, told = self.texts - self.answered, "; ".join(parts)
        return f"teacher {self.teacher}: {left:,} of {self.texts:,} texts to ask; {told} (estimated: {self.method})"

    @property
    def over_cap(self) -> str:
        """Why the cap will be reached before the last text, else empty."""
        if self.usd is None or self.max_usd is None or self.spent_usd + self.usd.value <= self.max_usd:
            return ""
        return (
            f"{self.teacher}: {self.usd.value:.4g} USD more are expected, and max_usd {self.max_usd:g} leaves "
            f"{max(self.max_usd - self.spent_usd, 0):.4g}"
        )


def _span(amount: Amount, form: str) -> str:
    return f"{amount.value:{form}} ({amount.low:{form}}–{amount.high:{form}})"


class EndpointAnswers(Noun):
    """What came back from one endpoint, in all runs of a folder."""

    name: str
    answered: int
    unanswered: int = Field(description="outside of the classes twice, refused, or given up: counted as no answer")
    faults: Mapping[str, int] = Field(description="survived, by kind: timeout, malformed, ...")
    requests: int
    input_tokens: int
    output_tokens: int
    usd: float

    def told(self) -> str:
        """In one line."""
        faults = ", ".join(f"{kind} {n}" for kind, n in sorted(self.faults.items())) or "none"
        return (
            f"teacher {self.name}: {self.answered:,} texts answered, {self.unanswered} without an answer (all classes "
            f"alike); {self.requests:,} requests, {self.input_tokens:,} tokens in, {self.output_tokens:,} out, "
            f"{self.usd:.6g} USD; faults survived: {faults}"
        )
