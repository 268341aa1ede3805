"""Personal data taken out of texts by rule, on import: before anything is hashed, cached, shown or asked.

Built in: url, email, iban (by its check digits), card (by Luhn), nric (Singapore's NRIC and FIN, by the check letter),
ip, phone, name (after an introduction or a title). A user adds patterns and lists of names. What a rule finds becomes
its name in brackets: `[CARD]`. Rules find what has their form: none finds every name."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kdexport.errors import BadInput, KdexportError
from kdexport.nouns.project import Redact, RedactRule

BUILT_IN = ("url", "email", "iban", "card", "nric", "ip", "phone", "name")  # in this order, whatever the project's
WITH_DIGITS = ("iban", "card", "nric", "ip", "phone")  # nothing to look for in most texts
ANY_DIGIT = re.compile(r"\d")
SHOWN_CHARACTERS = 20  # of a text in an error: what is shorter may stand there by chance, as 'card' does
Spans = Iterator[tuple[int, int]]  # (start, end) in a text, ascending, apart


@dataclass(frozen=True)
class Rule:
    name: str
    replacement: str
    find: Callable[[str], Spans]
    needs_digits: bool = False  # finds nothing in a text without one


def rules_of(redact: Sequence[Redact]) -> tuple[Rule, ...]:
    """Built-in rules first, then the user's in their order. Raises BadInput for a list file that is not there."""
    chosen = [name for name in BUILT_IN if name in redact]
    own = [_own(rule) for rule in redact if isinstance(rule, RedactRule)]
    return (*(Rule(name, f"[{name.upper()}]", _FINDERS[name], name in WITH_DIGITS) for name in chosen), *own)


def redact(text: str, rules: Sequence[Rule]) -> tuple[str, Counter[str]]:
    """(the text without what the rules find, how often each rule found something)."""
    found: Counter[str] = Counter()
    has_digits = ANY_DIGIT.search(text) is not None
    for rule in rules:
        if rule.needs_digits and not has_digits:
            continue
        parts, at = [], 0
        for start, end in rule.find(text):
            parts += [text[at:start], rule.replacement]
            at = end
            found[rule.name] += 1
        if parts:
            text = "".join([*parts, text[at:]])
    return text, found


@contextmanager
def redacted_errors(rules: Sequence[Rule]) -> Iterator[None]:
    """An error inside may quote a cell or a header: the rules hold for its message, and its cause is not shown."""
    try:
        yield
    except KdexportError as e:
        if not rules:
            raise
        raise type(e)(redact(str(e), rules)[0]) from None


@contextmanager
def errors_without(texts: Callable[[], Iterator[str]]) -> Iterator[None]:
    """An error inside quotes none of these texts, whole or their beginning. They are asked for only after an error."""
    try:
        yield
    except KdexportError as e:
        message = str(e)
        for text in texts():
            for part in (text, text[:60]):
                if len(part) >= SHOWN_CHARACTERS:
                    message = message.replace(part, "[TEXT]")
        raise type(e)(message) from None


def _own(rule: RedactRule) -> Rule:
    replacement = f"[{rule.name.upper()}]" if rule.replace is None else rule.replace
    if rule.file is not None:
        return Rule(rule.name, replacement, _listed(_phrases(rule.file, rule.name)))
    assert rule.pattern is not None
    pattern = re.compile(rule.pattern)
    return Rule(rule.name, replacement, lambda text: (m.span() for m in pattern.finditer(text) if m.group()))


WORD = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*")


