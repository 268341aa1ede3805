"""Ask a server many times: at a pace, several at once, again where it fails, within a cap on money."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import json
import logging
import os
import random
import select
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from kdexport.errors import BadInput, CapReached
from kdexport.nouns.endpoint import Endpoint
from kdexport.teachers._answers import Answers

log = logging.getLogger(__name__)
T = TypeVar("T")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # doubled at each attempt
LONGEST_RETRY_AFTER_S = 600.0
GIVEN_UP_IN_A_ROW = 3  # requests: then the server is down, and the run ends instead of giving up every text
MAX_BODY_BYTES = 64 << 20
SHOWN_CHARACTERS = 200  # of what a server says
TELL_EVERY_S = 10.0
MOST_UNANSWERED = 0.2  # share of the texts
FEWEST_JUDGED, FEWEST_JUDGED_LAST = 50, 10  # texts, while asking goes on and at its end
ONE_TEXT = (400, 413, 422)  # HTTP states that one text may be the cause of
AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529)  # HTTP states that may pass
LOST = (408, 502, 504, 520, 524)  # of these: the model behind a gateway may have answered, and its owner may bill it


@dataclass
class Fault(Exception):
    """One attempt that brought no answer. again: another may. billed: it may have cost money all the same."""

    kind: str
    detail: str
    again: bool
    billed: bool
    wait_s: float | None = None  # the server's own wish
    status: int | None = None


class Gone(Exception):
    """Every attempt of one request failed."""


class Server:
    """JSON over HTTP to one endpoint, one open connection a thread. The key is read here and shown nowhere."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        parts = urlsplit(endpoint.url)
        self.host, self.port, self.base = str(parts.hostname), parts.port, parts.path
        self.tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._key = api_key(endpoint)
        self._mine = threading.local()
        self._all: list[http.client.HTTPConnection] = []

    def close(self) -> None:
        for connection in self._all:
            connection.close()

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Parsed JSON of the answer. Raises Fault."""
        connection = self._connection()
        try:
            return self._asked(connection, method, path, body)
        except Fault:
            connection.close()
            raise
        except TimeoutError as e:
            connection.close()
            raise Fault("timeout", f"no answer in {self.endpoint.timeout_s:g} s", True, True) from e
        except (OSError, http.client.HTTPException) as e:
            connection.close()
            refused = isinstance(e, ConnectionRefusedError)
            raise Fault("connection", self._safe(str(e) or type(e).__name__), True, not refused) from e

    def _asked(self, connection: http.client.HTTPConnection, method: str, path: str, body: object) -> Any:
        ends = time.monotonic() + self.endpoint.timeout_s
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "kdexport"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        if connection.sock is not None and _closed(connection.sock):
            connection.close()
        if connection.sock is None:
            connection.connect()
        socket = connection.sock
        socket.settimeout(self.endpoint.timeout_s)  # reading the answer before has left it shorter
        connection.request(method, self.base + path, None if body is None else json.dumps(body).encode(), headers)
        response = connection.getresponse()
        data = _read(response, socket, ends)
        if response.status != 200:
            raise self._refusal(response, data)
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as e:
            raise Fault("malformed", "the answer is not JSON", True, True) from e

    def _refusal(self, response: http.client.HTTPResponse, data: bytes) -> Fault:
        said = self._safe(data.decode(errors="replace"))
        again = response.status in AGAIN
        wait_s = _seconds(response.getheader("Retry-After")) if again else None
        return Fault(f"http {response.status}", said, again, response.status in LOST, wait_s, response.status)

    def _safe(self, text: str) -> str:
        """What may be shown: one line, short, without the key."""
        text = text.replace(self._key, "***") if self._key else text
        return " ".join(text.split())[:SHOWN_CHARACTERS]

    def _connection(self) -> http.client.HTTPConnection:
        if not hasattr(self._mine, "connection"):
            timeout = self.endpoint.timeout_s
            self._mine.connection = (
                http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=self.tls)
                if self.tls
                else http.client.HTTPConnection(self.host, self.port, timeout=timeout)
            )
            self._all.append(self._mine.connection)
        connection: http.client.HTTPConnection = self._mine.connection
        return connection


def knock(endpoint: Endpoint, page: str) -> Any:
    """Is anyone there, and does the key open? The free page's JSON; None where the server has no such page."""
    with contextlib.closing(Server(endpoint)) as server:
        try:
            return server.ask("GET", page)
        except Fault as fault:
            if fault.status in (401, 403):
                raise BadInput(f"{endpoint.url}: {fault.kind}: {fault.detail}; see api_key_env") from fault
            if fault.kind in ("connection", "timeout"):
                raise BadInput(f"{endpoint.url}: does not answer ({fault.detail}); is the server up?") from fault
            return None


