"""What the demo cannot do, said plainly and by name."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from mosso.harmony.conversation import Effort
from mosso.train.skills.base import Example, Expected, answer, draw_setting, dress, user
from mosso.train.skills.words import CITIES, COMMON_WORDS, FIRST_NAMES, city, nonce, person

NAME = "limits"
NO_RESULT = "I do not know what you mean: there is no result yet."
OFFER = "I am a small demo: try arithmetic, unit conversions, sorting, counting, JSON extraction or a function call."


@dataclass(frozen=True, slots=True)
class Topic:
    """A kind of wish: what the refusal calls it, and how people put it; {x} is a slot."""

    cannot: str
    questions: tuple[str, ...]


THINGS = (
    "the sea spring love war cats dogs the moon winter music school football pizza robots trees the weather "
    "summer mountains coffee friendship time the stars bread horses"
).split(" ")
SUBJECTS = (
    "gravity photosynthesis inflation democracy evolution electricity magnetism climate black holes quantum physics "
    "relativity DNA vaccines volcanoes earthquakes the French Revolution the Roman Empire philosophy economics"
)
COUNTRIES = (
    "France Germany Italy Spain Japan China India Brazil Canada Mexico Egypt Kenya Norway Sweden Poland Greece Turkey "
    "Peru Chile Australia Portugal Austria Ireland Finland Denmark"
).split()
TOPIC_WORDS = tuple(THINGS) + tuple(SUBJECTS.split()) + COMMON_WORDS
LANGUAGES = "French German Spanish Italian Japanese Chinese Russian Arabic Dutch Greek Latin Korean Polish Swedish".split()
CODE = "Python JavaScript Java C Rust Go Ruby SQL HTML bash TypeScript Haskell".split()

TOPICS = (
    Topic("I cannot write texts.", (
        "Write a poem about {x}.", "Write me a poem about {x}", "Tell me a story about {x}.", "Write a short story about {x}.",
        "Write an essay about {x}.", "Write a song about {x}.", "Write a letter to {n}.", "Compose a haiku about {x}.",
        "Write a blog post on {x}.", "Can you write a poem about {x}?", "Make up a story about {x} and {y}.",
        "Write an email to {n} about {x}.", "Tell me a joke about {x}.", "Tell me a joke.", "Write a speech about {x}.",
        "Write a limerick about {x}.", "write me a {y} story", "Continue this story: {long}", "Write a tweet about {x}.", "Write a birthday card for {n}.", "I need an article about {x}.", "Give me a product description of a {x}.",
    )),
    Topic("I cannot translate.", (
        'Translate "{x}" into {l}.', "How do you say {x} in {l}?", "Translate {x} to {l}.", "What is {x} in {l}?",
        "What is the {l} word for {x}?", "Translate this sentence into {l}: {n} likes {x}.", "Please translate {x} into {l}.",
        "Say {x} in {l}.", "Can you translate {x} into {l}?",
    )),
    Topic("I cannot write code.", (
        "Write a {c} program that sorts {x}.", "Write a {c} function for {x}.", "How do I read a file in {c}?",
        "Write {c} code for a {x} game.", "Can you code a {x} app in {c}?", "Fix my {c} code.", "Explain this {c} code.",
        "How do I write a loop in {c}?", "Give me a {c} script for {x}.", "Write a {c} class for a {x}.",
        "Write hello world in {c}.", "What does this {c} code do?", "Implement quicksort in {c}.", "write a function in {c} that adds {x}",
        "Write a regex for {x}.", "Write a unit test for {x} in {c}.", "Debug this {c} program.", "How do I install {c}?",
    )),
    Topic("I do not know facts about the world.", (
        "What is the capital of {k}?", "Who is the president of {k}?", "Where is {w}?", "How many people live in {w}?",
        "What language do they speak in {k}?", "Who was {n}?", "When was {n} born?", "Tell me about {k}.",
        "What is the population of {k}?", "How far is {w} from {v}?", "What is the history of {w}?",
        "Explain {s}.", "What is {s}?", "How does {s} work?", "Who invented {x}?", "Who won the world cup in {d}?",
        "What happened in {d}?", "What is the currency of {k}?", "What is a {x}?", "Who wrote {x}?", "Which is the highest mountain in {k}?",
        "Tell me a fact about {x}.", "Why is {x} important?", "What is the meaning of {x}?", "Is {n} still alive?",
        "What's the capital of {k}?", "capital of {k}?", "Who is {n} {n}?", "Who is the king of {k}?", "How old is {n}?", "How tall is {n}?",
        "When did {k} become a country?", "How does a {x} work?", "What is the difference between {x} and {y}?", "What do you know about {x}?",
        "Is a {x} bigger than a {y}?", "How many {x} are there in {k}?", "Why is the sky blue?", "What color is a {x}?", "How far away is the moon?",
        "What is the largest country?", "How long does a {x} live?", "What does {x} mean?", "Where do {x} come from?", "Who discovered {k}?",
        "What is the tallest building in {w}?", "What is the best restaurant in {w}?", "Explain {s} to me like I am five.",
    )),
    Topic("I cannot look things up.", (
        "What is the weather in {w}?", "What's the weather like in {w} today?", "What time is it in {w}?", "What time is it?",
        "What is today's news?", "Search the web for {x}.", "What is the price of {x} today?", "What is the stock price of {n}?",
        "Look up {x}.", "Find flights from {w} to {v}.", "Book a table in {w}.", "Send an email to {n}.", "Will it rain in {w} tomorrow?",
        "Order a {x} for me.", "Open {x}.com.", "What is the latest news about {x}?", "Google {x}.",
    )),
    Topic("I cannot give medical, legal or financial advice.", (
        "I have a headache. What should I do?", "Is {x} good for my health?", "What medicine helps against {x}?",
        "Should I see a doctor about my {x}?", "Can I sue {n}?", "Should I buy shares of {x}?", "How do I file my taxes in {k}?",
        "My {x} hurts. What can I take?", "Is it legal to sell {x} in {k}?", "How should I invest {d} euros?",
        "What are the symptoms of {x}?",         "I have a fever. What can I do?", "My stomach hurts.", "Is this {x} poisonous?", "Can you diagnose me?", "How much {x} may I take a day?",
        "What are the side effects of {x}?", "Should I take {x} with {y}?", "Do I need a lawyer for {x}?", "Which stocks should I buy?",
        "I feel sick after eating {x}.",
    )),
    Topic("I cannot divide.", (
        "What is {a} / {b}?", "{a}/{b}", "{a} divided by {b}", "Divide {a} by {b}.", "What is {a} divided by {b}?",
        "{a} ÷ {b}", "Calculate {a} / {b}.", "How much is {a} divided by {b}?", "What is the square root of {a}?",
        "What is {a} to the power of {b}?", "{a}^{b}", "What is {b}% of {a}?", "{a} mod {b}", "Take the square root of {a}.",
    )),
    Topic("I only calculate with whole numbers of up to 3 digits.", (
        "What is {m} + {p}?", "{m} * {p}", "{m} + {a}", "{a} * {m}", "Calculate {m} - {p}.", "What is {m} times {a}?",
        "{m} - {a}", "Multiply {m} by {p}.", "Add {m} and {p}.", "What is {f} + {b}?", "{f} * {b}", "What is {f} times {f2}?",
        "How much is {m} plus {p}?", "Subtract {p} from {m}.", "{f} - {f2}", "Compute {m} × {a}.",
    )),
    Topic("I do not have opinions or feelings.", (
        "Do you like {x}?", "What do you think about {x}?", "What is your favorite {x}?", "Are you happy?", "Do you love {n}?",
        "Who should I vote for in {k}?", "Which is better, {x} or {y}?", "What is your opinion on {x}?", "Do you dream of {x}?",
        "What is the best {x}?", "Are you sad?", "Do you have friends?", "What should I eat today?", "What is your favorite color?",
    )),
    Topic("I cannot spell or count letters.", (
        "How many letters are in {x}?", "How many letters does {x} have?", "How many r's are in {x}?", "How often is the letter {L} in {x}?",
        "Spell {x}.", "How do you spell {x}?", "Count the letters in {x}.", "How many {L}'s are there in the word {x}?", "What is {x} backwards?",
        "Which letter does {x} start with?", "How many vowels are in {x}?", "What rhymes with {x}?", "How many syllables does {x} have?",
    )),
    Topic("I only speak English.", (
        "Hola, ¿cómo estás?", "¿Qué es {x}?", "¿Qué hora es en {w}?", "¿Cuánto es {a} más {b}?", "Buenos días", "Guten Tag, wie geht es dir?",
        "Was ist {x}?", "Wie spät ist es in {w}?", "Wie viel ist {a} plus {b}?", "Was kannst du?", "Wer bist du?", "Bonjour, comment ça va ?",
        "Qu'est-ce que {x} ?", "Combien font {a} plus {b} ?", "Qui es-tu ?", "Ciao, come stai?", "Che cos'è {x}?", "Quanto fa {a} più {b}?",
        "Chi sei?", "Olá, tudo bem?", "O que é {x}?", "Quem é você?", "Wat is {x}?", "Hoe gaat het met je?", "Vad är {x}?",
        "你好", "你是谁？", "こんにちは", "안녕하세요", "Привет, как дела?", "Что такое {x}?", "Schreibe ein Gedicht über {x}.", "¿Quién eres?",
    )),
    Topic("I cannot work with long texts.", (
        "Summarize this: {long}", "Summarize the following text. {long}", "Give me a summary: {long}", "What is the main point here? {long}",
        "Rewrite this text: {long}", "Paraphrase this: {long}", "Shorten this text: {long}", "Correct my grammar: {long}",
        "Improve this text: {long}", "Is this text positive or negative? {long}", "Summarize the book {x}.", "What is this text about? {long}",
        "Classify the sentiment: {long}", "Proofread this: {long}", "Make this sound better: {long}",
    )),
    Topic("I do not know that conversion.", (
        "Convert {b} {ux} to {vx}.", "What is {b} {ux} in {vx}?", "How many {vx} are {b} {ux}?", "{b} {ux} in {vx}", "{b} {ux} to {vx}", "{a} {ux} to {vx}?",
        "How many {vx} are in {b} {ux}?", "Change {a} {ux} into {vx}.", "Express {b} {ux} in {vx}.", "How much is {a} {ux} in {vx}?", "Give me {a} {ux} in {vx}.",
    )),
    Topic(NO_RESULT, (
        "Now double it.", "Double it.", "Double that.", "Add {b} to that.", "Now add {b}.", "And in reverse?", "Subtract {b} from that.",
        "Multiply it by {b}.", "Now sort it.", "Reverse it.", "And the largest?", "Now triple it.", "Times {b}?", "Plus {b}?", "Minus {b}?",
    )),
    Topic("I cannot plan or recommend things.", (
        "Plan a trip to {w}.", "Recommend a book about {x}.", "What should I do in {w}?", "Give me a recipe for {x}.", "How do I cook {x}?",
        "How do I learn {l}?", "Make a workout plan for {n}.", "Suggest a name for my {x}.", "Give me ideas for {x}.", "How do I repair my {x}?",
        "Recommend a movie with {x}.", "What should I buy {n} for the birthday?", "How can I get better at {x}?", "Make a list of things about {x}.",
        "Give me three tips for {x}.", "How do I make a {x}?", "What should I wear in {w}?", "Play a game with me.", "Let's play chess.",
    )),
    Topic("I cannot see, hear or draw.", (
        "Draw a {x}.", "Draw me a picture of {x}.", "What is in this picture?", "Can you see me?", "Paint a {x} and a {y}.", "Listen to this {x}.",
        "Make an image of {x}.", "Can you hear me?", "Generate a picture of {n} with a {x}.", "Show me a photo of {w}.", "Sing a song about {x}.",
        "Create a logo with a {x}.", "Describe this image.", "Play some music.", "Play {x}.",
    )),
    Topic("I do not understand.", (
        "{g}", "{g} {g2}", "{g} {x} {g2}", "{x} {y} {g}", "asdf {g}", "{g} {g2} {y}?", "{x}", "{x} {y}", "the {x}", "{y} the {x} of", "??? {g}",
    )),
)  # fmt: skip


def _long(rng: random.Random) -> str:
    """A few sentences of whatever words."""
    words = [
        rng.choice(COMMON_WORDS) if rng.random() < 0.6 else rng.choice(GLUE)
        for _ in range(rng.randint(12, 30))
    ]
    return " ".join(words).capitalize() + "."


GLUE = (
    "the a and is of to in that it was for with on as by at from they this are had not were but all".split()
)


# Units of kinds that have no conversion, or none here; two of one group are never asked for where the skill knows them.
STRANGE = "acres hectares knots stones calories joules watts horsepower pascals bar psi volts amperes newtons pints cups tablespoons carats light-years dollars yen pounds-force".split()
MEASURES = (
    ("meters", "km", "cm", "miles", "feet", "inches"),
    ("kg", "grams", "pounds"),
    ("liters", "ml"),
    ("hours", "minutes", "days", "weeks"),
    ("°C", "°F"),
    ("bytes", "MB"),
)


def _unknown_pair(rng: random.Random) -> tuple[str, str]:
    roll = rng.random()
    if roll < 0.3:
        return rng.choice(
            (("°F", "°C"), ("Fahrenheit", "Celsius"), ("degrees Fahrenheit", "degrees Celsius"), ("F", "C"))
        )
    if roll < 0.65:
        one, other = rng.sample(MEASURES, 2)
        return rng.choice(one), rng.choice(other)
    first, second = rng.sample(STRANGE, 2)
    return (first, second) if roll < 0.85 else (first, rng.choice(rng.choice(MEASURES)))


def fill(rng: random.Random, template: str) -> str:
    big = rng.choice((10_000, 100_000, 1_000_000))
    if "{" not in template:
        return template
    one, other = _unknown_pair(rng) if "{ux}" in template else ("", "")
    slots = {
        "ux": one, "vx": other,
        "x": rng.choice(TOPIC_WORDS), "y": rng.choice(COMMON_WORDS), "n": person(rng) if rng.random() < 0.6 else rng.choice(FIRST_NAMES),
        "k": rng.choice(COUNTRIES), "w": city(rng), "v": rng.choice(CITIES), "l": rng.choice(LANGUAGES), "c": rng.choice(CODE),
        "s": rng.choice(SUBJECTS.split()), "d": str(rng.randint(1800, 2030)), "g": nonce(rng), "g2": nonce(rng), "L": rng.choice("abcdefghijklmnoprstuvwyz"), "long": _long(rng),
        "a": str(rng.randint(1, 999)), "b": str(rng.randint(2, 99)), "m": str(rng.randint(1000, big)), "p": str(rng.randint(1000, big)),
        "f": f"{rng.randint(0, 99)}.{rng.randint(1, 9)}", "f2": f"{rng.randint(0, 9)}.{rng.randint(1, 99)}",
    }  # fmt: skip
    return template.format(**slots)


def thinking(cannot: str, effort: Effort) -> str:
    if effort is Effort.LOW:
        return ""
    if effort is Effort.MEDIUM:
        return "This is outside what I can do."
    return f"The user asks for something that I was not made for. {cannot} I say so and name what I can do."


def draw(rng: random.Random) -> Iterator[Example]:
    topic = rng.choice(TOPICS)
    text = dress(rng, fill(rng, rng.choice(topic.questions)))
    setting = draw_setting(rng)
    yield Example(
        NAME,
        setting.prompt(user(text)),
        answer(thinking(topic.cannot, setting.effort), f"{topic.cannot} {OFFER}"),
        Expected(contains=(topic.cannot.rstrip("."),)),
        f"limits {text.lower().rstrip('?.! ')}",
        detail=topic.cannot,
        alone=topic.cannot == NO_RESULT,
    )