def _phrases(file: Path, name: str) -> dict[str, list[tuple[str, ...]]]:
    """By the first word, the longest first: 100,000 names cost a look-up a word, not a pattern of 100,000 branches."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as e:
        raise BadInput(f"{file}: is not UTF-8 text (byte {e.start}); convert it to UTF-8") from e
    except OSError as e:
        raise BadInput(f"{file}: the list of rule '{name}' cannot be read ({e.strerror})") from e
    by_first: dict[str, list[tuple[str, ...]]] = {}
    for line in lines:
        if words := tuple(WORD.findall(line.casefold())):
            by_first.setdefault(words[0], []).append(words)
    if not by_first:
        raise BadInput(f"{file}: the list of rule '{name}' is empty; write one name or phrase a line")
    for phrases in by_first.values():
        phrases.sort(key=len, reverse=True)
    return by_first


def _listed(by_first: dict[str, list[tuple[str, ...]]]) -> Callable[[str], Spans]:
    def find(text: str) -> Spans:
        words = [(m.group().casefold(), m.span()) for m in WORD.finditer(text)]
        i = 0
        while i < len(words):
            fits = (p for p in by_first.get(words[i][0], ()) if tuple(w for w, _ in words[i : i + len(p)]) == p)
            phrase = next(fits, None)
            if phrase is not None:
                yield words[i][1][0], words[i + len(phrase) - 1][1][1]
            i += len(phrase) if phrase else 1

    return find


# --- built in: a pattern finds candidates, a check keeps those that are meant

URL = re.compile(r"(?<!\w)(?:https?://|www\.)[^\s<>\"']*[^\s<>\"'.,;:!?)\]]", re.IGNORECASE)
EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]+@[\w-]+(?:\.[\w-]+)+")
IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}(?![A-Za-z0-9])", re.IGNORECASE)
SEPARATOR = r"[ \t\u00a0.\-\u2010-\u2015_/]{0,2}"
DIGITS = re.compile(rf"(?<!\d)\d(?:{SEPARATOR}\d){{12,}}")
NRIC = re.compile(r"(?<![A-Za-z0-9])([STFGM])[ -]?(\d(?:[ -]?\d){6})[ -]?([A-Z])(?![A-Za-z0-9])", re.IGNORECASE)
IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)")
IPV6 = re.compile(r"(?<![\w:])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?![\w:])", re.IGNORECASE)
PHONE = re.compile(r"(?<![\w$£€.,])(?:\+|\(\+?)?\d(?:[ ().\-]{0,2}\d){6,14}(?!\w|[.,]\d)")
DATE = re.compile(r"(?:\d{4}[-./ ]\d{1,2}[-./ ]\d{1,2}|\d{1,2}[-./ ]\d{1,2}[-./ ]\d{4})")
CALLED = re.compile(
    r"(?:phone|mobile|cell|tel|hp|handphone|whatsapp|call|ring|text|sms|reach|contact)\b[^.\d]{0,25}$", re.IGNORECASE
)
CARD_DIGITS = range(19, 12, -1)
COUNTRIES = """
AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 FI18 FO18 FR27
GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27
MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SE24 SI19 SK24 SM27 ST25 SV28 TL23
TN24 TR26 UA29 VA22 VG24 XK20
"""
IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in COUNTRIES.split()}  # of SWIFT's IBAN registry


def _urls(text: str) -> Spans:
    return (m.span() for m in URL.finditer(text)) if "://" in text or "www." in text.casefold() else iter(())


def _emails(text: str) -> Spans:
    return (m.span() for m in EMAIL.finditer(text)) if "@" in text else iter(())


def _ibans(text: str) -> Spans:
    """A candidate may run on into the next words: its country says where it ends."""
    for match in IBAN.finditer(text):
        places = [i for i in range(*match.span()) if text[i].isalnum()]
        length = IBAN_LENGTHS.get(text[match.start() : match.start() + 2].upper(), 0)
        if 0 < length <= len(places) and is_iban("".join(text[i] for i in places[:length])):
            yield match.start(), places[length - 1] + 1


def _cards(text: str) -> Spans:
    """A run of digits may hold more than the card, as an expiry date: any stretch of whole groups is looked at."""
    for match in DIGITS.finditer(text):
        places = [i for i in range(*match.span()) if text[i].isdigit()]
        starts = [n for n, i in enumerate(places) if n == 0 or places[n - 1] != i - 1]
        ends = {n for n, i in enumerate(places, 1) if n == len(places) or places[n] != i + 1}
        taken = 0
        for start in starts:
            lengths = (n for n in CARD_DIGITS if start >= taken and start + n in ends)
            for length in lengths:
                if is_card("".join(text[i] for i in places[start : start + length])):
                    taken = start + length
                    yield places[start], places[taken - 1] + 1
                    break


def _nrics(text: str) -> Spans:
    for match in NRIC.finditer(text):
        if is_nric(match[1] + re.sub(r"\D", "", match[2]) + match[3]):
            yield match.span()


def _ips(text: str) -> Spans:
    found = [m for pattern in (IPV4, IPV6) for m in pattern.finditer(text)]
    for match in sorted(found, key=lambda m: m.start()):
        if len(match.group()) > 3 and _is_ip(match.group()):
            yield match.span()


def _phones(text: str) -> Spans:
    for match in PHONE.finditer(text):
        if _is_phone(match.group().strip(), text[: match.start()]):
            yield match.span()


def is_card(digits: str) -> bool:
    """13 to 19 digits that pass Luhn's check (ISO/IEC 7812-1), the first not 0."""
    values = [int(d) for d in digits]
    doubled = [v if i % 2 == 0 else v * 2 - 9 * (v > 4) for i, v in enumerate(reversed(values))]
    return len(values) in CARD_DIGITS and values[0] != 0 and sum(doubled) % 10 == 0