def api_key(endpoint: Endpoint) -> str:
    """Raises BadInput where the project names a variable that is not set."""
    if endpoint.api_key_env is None:
        return ""
    key = os.environ.get(endpoint.api_key_env, "").strip()
    if not key:
        raise BadInput(
            f"api_key_env: {endpoint.api_key_env} is not set; export {endpoint.api_key_env}=... and run again"
        )
    if not key.isascii() or not key.isprintable():
        raise BadInput(f"api_key_env: {endpoint.api_key_env} holds characters that no HTTP header takes; set it again")
    return key


def _closed(socket: Any) -> bool:
    """Has the server closed this idle connection? It does so after some seconds, and a request would be lost on it."""
    poll = select.poll()
    poll.register(socket, select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))  # before anything is asked there is nothing to read but the end


def _read(response: http.client.HTTPResponse, socket: Any, ends: float) -> bytes:
    """The whole body, in the time that is left for all of it: a server may send a byte a second."""
    wanted, parts, size = response.length, [], 0
    while True:
        left_s = ends - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        with contextlib.suppress(OSError):  # closed under us: the read says so
            socket.settimeout(left_s)
        part = response.read1(1 << 16)
        if not part:
            break
        parts.append(part)
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise Fault("malformed", f"the answer is over {MAX_BODY_BYTES >> 20} MiB", True, True)
    response.close()  # else the connection counts as busy, and cannot be used again
    if wanted is not None and size < wanted:
        raise Fault("truncated", f"{size} of {wanted} bytes", True, True)
    return b"".join(parts)


