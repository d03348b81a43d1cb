"""When a schedule fires: EventBridge Scheduler's expressions and plain words, checked before AWS.

    rate(7 days)              every monday 03:00
    cron(0 3 ? * MON *)       every weekday at 22:30
    at(2026-12-01T03:00:00)   every month 03:00 · every 6 hours

https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html
"""

from __future__ import annotations

import calendar
import difflib
import re
import zoneinfo
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

from lib.failures import Misuse

MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")

DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
"""Of the week; AWS counts them from 1."""

UNITS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}


@dataclass(frozen=True)
class Field:
    """One of the six fields of a cron expression."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    """Words for the numbers from `low` on."""


FIELDS = (
    Field("minutes", 0, 59),
    Field("hours", 0, 23),
    Field("day of month", 1, 31),
    Field("month", 1, 12, MONTHS),
    Field("day of week", 1, 7, DAYS),
    Field("year", 1970, 2199),
)

Matches = Callable[[date], bool]


@dataclass(frozen=True)
class Rate:
    """Every so many minutes, hours or days of 24 hours, whatever the clocks do."""

    text: str
    every: timedelta

    def times(self, after: datetime, zone: ZoneInfo, start: datetime | None) -> Iterator[datetime]:
        """Yield the times after `after`; `start` is the first (None: one period from `after`)."""
        first = (start or after + self.every).astimezone(UTC)
        at = first + max(0, (after - first) // self.every + 1) * self.every
        while True:
            yield at.astimezone(zone)
            at += self.every


@dataclass(frozen=True)
class Cron:
    """At the minutes and hours of a wall clock, on the days that match."""

    text: str
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    years: tuple[int, ...]
    matches: Matches

    def times(self, after: datetime, zone: ZoneInfo, start: datetime | None) -> Iterator[datetime]:
        """Yield the times after `after`.

        A time that the clocks jump over is skipped, and one that they show twice is used once: so
        does EventBridge Scheduler.
        """
        day = max(after.astimezone(zone).date(), date(self.years[0], 1, 1))
        while day.year <= self.years[-1]:
            if day.year in self.years and self.matches(day):
                for hour in self.hours:
                    for minute in self.minutes:
                        at = datetime.combine(day, time(hour, minute), zone)
                        if at > after and _exists(at):
                            yield at
            day += timedelta(days=1)


@dataclass(frozen=True)
class At:
    """Once."""

    text: str
    moment: datetime
    """Of a wall clock, without a zone."""

    def times(self, after: datetime, zone: ZoneInfo, start: datetime | None) -> Iterator[datetime]:
        """Yield the time, if it is after `after` and the clocks show it."""
        at = self.moment.replace(tzinfo=zone)
        if at > after and _exists(at):
            yield at


Expression = Rate | Cron | At


def parse(text: str) -> Expression:
    """Return what `text` means; its own `text` is what AWS takes.

    Raises:
        Misuse: the message names the field or word that is wrong, and what it may be.
    """
    text = " ".join(text.split())
    found = re.fullmatch(r"(rate|cron|at)\((.*)\)", text)
    if found is None:
        return _words(text)
    kind, inner = found.groups()
    return {"rate": _rate, "cron": _cron, "at": _at}[kind](inner.strip())


def zone(name: str) -> ZoneInfo:
    """Return the time zone of that name.

    Raises:
        Misuse: there is none.
    """
    try:
        return ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        near = difflib.get_close_matches(name, zoneinfo.available_timezones(), 1, 0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise Misuse(
            f"--timezone must be a name such as Europe/Berlin or UTC. Received: {name}.{hint}"
        ) from error


def next_times(
    expression: Expression,
    in_zone: ZoneInfo,
    n: int = 5,
    after: datetime | None = None,
    start: datetime | None = None,
) -> list[datetime]:
    """Return the next `n` times, fewer where there are no more.

    Raises:
        Misuse: there is none at all.
    """
    after = after or datetime.now(UTC)
    found = list(islice(expression.times(after, in_zone, start), n))
    if not found:
        raise Misuse(f"{expression.text}: never comes (again) in {in_zone.key}")
    return found


def _exists(at: datetime) -> bool:
    """Tell whether the clocks show this time; in spring they leave some out."""
    return at.astimezone(UTC).astimezone(at.tzinfo).replace(tzinfo=None) == at.replace(tzinfo=None)


def _rate(inner: str) -> Rate:
    text = f"rate({inner})"
    number, _, unit = inner.partition(" ")
    if not number.isdecimal() or int(number) < 1:
        raise Misuse(f"{text}: the number must be 1 or more. Received: {number or 'nothing'}")
    if unit.removesuffix("s") not in UNITS:
        raise Misuse(f"{text}: the unit must be minutes, hours or days. Received: {unit or 'none'}")
    n, unit = int(number), unit.removesuffix("s")
    return Rate(f"rate({n} {unit}{'' if n == 1 else 's'})", n * UNITS[unit])


def _at(inner: str) -> At:
    try:
        moment = datetime.strptime(inner, "%Y-%m-%dT%H:%M:%S")
    except ValueError as error:
        raise Misuse(
            f"at({inner}): must be at(2026-12-01T03:00:00), a date, a T and a time, without a zone "
            f"({error})"
        ) from error
    return At(f"at({inner})", moment)


def _cron(inner: str) -> Cron:
    inner = inner.upper()
    text, specs = f"cron({inner})", inner.split(" ")
    if len(specs) != len(FIELDS):
        raise Misuse(
            f"{text}: must have 6 fields, minutes hours day-of-month month day-of-week year, such "
            f"as cron(0 3 ? * MON *). Received: {len(specs)}"
        )
    minutes, hours, month_days, months, week_days, years = specs
    if [month_days, week_days].count("?") != 1:
        raise Misuse(
            f"{text}: one of fields 3, day of month, and 5, day of week, must be ?, and the other "
            f"not. Received: {month_days} and {week_days}"
        )
    by_day = _week_day if month_days == "?" else _month_day
    matches_day = by_day(text, week_days if month_days == "?" else month_days)
    in_months = _numbers(text, 3, months)
    return Cron(
        text,
        _numbers(text, 0, minutes),
        _numbers(text, 1, hours),
        _numbers(text, 5, years),
        lambda day: day.month in in_months and matches_day(day),
    )


def _numbers(text: str, index: int, spec: str) -> tuple[int, ...]:
    """Return the numbers that a field stands for: `*`, `a`, `a-b`, `a/step`, and lists of them."""
    found: set[int] = set()
    for item in spec.split(","):
        span, slash, step = item.partition("/")
        if slash and not (step.isdecimal() and int(step)):
            raise _wrong(text, index, item)
        first, dash, last = span.partition("-")
        low = FIELDS[index].low if span == "*" else _number(text, index, first, item)
        high = _number(text, index, last, item) if dash else low
        if span == "*" or (slash and not dash):
            high = FIELDS[index].high
        if low > high:
            raise _wrong(text, index, item)
        found |= set(range(low, high + 1, int(step) if slash else 1))
    return tuple(sorted(found))


def _number(text: str, index: int, word: str, item: str) -> int:
    field = FIELDS[index]
    if word in field.names:
        return field.low + field.names.index(word)
    if not word.isdecimal() or not field.low <= int(word) <= field.high:
        raise _wrong(text, index, item)
    return int(word)


def _wrong(text: str, index: int, item: str) -> Misuse:
    field = FIELDS[index]
    words = f" or {field.names[0]} to {field.names[-1]}" if field.names else ""
    marks = {2: ", L or 15W", 4: ", 6L or 2#1"}.get(index, "")
    return Misuse(
        f"{text}: field {index + 1}, {field.name}, must be {field.low} to {field.high}{words}; *, "
        f"lists 1,2, ranges 1-5 and steps 0/15 of them{marks}. Received: {item or 'nothing'}"
    )


def _month_day(text: str, spec: str) -> Matches:
    """Return what tells days of a month: numbers, `L` for the last, `15W` for a weekday near."""
    if spec == "L":
        return lambda day: day.day == calendar.monthrange(day.year, day.month)[1]
    if spec.endswith("W"):
        near = _number(text, 2, spec[:-1], spec)
        return lambda day: day.day == _near_weekday(day.year, day.month, near)
    days = _numbers(text, 2, spec)
    return lambda day: day.day in days


def _near_weekday(year: int, month: int, near: int) -> int | None:
    """Return the weekday nearest to a day of a month, within the month."""
    last = calendar.monthrange(year, month)[1]
    if near > last:
        return None
    week_day = date(year, month, near).weekday()
    if week_day == calendar.SATURDAY:
        return near - 1 if near > 1 else near + 2
    if week_day == calendar.SUNDAY:
        return near + 1 if near < last else near - 2
    return near


def _week_day(text: str, spec: str) -> Matches:
    """Return what tells days of a week: numbers, `6L` the last Friday, `2#1` the first Monday."""
    if spec == "L":
        return lambda day: _aws_week_day(day) == 7
    if spec.endswith("L"):
        last = _number(text, 4, spec[:-1], spec)
        return lambda day: (
            _aws_week_day(day) == last and (day + timedelta(days=7)).month != day.month
        )
    name, mark, count = spec.partition("#")
    if mark:
        wanted = _number(text, 4, name, spec)
        if count not in ("1", "2", "3", "4", "5"):
            raise _wrong(text, 4, spec)
        return lambda day: _aws_week_day(day) == wanted and (day.day - 1) // 7 == int(count) - 1
    days = _numbers(text, 4, spec)
    return lambda day: _aws_week_day(day) in days


def _aws_week_day(day: date) -> int:
    return day.isoweekday() % 7 + 1


def _words(text: str) -> Expression:
    """Return what plain words mean."""
    every, *words = text.lower().replace(",", " ").split() or [""]
    words = [word for word in words if word not in ("at", "and")]
    if every != "every" or not words:
        raise Misuse(
            "a schedule must be rate(7 days), cron(0 3 ? * MON *), at(2026-12-01T03:00:00) or "
            f"words such as 'every monday 03:00'. Received: {text}"
        )
    if words[-1].removesuffix("s") in (*UNITS, "week") and _is_rate(words):
        return _every(words)
    *on, clock = words
    hour, minute = _clock(text, clock)
    return _cron(f"{minute} {hour} {_on(text, on)} *")


def _is_rate(words: Sequence[str]) -> bool:
    return len(words) == 2 and words[0].isdecimal() or words in (["hour"], ["minute"])


def _every(words: Sequence[str]) -> Rate:
    number, unit = words if len(words) == 2 else ("1", words[0])
    if unit.startswith("week"):
        return _rate(f"{7 * int(number)} days")
    return _rate(f"{number} {unit}")


def _clock(text: str, clock: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,2}):(\d\d)", clock)
    if not found or int(found[1]) > 23 or int(found[2]) > 59:
        raise Misuse(f"'{text}': the last word must be a time, 00:00 to 23:59. Received: {clock}")
    return int(found[1]), int(found[2])


def _on(text: str, words: Sequence[str]) -> str:
    """Return the fields 3 to 5 of cron for the words between every and the time."""
    known = {"day": "* * ?", "month": "1 * ?", "weekday": "? * MON-FRI", "weekend": "? * SAT,SUN"}
    if len(words) == 1 and words[0] in known:
        return known[words[0]]
    days = {name.lower(): name[:3].upper() for name in calendar.day_name}
    for word in words or ["nothing"]:
        if word.removesuffix("s") not in days:
            near = difflib.get_close_matches(word, [*known, *days], 1)
            raise Misuse(
                f"'{text}': between every and the time must stand day, weekday, weekend, month, or "
                f"monday to sunday. Received: {word}{f'; did you mean {near[0]}?' if near else ''}"
            )
    return f"? * {','.join(days[word.removesuffix('s')] for word in words)}"