def is_nric(text: str) -> bool:
    """A Singapore NRIC or FIN with its check letter: weights 2 7 6 5 4 3 2, 4 more for T and G, 3 more for M."""
    series, digits, letter = text[0].upper(), text[1:8], text[8].upper()
    total = sum(w * int(d) for w, d in zip((2, 7, 6, 5, 4, 3, 2), digits, strict=True))
    total += {"T": 4, "G": 4, "M": 3}.get(series, 0)
    table = {"S": "JZIHGFEDCBA", "T": "JZIHGFEDCBA", "M": "XWUTRQPNJLK"}.get(series, "XWUTRQPNMLK")
    return table[total % 11] == letter


def is_iban(text: str) -> bool:
    """As long as its country's are, with right check digits (ISO 13616: modulo 97 is 1)."""
    if len(text) != IBAN_LENGTHS.get(text[:2].upper()) or not (text.isascii() and text.isalnum()):
        return False
    moved = (text[4:] + text[:4]).upper()
    return int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_phone(text: str, before: str) -> bool:
    """With a country code or brackets; in the groups of a national number; Singapore's eight digits; or any number that
    the words before call one. A date or an amount is none."""
    digits = re.sub(r"\D", "", text)
    if DATE.fullmatch(text):
        return False
    if text.startswith(("+", "(", "00")) or CALLED.search(before):
        return True
    groups = [len(g) for g in re.findall(r"\d+", text)]
    if len(digits) == 8:
        return digits[0] in "3689" and groups in ([8], [4, 4])
    return (digits[0] == "0" and len(digits) in (10, 11)) or groups in ([3, 3, 4], [3, 4, 4], [5, 6], [1, 3, 3, 4])


# --- names: after "my name is", "I am" and the like, or a title

STRONG = re.compile(r"\b(?:my|his|her|full|first|last|whose)\s+(?:\w+\s+)?name(?:['’]s|\s+is|\s*:)\s+", re.IGNORECASE)
WEAK = re.compile(r"\b(?:i\s+am|i['’]?m|this\s+is|call\s+me|signed|regards,?|sincerely,?)\s+", re.IGNORECASE)
TITLE = re.compile(r"(?<![\w])(?:mr|mrs|mdm|dr|ms|miss|madam|prof|sir)\b\.?\s+", re.IGNORECASE)
CUES = (  # each with what stands in every match of it: most texts need no pattern
    (STRONG, ("name",)),
    (WEAK, ("am", "i'm", "i’m", "im", "this", "call", "signed", "regards", "sincerely")),
    (TITLE, ("mr", "mdm", "dr", "ms", "miss", "madam", "prof", "sir")),
)
LOWER_TITLES = ("mr", "mrs", "mdm", "dr")  # these stand before names even where nothing is capitalised
NAME_WORD = re.compile(r"(?:[sd]/o|a/[lp])\b|[^\W\d_]+(?:['’-][^\W\d_]+)*", re.IGNORECASE)
BETWEEN = re.compile(r"\.? ?")  # of two words of a name
MAX_NAME_WORDS = 5
PARTICLE_WORDS = "bin binte bte binti s/o d/o a/l a/p de da del della der van von la le al el ibn"
# words that follow "I am" and are no name, capitalised or not; short and common ones only: a name lost costs less
STOP_WORDS = """
a about above account after again all already also always am american an and any app applying are as asking at atm
australian aware back bank because been being british but by calling can cannot card charged checking chinese
confused considering could currently customer deeply did disappointed do doing done dubai due english european even
ever everyone experiencing extremely fed finding for from frustrated getting glad going gonna good got had happy has
have having hello help her here hi him his hoping how i if in incorrect indian interested into is it its japan just
keen kindly late locked london looking lost lot making me missing misspelled misspelt money more much my need
needing new no not now of off okay old on one only or our out outside overseas paying permanent planning please
pretty quite ready really regarding right saying seeing seriously showing sim singapore singaporean so some sorry
spelled spelt still stuck such sure team thank thanks that the their them there these they this those tired to too
top transferring traveling travelling trying uk unable under unhappy unsure until up updated upset urgent us usa
used using very via visa waiting want wanting was we well were what when where which while who why will wish with
without wondering working worried would writing wrong yes yet you your
"""
# given names and surnames that are common in Singapore and in English; only ever looked at after an introduction
KNOWN_NAMES = """
aaron abdul adam adrian ahmad aisha alan albert alex alexander alice alicia alvin amanda amir amy andrea andrew
angela anita ann anna anne anthony arjun arun ashley azman barbara ben benjamin bernard betty brandon brian bryan
carl carlos carol caroline catherine chan charles charlotte chen cheng cheryl chia chloe chong chris christina
christine christopher chua claire clara clarence cynthia daniel danny daphne darren david dawn deborah deepak dennis
derek desmond diana diane dominic donald dorothy edward edwin elaine elena eli elizabeth emily emma eric erica ethan
eugene eunice eva evelyn faith farah fatimah felicia felix fiona frances francis frank gabriel gary geoffrey george
gerald gerard gillian gloria goh gordon graham greg gregory hafiz hannah haris harry hassan heather helen henry hui
hussein ian ibrahim irene isaac isabel ismail ivan jack jacob jacqueline jaime james jamie jane janet janice jared
jasmine jason jean jeffrey jennifer jenny jeremy jerome jerry jessica jia jill joan joanna joanne joe joel john
johnny jonathan jose joseph joshua joyce juan judith judy julia julian julie jun justin karen karthik kate katherine
kathleen keith kelly kelvin ken kenneth kevin khadijah kim kimberly koh kumar kyle lakshmi larry laura lauren
lawrence lee leon leonard lily lim linda lisa louis lucas lucy luke lynn malcolm marcus margaret maria marie marilyn
mark martha martin mary matthew mei melissa melvin michael michelle mohamed mohammad mohammed muhammad nadia nancy
natalie nathan neha neil ng nicholas nicole nigel nina noah nora norman nur nurul olivia omar ong oscar pamela
patricia patrick paul pauline peter philip phillip priya rachel rahim rahul raj rajesh ralph ramesh ravi raymond
rebecca richard rita robert roger ronald rosie roy ruth ryan sally sam samantha samuel sandra sanjay sara sarah
scott sean serene sharon shaun sheila shirley siew siti sofia sophia sophie stanley stephanie stephen steven sunil
suresh susan suzanne tan tay teo terence teresa theresa thomas tiffany timothy tina toh tom tony valerie vanessa
veronica victor victoria vijay vincent virginia vivian walter wei wendy wesley william wong xiao xin yan yang yeo yi
ying yong yusof yvonne zachary zainal zhang zoe
"""
PARTICLES, STOP, KNOWN = (frozenset(w.split()) for w in (PARTICLE_WORDS, STOP_WORDS, KNOWN_NAMES))


