"""Fields of a short text as JSON: names, numbers and dates copied from where they stand."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mosso.core.json import JsonValue
from mosso.harmony.conversation import Effort
from mosso.train.skills.base import OPENERS, Example, Expected, answer, draw_setting, user, wrap
from mosso.train.skills.words import COMMON_WORDS, FIRST_NAMES, LAST_NAMES, city, nonce, person

NAME = "extraction"
MONTHS = "January February March April May June July August September October November December".split()
JOBS = (
    "teacher nurse engineer baker lawyer painter driver doctor chef farmer pilot plumber designer writer "
    "accountant carpenter dentist electrician librarian photographer"
).split()


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of text: its fields with how they are drawn, and sentences with a slot for each field used."""

    fields: dict[str, Callable[[random.Random], JsonValue]]
    texts: tuple[str, ...]


def _code(rng: random.Random) -> str:
    return f"{rng.choice('ABCDEFGHKLMNPRSTXZ')}{rng.randint(1, 99)}-{rng.randint(10, 999)}"


def _email(rng: random.Random) -> str:
    if rng.random() < 0.5:
        user = f"{nonce(rng, rng.randint(1, 2))}{rng.choice(('', '.', '_'))}{rng.randint(1, 99)}"
    else:
        user = rng.choice(FIRST_NAMES).lower() + rng.choice(("", f".{rng.choice(LAST_NAMES).lower()}"))
    host = "example" if rng.random() < 0.4 else nonce(rng)
    return f"{user}@{host}.{rng.choice(('com', 'com', 'org', 'net', 'io'))}"


