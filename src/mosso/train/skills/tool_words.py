"""Values that arguments and results of tools are drawn from: each as JSON and as a user writes it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from mosso.core.json import JsonValue
from mosso.train.skills.words import CITIES as KNOWN_CITIES
from mosso.train.skills.words import COMMON_WORDS, FIRST_NAMES, LAST_NAMES, nonce, person


class Value(NamedTuple):
    json: JsonValue
    text: str  # in a question


CITIES = (
    *KNOWN_CITIES,
    "Lyon", "Nice", "Marseille", "Bordeaux", "Toulouse", "Florence", "Venice", "Turin", "Palermo", "Bologna",
    "Cologne", "Frankfurt", "Stuttgart", "Leipzig", "Dresden", "Bremen", "Seville", "Bilbao", "Granada",
    "Manchester", "Liverpool", "Leeds", "Bristol", "Glasgow", "Edinburgh", "Cardiff", "Belfast", "Cork",
    "Galway", "Antwerp", "Bruges", "Leiden", "Delft", "Lausanne", "Lucerne", "Innsbruck", "Linz", "Brno",
    "Gdansk", "Poznan", "Sofia", "Bucharest", "Belgrade", "Zagreb", "Split", "Sarajevo", "Tirana", "Nicosia",
    "Minsk", "Kyiv", "Odessa", "Tbilisi", "Yerevan", "Baku", "Tashkent", "Almaty", "Kabul", "Karachi",
    "Lahore", "Chennai", "Kolkata", "Pune", "Jaipur", "Dhaka", "Colombo", "Yangon", "Busan", "Nagoya",
    "Sapporo", "Taipei", "Shenzhen", "Perth", "Brisbane", "Adelaide", "Wellington", "Suva", "Houston",
    "Portland", "Detroit", "Memphis", "Orlando", "Tampa", "Calgary", "Ottawa", "Quebec", "Cancun", "Panama",
    "Caracas", "Medellin", "Cusco", "Sao Paulo", "Recife", "Montevideo", "Cordoba", "Algiers", "Casablanca",
    "Rabat", "Kampala", "Kigali", "Lusaka", "Harare", "Durban", "Pretoria", "Addis Ababa", "Khartoum",
    "Kuala Lumpur", "Ho Chi Minh City", "Tel Aviv", "Abu Dhabi", "San Diego", "Las Vegas", "New Delhi",
)  # fmt: skip
COUNTRIES = (
    "France", "Italy", "Germany", "Spain", "Japan", "Norway", "Egypt", "Peru", "India", "Australia", "Canada",
    "Brazil", "Mexico", "Kenya", "Ghana", "Chile", "Greece", "Poland", "Sweden", "Portugal", "Ireland",
    "Turkey", "Vietnam", "Thailand", "Iceland", "Finland", "Austria", "Belgium", "Morocco", "China",
)  # fmt: skip
STATES = ("CA", "NY", "TX", "WA", "FL", "MA", "IL", "UK", "FR", "DE")
CURRENCIES = {
    "USD": "dollars", "EUR": "euros", "GBP": "pounds", "JPY": "yen", "CHF": "francs", "INR": "rupees",
    "CAD": "CAD", "AUD": "AUD", "SEK": "SEK", "NOK": "NOK", "PLN": "PLN", "MXN": "MXN", "BRL": "BRL",
    "CNY": "CNY", "KRW": "KRW", "NZD": "NZD",
}  # fmt: skip
TICKERS = {
    "AAPL": "Apple", "MSFT": "Microsoft", "GOOGL": "Google", "AMZN": "Amazon", "TSLA": "Tesla", "NVDA": "Nvidia",
    "META": "Meta", "NFLX": "Netflix", "IBM": "IBM", "INTC": "Intel", "AMD": "AMD", "ORCL": "Oracle",
}  # fmt: skip
LANGUAGES = (
    "French", "German", "Spanish", "Italian", "Japanese", "Chinese", "Arabic", "Hindi", "Dutch", "Greek",
    "Polish", "Swedish", "Korean", "Turkish", "Russian", "Portuguese",
)  # fmt: skip
ZONES = (
    "Europe/Paris", "Europe/London", "Europe/Berlin", "Asia/Tokyo", "Asia/Kolkata", "America/New_York",
    "America/Chicago", "America/Los_Angeles", "Australia/Sydney", "Africa/Cairo", "Asia/Dubai", "UTC",
)  # fmt: skip
SKIES = (
    "sunny", "cloudy", "rain", "light rain", "snow", "clear", "windy", "fog", "partly cloudy", "storm",
    "overcast", "thunderstorms", "drizzle", "hail",
)  # fmt: skip
STATES_OF_THINGS = (
    "open", "closed", "pending", "shipped", "delivered", "active", "done", "paid", "cancelled", "in transit",
    "ok", "sent", "created", "confirmed", "failed", "ready", "on", "off", "waiting", "booked", "updated",
)  # fmt: skip
DISHES = (
    "pizza",
    "soup",
    "pasta",
    "salad",
    "curry",
    "sushi",
    "pancakes",
    "tacos",
    "ramen",
    "lasagna",
    "stew",
)
ROOMS = ("kitchen", "bedroom", "living room", "office", "bathroom", "garage", "hallway", "garden", "cellar")
TOPICS = (
    "python tutorials", "history of Rome", "best pizza recipe", "electric cars", "machine learning", "solar power",
    "latest news", "football results", "cheap flights", "climate change", "how to bake bread", "jazz music",
    "chess openings", "space travel", "hiking trails", "open source licenses", "coffee machines",
)  # fmt: skip
SENTENCES = (
    "See you at {t}.", "The meeting is at {t}.", "Please call me back.", "I will be late.", "Happy birthday!",
    "The report is ready.", "Can we talk on {d}?", "Thanks for your help.", "Dinner at {t}?", "I am on my way.",
    "Please bring the {w}.", "The {w} has arrived.", "Do not forget the {w}.", "Where is the {w}?",
)  # fmt: skip
SUBJECTS = (
    "Hello",
    "Meeting",
    "Invoice",
    "Report",
    "Lunch",
    "Hi",
    "Question",
    "Reminder",
    "Update",
    "Thanks",
)


def _same(json: str) -> Value:
    return Value(json, json)


def _one_of(pool: tuple[str, ...]) -> Callable[[random.Random], Value]:
    return lambda rng: _same(rng.choice(pool))


def city(rng: random.Random) -> Value:
    roll = rng.random()
    return _same(rng.choice(CITIES) if roll < 0.75 else nonce(rng, 2 + (roll > 0.9)).capitalize())


def location(rng: random.Random) -> Value:
    name = city(rng).json
    roll = rng.random()
    if roll < 0.7:
        return _same(f"{name}")
    return _same(f"{name}, {rng.choice(COUNTRIES if roll < 0.85 else STATES)}")


def word(rng: random.Random) -> Value:
    return _same(rng.choice(COMMON_WORDS) if rng.random() < 0.75 else nonce(rng))


def phrase(rng: random.Random) -> Value:
    return _same(" ".join(str(word(rng).json) for _ in range(rng.choice((1, 2, 2, 3)))))


def topic(rng: random.Random) -> Value:
    return _same(rng.choice(TOPICS)) if rng.random() < 0.4 else phrase(rng)


def title(rng: random.Random) -> Value:
    if rng.random() < 0.35:
        return _same(rng.choice(SUBJECTS))
    text = str(phrase(rng).json)
    return _same(text[0].upper() + text[1:])


def sentence(rng: random.Random) -> Value:
    text = rng.choice(SENTENCES)
    return _same(text.format(t=_clock(rng), d=_date(rng), w=word(rng).json) if "{" in text else text)


def email(rng: random.Random) -> Value:
    name = rng.choice(FIRST_NAMES).lower()
    if rng.random() < 0.3:
        name += "." + rng.choice(LAST_NAMES).lower()
    host = "example" if rng.random() < 0.6 else nonce(rng)
    return _same(f"{name}@{host}.{rng.choice(('com', 'com', 'org', 'net'))}")


def code(rng: random.Random) -> Value:
    letters = "".join(rng.choices("ABCDEFGHKLMNPRSTUVWXZ", k=rng.choice((1, 1, 2, 3))))
    roll = rng.random()
    if roll < 0.4:
        return _same(f"{letters}{rng.randint(10, 99)}-{rng.randint(10, 99)}")
    if roll < 0.7:
        return _same(f"{letters}-{rng.randint(100, 9999)}")
    return _same(f"{letters}{rng.randint(100, 99999)}" if roll < 0.9 else str(rng.randint(1000, 99999)))


def _date(rng: random.Random) -> str:
    return f"20{rng.randint(24, 34)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def _clock(rng: random.Random) -> str:
    return f"{rng.randint(0, 23):02}:{rng.choice((0, 15, 30, 45, rng.randint(0, 59))):02}"


def _integer(low: int, high: int) -> Callable[[random.Random], Value]:
    def draw(rng: random.Random) -> Value:
        number = rng.randint(low, high)
        return Value(number, str(number))

    return draw


def amount(rng: random.Random) -> Value:
    """A whole number, or two decimals that do not end in 0, so that JSON spells it the same way."""
    whole = rng.randint(1, rng.choice((9, 99, 999, 4999)))
    if rng.random() < 0.4:
        return Value(whole, str(whole))
    text = f"{whole}.{rng.randint(0, 9)}{rng.randint(1, 9)}"
    return Value(float(text), text)


def price(rng: random.Random) -> Value:
    text = f"{rng.randint(1, 999)}.{rng.randint(0, 9)}{rng.randint(1, 9)}"
    return Value(float(text), text)


def operand(rng: random.Random) -> Value:
    number = rng.randint(0, rng.choice((9, 99, 99, 999, 9999)))
    if rng.random() < 0.12:
        text = f"{number}.{rng.randint(1, 9)}"
        return Value(float(text), text)
    return Value(number, str(number))


_OPERATORS = {
    "+": ("+", "plus"),
    "-": ("-", "minus"),
    "*": ("*", "times", "x", "×"),
    "/": ("/", "divided by"),
}


def expression(rng: random.Random) -> Value:
    """`12 * 5`: always with spaces, whatever the question writes."""
    json = text = operand(rng).text
    style = rng.random()
    for _ in range(2 if rng.random() < 0.15 else 1):
        operator = rng.choice("+-**/")
        right = str(rng.randint(1, rng.choice((9, 99, 999))))
        json += f" {operator} {right}"
        shown = operator if style < 0.7 else rng.choice(_OPERATORS[operator])
        text += f"{shown}{right}" if style < 0.2 else f" {shown} {right}"
    return Value(json, text)


def currency(rng: random.Random) -> Value:
    name = rng.choice(tuple(CURRENCIES))
    return Value(name, CURRENCIES[name] if rng.random() < 0.3 else name)


def ticker(rng: random.Random) -> Value:
    roll = rng.random()
    if roll < 0.5:
        return _same("".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=rng.choice((3, 4)))))
    symbol = rng.choice(tuple(TICKERS))
    return Value(symbol, TICKERS[symbol] if roll < 0.7 else symbol)


def temperature(rng: random.Random) -> Value:
    roll = rng.random()
    if roll < 0.15:
        return _same(f"{rng.randint(-20, 40)}{rng.choice(('°C', '°F', ' C', ' degrees'))}")
    if roll < 0.35:
        text = f"{rng.randint(-20, 40)}.{rng.randint(1, 9)}"
        return Value(float(text), text)
    number = rng.randint(-20, 95)
    return Value(number, str(number))


def name(rng: random.Random) -> Value:
    return _same(person(rng) if rng.random() < 0.6 else rng.choice(FIRST_NAMES))


def _list_of(kind: Callable[[random.Random], Value], most: int = 4) -> Callable[[random.Random], Value]:
    def draw(rng: random.Random) -> Value:
        items = [str(kind(rng).json) for _ in range(rng.randint(1, most))]
        return Value(items, listed(items))

    return draw


def listed(items: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def boolean(rng: random.Random) -> Value:
    value = rng.random() < 0.5
    return Value(value, "true" if value else "false")


def minutes(rng: random.Random) -> Value:
    return _same(f"{rng.randint(2, 59)} {rng.choice(('minutes', 'min', 'hours', 'days'))}")


STRINGS: dict[str, Callable[[random.Random], Value]] = {
    "city": city, "location": location, "country": _one_of(COUNTRIES), "zone": _one_of(ZONES), "name": name,
    "email": email, "code": code, "word": word, "phrase": phrase, "topic": topic, "title": title,
    "sentence": sentence, "currency": currency, "ticker": ticker, "language": _one_of(LANGUAGES),
    "expression": expression, "sky": _one_of(SKIES), "status": _one_of(STATES_OF_THINGS),
    "dish": _one_of(DISHES), "room": _one_of(ROOMS), "minutes": minutes,
    "date": lambda rng: _same(_date(rng)), "time": lambda rng: _same(_clock(rng)),
    "url": lambda rng: _same(f"https://{nonce(rng)}.com"),
    "file": lambda rng: _same(f"{word(rng).json}.{rng.choice(('txt', 'pdf', 'csv', 'md', 'py'))}"),
    "phone": lambda rng: _same(f"+{rng.randint(1, 99)} {rng.randint(100, 999)} {rng.randint(1000, 9999)}"),
}  # fmt: skip
INTEGERS: dict[str, Callable[[random.Random], Value]] = {
    "count": _integer(2, 12), "number": _integer(1, 999), "percent": _integer(1, 100),
    "big": _integer(1000, 999999), "year": _integer(1950, 2034),
}  # fmt: skip
NUMBERS: dict[str, Callable[[random.Random], Value]] = {"amount": amount, "price": price, "operand": operand}
ARRAYS: dict[str, Callable[[random.Random], Value]] = {
    "words": _list_of(word), "names": _list_of(name, 3), "emails": _list_of(email, 3), "cities": _list_of(city, 3),
}  # fmt: skip
KINDS = STRINGS | INTEGERS | NUMBERS | ARRAYS | {"temperature": temperature, "boolean": boolean}


def json_type(kind: str) -> str:
    """The JSON schema type of a kind of values."""
    if kind in INTEGERS:
        return "integer"
    if kind in NUMBERS:
        return "number"
    if kind in ARRAYS:
        return "array"
    return "boolean" if kind == "boolean" else "string"