def _names(text: str) -> Spans:
    """What follows an introduction or a title, and every later mention of the same words."""
    low = text.casefold()
    cues = [pattern for pattern, hints in CUES if any(hint in low for hint in hints)]
    found = [span for pattern in cues for m in pattern.finditer(text) if (span := _after(text, m))]
    if not found:
        return
    words = {w for start, end in found for w in NAME_WORD.findall(text[start:end]) if len(w) > 2}
    again = [m.span() for m in NAME_WORD.finditer(text) if m.group() in words and m.group().casefold() not in STOP]
    end = 0
    for start, stop in sorted({*found, *again}, key=lambda span: (span[0], -span[1])):
        if start >= end:
            yield start, stop
            end = stop


def _after(text: str, cue: re.Match[str]) -> tuple[int, int] | None:
    """(start, end) of the name after a cue; None where what follows is no name."""
    small_words = 2 if cue.re is STRONG else int(cue.group().strip(". ").casefold() in LOWER_TITLES)
    cased = _tells_by_case(text, cue)
    at, count = cue.end(), 0
    while count < MAX_NAME_WORDS and (match := NAME_WORD.match(text, at)):
        word, lower = match.group(), match.group().casefold()
        capital = word[0].isupper() and (cased or count > 0)
        fits = capital or lower in KNOWN or count < small_words or (count > 0 and lower in PARTICLES)
        if lower in STOP or not fits:
            break
        end, count = match.end(), count + 1
        at = end + len(BETWEEN.match(text, end).group())  # type: ignore[union-attr]
        if at == end:
            break
    return (cue.end(), end) if count else None


def _tells_by_case(text: str, cue: re.Match[str]) -> bool:
    """In a text of capitals, or of Capitalised Words, a capital tells nothing."""
    words = NAME_WORD.findall(text)
    return sum(w[0].islower() for w in words) * 3 >= len(words) or any(w[0].islower() for w in cue.group().split())


_FINDERS: dict[str, Callable[[str], Spans]] = {
    "url": _urls,
    "email": _emails,
    "iban": _ibans,
    "card": _cards,
    "nric": _nrics,
    "ip": _ips,
    "phone": _phones,
    "name": _names,
}