def _date(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return f"20{rng.randint(20, 34)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    return f"{rng.randint(1, 28)} {rng.choice(MONTHS)} 20{rng.randint(20, 34)}"


def _price(rng: random.Random) -> float:
    return rng.randint(1, 999) + rng.choice((0.5, 0.99, 0.25, 0.49, 0.75))


def _number(low: int, high: int) -> Callable[[random.Random], JsonValue]:
    return lambda rng: rng.randint(low, high)


def _time(rng: random.Random) -> str:
    return f"{rng.randint(0, 23):02}:{rng.choice((0, 15, 30, 45, rng.randint(0, 59))):02}"


def _phone(rng: random.Random) -> str:
    return f"{rng.randint(100, 999)}-{rng.randint(100, 999)}-{rng.randint(1000, 9999)}"


def _product(rng: random.Random) -> str:
    return rng.choice(COMMON_WORDS) if rng.random() < 0.7 else nonce(rng)


def _job(rng: random.Random) -> str:
    return rng.choice(JOBS)


def _title(rng: random.Random) -> str:
    return " ".join(_product(rng).capitalize() for _ in range(rng.choice((1, 2, 2))))


def _color(rng: random.Random) -> str:
    return rng.choice(COLORS)


COLORS = "red blue green yellow black white orange purple grey brown pink silver golden".split()

KINDS = (
    Kind({"name": person, "age": _number(18, 99), "city": city}, (
        "{name} is {age} years old and lives in {city}.", "My name is {name}, I am {age} and I live in {city}.",
        "{name} from {city} is {age} years old.", "{name}, {age}, lives in {city}.",
        "In {city} lives {name}, who is {age} years old.", "Meet {name} ({age}) from {city}.",
        "{name} turned {age} last week in {city}.", "Name: {name}. Age: {age}. City: {city}.",
    )),
    Kind({"name": person, "job": _job, "city": city, "age": _number(18, 99)}, (
        "{name} works as a {job} in {city} and is {age} years old.", "{name} ({age}) is a {job} from {city}.",
        "The {job} {name}, {age}, lives in {city}.", "I am {name}, a {job} of {age} years from {city}.",
        "At {age}, {name} became a {job} in {city}.",
    )),
    Kind({"product": _product, "price": _price, "quantity": _number(1, 99)}, (
        "I ordered {quantity} pieces of {product} at {price} euros each.", "{quantity} x {product}, {price} euros each.",
        "Please send {quantity} {product} for {price} euros apiece.", "The {product} costs {price} dollars and I want {quantity}.",
        "Order: {product}, price {price}, quantity {quantity}.", "We sold {quantity} units of {product} at {price}.",
    )),
    Kind({"order": _code, "customer": person, "date": _date}, (
        "Order {order} was placed by {customer} on {date}.", "{customer} placed order {order} on {date}.",
        "On {date} we got order {order} from {customer}.", "Customer: {customer}, order: {order}, date: {date}.",
        "Order number {order} for {customer} ships on {date}.",
    )),
    Kind({"name": person, "email": _email, "phone": _phone}, (
        "{name} can be reached at {email} or {phone}.", "Contact {name}: {email}, {phone}.",
        "Write to {name} at {email} or call {phone}.", "My name is {name}, my email is {email} and my phone is {phone}.",
        "Call {phone} or mail {email} and ask for {name}.",
    )),
    Kind({"event": _product, "date": _date, "time": _time, "place": city}, (
        "The {event} meeting is on {date} at {time} in {place}.", "On {date} at {time} there is a {event} show in {place}.",
        "Come to the {event} party in {place} on {date} at {time}.", "{place}, {date}, {time}: {event} fair.",
        "Save the date: {event} day, {date}, {time}, {place}.",
    )),
    Kind({"title": _title, "author": person, "year": _number(1900, 2034)}, (
        "{title} by {author} was published in {year}.", "In {year}, {author} wrote {title}.", "{author} is the author of {title} ({year}).",
        "The book {title} came out in {year}. {author} wrote it.", "Title: {title}. Author: {author}. Year: {year}.",
    )),
    Kind({"company": _title, "founder": person, "city": city, "employees": _number(2, 9999)}, (
        "{company} was founded by {founder} in {city} and has {employees} employees.", "{founder} runs {company}, a company in {city} with {employees} employees.",
        "With {employees} employees, {company} is large in {city}; {founder} founded it.", "{company}, {city}: founder {founder}, {employees} employees.",
    )),
    Kind({"invoice": _code, "amount": _price, "date": _date, "customer": person}, (
        "Invoice {invoice} over {amount} euros is due on {date} for {customer}.", "{customer} must pay {amount} dollars by {date}, invoice {invoice}.",
        "On {date} we sent invoice {invoice} to {customer}. The amount is {amount}.", "Invoice: {invoice}, customer: {customer}, amount: {amount}, date: {date}.",
    )),
    Kind({"color": _color, "size": _number(1, 60), "product": _product, "price": _price}, (
        "The {color} {product} in size {size} costs {price} euros.", "I want a {color} {product}, size {size}, for {price}.",
        "{product}: {color}, size {size}, {price} dollars.", "For {price} you get this {color} {product} of size {size}.",
    )),
    Kind({"name": person, "phone": _phone}, (
        "{name} has the phone number {phone}.", "Please call {name} at {phone}.", "This is {name}, my number is {phone}.",
        "You can reach me under {phone}. Best, {name}", "Phone {phone} belongs to {name}.",
    )),
    Kind({"name": person, "email": _email}, (
        "Hi, I am {name}. My email is {email}.", "Please write to {name} at {email}.", "{name} <{email}>", "Regards, {name} ({email})",
        "The address of {name} is {email}.", "From: {name}, {email}",
    )),
    Kind({"name": person, "team": _color, "score": _number(0, 99), "date": _date}, (
        "{name} of team {team} scored {score} points on {date}.", "On {date}, {name} got {score} points for the {team} team.",
        "{score} points went to {name} ({team}) on {date}.",
    )),
    Kind({"room": _number(1, 400), "guest": person, "nights": _number(1, 21), "date": _date}, (
        "{guest} stays in room {room} for {nights} nights from {date}.", "Room {room} is booked by {guest} from {date}, {nights} nights.",
        "From {date} on, {guest} has room {room} for {nights} nights.", "Guest {guest}, room {room}, {nights} nights, arrival {date}.",
    )),
    Kind({"city": city, "temperature": _number(-20, 40), "humidity": _number(10, 100)}, (
        "It is {temperature} degrees in {city} and the humidity is {humidity} percent.", "{city}: {temperature} degrees, humidity {humidity}%.",
        "In {city} we have {humidity} percent humidity at {temperature} degrees.",
    )),
    Kind({"flight": _code, "from": city, "to": city, "time": _time}, (
        "Flight {flight} leaves {from} for {to} at {time}.", "At {time} flight {flight} goes from {from} to {to}.",
        "From {from} to {to}: flight {flight}, departure {time}.", "We fly from {from} to {to} with {flight} at {time}.",
    )),
)  # fmt: skip

# Sentences of fields that nobody planned for: their names are words, so names are copied too.
PAIRS = (
    "The {f} is {v}.", "{f}: {v}.", "{f} = {v};", "Its {f} is {v}.", "My {f} is {v}.", "{f} {v},", "- {f}: {v}\n", "The {f} of this is {v}.",
)  # fmt: skip
FIELD_NAMES = (
    "weight height width length brand model version status level rank country street language currency total rating category "
    "material owner manager department project deadline priority start end distance speed capacity genre artist album pages id"
).split()

REQUESTS = (
    "Extract {f} as JSON: {t}", 'Extract {f} as JSON from this text: "{t}"', "Extract {f} as JSON.\n\n{t}",
    "Give me {f} from this text as JSON: {t}", "Return {f} as JSON. Text: {t}", "{t}\nExtract {f} as JSON.",
    "Turn this into JSON with {f}: {t}", "Parse this into JSON ({f}): {t}", "From the text below, get {f} as JSON.\n{t}",
    "Please extract {f} from this and answer in JSON: {t}", 'What are {f} here? Answer as JSON. "{t}"',
    "Read this and output JSON with {f}: {t}", "extract {f} as json: {t}", "{t} -> JSON with {f}", "Convert to JSON with {f}: {t}",
    "Get {f} from: {t} Reply with JSON only.", "Extract {f} from the text and return a JSON object.\n\nText: {t}", "I need {f} as JSON. {t}",
    "Text: {t}\n\nReturn a JSON object with {f}.", "Extract the following fields as JSON: {f}\n\n{t}", "JSON with {f}: {t}", "{t}\n\nPut {f} into JSON.",
)  # fmt: skip


def _named(rng: random.Random, fields: list[str]) -> str:
    the = "the " if rng.random() < 0.5 else ""
    if len(fields) == 1:
        return the + fields[0]
    return the + ", ".join(fields[:-1]) + rng.choice((" and ", ", ", " and ")) + fields[-1]


def shown(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False)


def thinking(found: dict[str, JsonValue], effort: Effort) -> str:
    """Low: nothing. Medium: each field. High: where it stands, then each field again as JSON."""
    if effort is Effort.LOW:
        return ""
    lines = ["Copy each field from the text."]
    for name, value in found.items():
        lines.append(f"{name}: {value}" if value is not None else f"{name}: not in the text, null")
    if effort is Effort.HIGH:
        lines.append("As JSON values:")
        lines += [f"{name} -> {shown(value)}" for name, value in found.items()]
        lines.append(f"check: {len(found)} fields, all of them.")
    return "\n".join(lines)


def draw(rng: random.Random) -> Iterator[Example]:
    text, values = _pairs(rng) if rng.random() < 0.2 else _of_kind(rng)
    wanted = list(values)
    rng.shuffle(wanted)
    wanted = wanted[: rng.choices(range(1, len(wanted) + 1), weights=range(1, len(wanted) + 1))[0]]
    if rng.random() < 0.12:
        wanted.insert(rng.randrange(len(wanted) + 1), _absent(rng, values))
    found = {name: values.get(name) for name in wanted}
    setting = draw_setting(rng)
    yield Example(
        NAME,
        setting.prompt(user(_request(rng, _named(rng, wanted), text))),
        answer(thinking(found, setting.effort), shown(found)),
        Expected(json=found),
        f"extraction {sorted(map(str, values.values()))}",
        detail=f"{len(found)} fields",
    )


def _absent(rng: random.Random, values: dict[str, JsonValue]) -> str:
    """A field that the text does not have, under no other name either."""
    near = {name for group in _ALIKE if not group.isdisjoint(values) for name in group}
    return rng.choice([name for name in ALL_FIELDS if name not in values and name not in near])


# Fields that could be taken for one another.
_ALIKE = tuple(frozenset(group.split()) for group in (
    "name customer author founder guest owner manager artist", "price amount total", "city place country from to start end",
    "date deadline year time start end", "product event title brand model album company category project", "order invoice flight id",
    "quantity score rating rank level pages nights employees capacity size", "color team", "email phone", "temperature humidity",
    "weight height width length size distance", "job department",
))  # fmt: skip


def _request(rng: random.Random, fields: str, text: str) -> str:
    """Fields and text in a request; the text itself is left as it is."""
    template = rng.choice(REQUESTS)
    roll = rng.random()
    if roll < 0.3:
        head, slot, tail = template.partition("{t}")
        if slot and head.endswith((": ", ". ")):
            template = wrap(rng, head[:-2]).rstrip("?.") + head[-2:] + slot + tail
    elif roll < 0.4 and template[0] not in '{"':
        template = rng.choice(OPENERS) + template[0].lower() + template[1:]
    return template.format(f=fields, t=text)


def _of_kind(rng: random.Random) -> tuple[str, dict[str, JsonValue]]:
    kind = rng.choice(KINDS)
    values = {name: make(rng) for name, make in kind.fields.items()}
    return rng.choice(kind.texts).format(**values), values


def _pairs(rng: random.Random) -> tuple[str, dict[str, JsonValue]]:
    names: set[str] = set()
    while len(names) < rng.randint(2, 5):
        names.add(rng.choice(FIELD_NAMES) if rng.random() < 0.6 else _product(rng))
    makers = (
        _product,
        _product,
        _title,
        _code,
        _date,
        _price,
        _color,
        city,
        person,
        _number(0, 9999),
        _number(1, 99),
    )
    values = {name: rng.choice(makers)(rng) for name in sorted(names)}
    form = rng.choice(PAIRS)
    text = " ".join(form.format(f=name, v=value) for name, value in values.items())
    return text.replace("\n ", "\n").rstrip(",;\n"), values


ALL_FIELDS = tuple(dict.fromkeys([*(name for kind in KINDS for name in kind.fields), *FIELD_NAMES]))