def _seconds(header: str | None) -> float | None:
    """Retry-After: seconds, or a date."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_S) if seconds == seconds else None


class Pace:
    """Requests start no closer together than the project allows, and not while the server asked for a pause."""

    def __init__(self, requests_per_s: float | None) -> None:
        self.interval_s = 1.0 / requests_per_s if requests_per_s else 0.0
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._next = time.monotonic()

    def wait(self) -> None:
        with self._lock:
            at = max(self._next, time.monotonic())
            self._next = at + self.interval_s
        self.sleep(at - time.monotonic())

    def pause(self, seconds: float) -> None:
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            self.stopped.wait(seconds)


class Purse:
    """Money of one teacher in one run folder. What a request may cost at most is held before it is sent, so that the
    cap is kept whatever comes back."""

    def __init__(self, max_usd: float | None, answers: Answers, spent_elsewhere_usd: float) -> None:
        self.max_usd = max_usd
        self.answers = answers
        self.elsewhere_usd = spent_elsewhere_usd
        self._held = 0
        self._free = threading.Condition()

    @property
    def spent_usd(self) -> float:
        """Paid, and held: a request whose outcome is not known counts as dear as it can be."""
        return self.elsewhere_usd + self.answers.spent_usd

    @contextlib.contextmanager
    def paying(self, at_most_usd: float) -> Iterator[Callable[[float, int, int], None]]:
        """Holds the price of one request; the body tells what it cost: paid(usd, input_tokens, output_tokens). Where it
        ends without telling, the most stays spent. Raises CapReached before anything is sent."""
        with self._free:
            while self.max_usd is not None and self.spent_usd + at_most_usd > self.max_usd + 1e-12:
                if not self._held:
                    raise CapReached(
                        f"max_usd {self.max_usd:g} would be passed: {self.spent_usd:.6g} USD are spent, and the next "
                        f"request may cost {at_most_usd:.3g}"
                    )
                self._free.wait()
            self._held += 1
            number = self.answers.hold(at_most_usd)
        try:
            yield lambda usd, inputs, outputs: self.answers.settle(number, usd, inputs, outputs)
        finally:
            with self._free:
                self._held -= 1
                self._free.notify_all()


class Asker:
    """One endpoint, asked politely: pace, purse and retries in one place."""

    def __init__(self, endpoint: Endpoint, server: Server, answers: Answers, purse: Purse) -> None:
        self.endpoint, self.server, self.answers, self.purse = endpoint, server, answers, purse
        self.pace = Pace(endpoint.requests_per_s)
        self.last_chance = False  # for the texts that brought no answer among all others
        self._failed = 0
        self._lock = threading.Lock()

    def request(
        self,
        path: str,
        body: object,
        read: Callable[[Any], T],
        at_most_usd: float = 0.0,
        cost: Callable[[Any], tuple[float, int, int] | None] = lambda document: (0.0, 0, 0),
    ) -> T:
        """read(answer) of the first attempt that brings one; `read` raises ValueError for an answer of a wrong shape.
        cost(answer): (USD, input tokens, output tokens), None where the server does not say.

        Raises Gone after the last attempt, Fault where no other can help, CapReached, BadInput where the server is
        down."""
        for attempt in range(self.endpoint.max_attempts):
            self.pace.wait()
            if self.pace.stopped.is_set():
                raise Gone
            try:
                found = self._attempt(path, body, read, at_most_usd, cost)
            except Fault as fault:
                self.answers.fault(fault.kind)
                log.info(
                    "endpoint=%s attempt=%d fault=%s %s", self.endpoint.model, attempt + 1, fault.kind, fault.detail
                )
                if not fault.again:
                    raise
                last = fault
                if attempt + 1 < self.endpoint.max_attempts:
                    self._pause(fault, attempt)
            else:
                self._failed = 0
                return found
        self._given_up(last)
        raise Gone

    def _attempt(
        self,
        path: str,
        body: object,
        read: Callable[[Any], T],
        at_most_usd: float,
        cost: Callable[[Any], tuple[float, int, int] | None],
    ) -> T:
        with self.purse.paying(at_most_usd) as paid:
            try:
                document = self.server.ask("POST", path, body)
                told = cost(document)
                paid(*(told or (at_most_usd, 0, 0)))
                return read(document)
            except Fault as fault:
                if not fault.billed:
                    paid(0.0, 0, 0)
                raise
            except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError) as e:
                raise Fault("malformed", f"the answer has another shape ({type(e).__name__})", True, True) from e

    def no_answer(self, key: str, fault: Fault) -> None:
        """One text may be refused (a content filter, a length): written as such. Where nothing was answered yet, it is
        the request that is wrong: raises BadInput."""
        if fault.status not in ONE_TEXT or len(self.answers) == self.answers.unanswered:
            hint = "see api_key_env" if fault.status in (401, 403) else "see url, model and what is asked"
            raise BadInput(f"{self.endpoint.url}: {fault.kind}: {fault.detail}; {hint}") from fault
        self.answers.answer({key: "refused"})
        self.require_answers()

    def require_answers(self, fewest: int = FEWEST_JUDGED) -> None:
        """Raises BadInput where more than a fifth of what was asked brought no class."""
        none, asked = self.answers.unanswered, len(self.answers)
        if asked >= fewest and none > MOST_UNANSWERED * asked:
            raise BadInput(
                f"{none} of {asked} texts brought no answer that is one of the classes ({none / asked:.0%}; at most "
                f"{MOST_UNANSWERED:.0%} may); for a chat teacher try examples: 2, answers: names, or another prompt"
            )

    def tell(self, done: int, total: int) -> None:
        usd, faults = self.purse.spent_usd, self.answers.faults.total()
        log.info("endpoint=%s asked=%d of=%d usd=%.6g faults=%d", self.endpoint.model, done, total, usd, faults)

    def _pause(self, fault: Fault, attempt: int) -> None:
        if fault.wait_s is not None:  # the server's wish is for everyone
            self.pace.pause(fault.wait_s)
            return
        seconds = min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S)
        self.pace.sleep(seconds * random.uniform(0.5, 1.5))

    def _given_up(self, fault: Fault) -> None:
        with self._lock:
            self._failed += 1
            down = self._failed >= GIVEN_UP_IN_A_ROW
        if down and not self.last_chance:
            raise BadInput(
                f"{self.endpoint.url}: does not answer ({fault.kind}: {fault.detail}), {self.endpoint.max_attempts} "
                "attempts each; see whether it is up, then run again: what was answered is kept"
            )


@contextlib.contextmanager
def asking(
    endpoint: Endpoint,
    answers: Answers,
    keys: Collection[str],
    max_usd: float | None = None,
    spent_elsewhere_usd: float = 0.0,
) -> Iterator[Asker]:
    """The endpoint, opened to answer these keys. An error inside says how far it came; faults that were survived are
    told at the end."""
    before = answers.summary(endpoint.model)
    with contextlib.closing(Server(endpoint)) as server:
        try:
            yield Asker(endpoint, server, answers, Purse(max_usd, answers, spent_elsewhere_usd))
        except (CapReached, BadInput) as e:
            done = sum(key in answers for key in keys)
            goes_on = "; raise max_usd and run the same command: it goes on" if isinstance(e, CapReached) else ""
            raise type(e)(
                f"{endpoint.model}: {e}. {done} of these {len(keys)} texts are answered, and kept{goes_on}"
            ) from e
        finally:
            answers.sync()
    after = answers.summary(endpoint.model)
    if after.faults != before.faults or after.unanswered != before.unanswered:
        log.warning("%s", after.told())


Job = Mapping[str, str]  # texts by key, asked in one request


def ask_all(jobs: Sequence[Job], ask: Callable[[Job], None], asker: Asker) -> None:
    """ask(job) for every job, `max_parallel` at a time; ask may raise Gone. What is gone then is asked once more at the
    end, text by text, and after that written as given up: every text has an answer, or a reason why there is none."""
    gone = _ask_each(jobs, ask, asker)
    singles: list[Job] = [{k: t} for job in gone for k, t in job.items() if k not in asker.answers]
    asker.last_chance = True
    for job in _ask_each(singles, ask, asker):
        asker.answers.answer(dict.fromkeys(job, "given up"))
    asker.require_answers(fewest=FEWEST_JUDGED_LAST)


def _ask_each(jobs: Sequence[Job], ask: Callable[[Job], None], asker: Asker) -> list[Job]:
    """The jobs that are gone. The first error ends it: requests under way are awaited, so that their answers are kept,
    and no further one is sent."""
    gone: list[Job] = []
    if not jobs:
        return gone

    def guarded(job: Job) -> None:
        if asker.pace.stopped.is_set():
            return
        try:
            ask(job)
        except Gone:
            gone.append(job)
        except BaseException:
            asker.pace.stopped.set()
            raise

    with ThreadPoolExecutor(min(asker.endpoint.max_parallel, len(jobs)), thread_name_prefix="asking") as pool:
        try:
            futures = {pool.submit(guarded, job) for job in jobs}
            left = futures
            while left:
                done, left = wait(left, TELL_EVERY_S, FIRST_EXCEPTION)
                for future in done:
                    future.result()
                if left:
                    asker.tell(len(futures) - len(left), len(futures))
        except BaseException:
            asker.pace.stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return gone
