"""Functions that prompts offer and questions ask for: the pool's, and ones composed of words nobody has seen."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from mosso.core.json import JsonObject, JsonValue
from mosso.harmony.conversation import FunctionTool
from mosso.train.skills.tool_pool import CLASSICS, OTHERS
from mosso.train.skills.tool_words import INTEGERS, KINDS, NUMBERS, STRINGS, Value, json_type
from mosso.train.skills.words import COMMON_WORDS, nonce

SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Parameter:
    """An argument: its kind of values, and sentences that ask for it where it is optional."""

    name: str
    kind: str  # of KINDS, or the enum's values a|b
    description: str = ""
    required: bool = True
    additions: tuple[tuple[str, JsonValue], ...] = ()  # (sentence, the value it fixes or None)

    def draw(self, rng: random.Random) -> Value:
        if "|" not in self.kind:
            return KINDS[self.kind](rng)
        choice = rng.choice(self.kind.split("|"))
        shown = choice.capitalize() if choice in ("celsius", "fahrenheit") and rng.random() < 0.4 else choice
        return Value(choice, shown)

    def schema(self, *, described: bool) -> JsonObject:
        schema: dict[str, JsonValue] = {"type": json_type(self.kind)}
        if "|" in self.kind:
            schema["enum"] = self.kind.split("|")
        if schema["type"] == "array":
            schema["items"] = {"type": "string"}
        if described and self.description:
            schema["description"] = self.description
        return schema


@dataclass(frozen=True, slots=True)
class Function:
    """A function as one prompt shows it, with the questions that call for it and what it gives back."""

    name: str
    groups: frozenset[str]  # functions that share a group would fit the same question
    description: str
    parameters: tuple[Parameter, ...]
    questions: tuple[str, ...]
    results: tuple[str, ...]
    tool: FunctionTool = field(default=FunctionTool(""))

    @property
    def varied(self) -> Parameter | None:
        """The argument that a follow-up or a second call changes: the first, if it is a name of something."""
        first = self.parameters[0] if self.parameters else None
        return first if first is not None and first.kind in VARIED else None

    def built(self, *, described: bool, closed: bool, documented: bool) -> Function:
        """With its tool: `described` parameters, `closed` to additional properties, itself `documented`."""
        properties = {p.name: p.schema(described=described) for p in self.parameters}
        schema: dict[str, JsonValue] = {"type": "object", "properties": properties}
        if required := [p.name for p in self.parameters if p.required]:
            schema["required"] = required
        if closed:
            schema["additionalProperties"] = False
        return replace(self, tool=FunctionTool(self.name, self.description if documented else "", schema))


VARIED = frozenset(("city", "location", "country", "zone", "code", "ticker", "name", "file", "url", "room", "topic", "dish", "word"))  # fmt: skip


def parse(table: str) -> Iterator[Function]:
    """The functions of a table in the form that tool_pool.py describes."""
    for block in table.strip().split("\n\n"):
        head, *lines = block.split("\n")
        match = re.fullmatch(r"(\w+) \[([\w ]+)\] (.+)", head)
        assert match, head
        name, groups, description = match.groups()
        listed = {mark: [line[2:] for line in lines if line.startswith(f"{mark} ")] for mark in "?=+"}
        additions = [_addition(text) for text in listed["+"]]
        yield Function(
            name,
            frozenset(groups.split()),
            description,
            tuple(_parameter(line, additions) for line in lines if line[0] not in "?=+"),
            tuple(itertools.chain.from_iterable(text.split(" | ") for text in listed["?"])),
            tuple(itertools.chain.from_iterable(text.split(" | ") for text in listed["="])),
        )


def _addition(line: str) -> tuple[str, tuple[tuple[str, JsonValue], ...]]:
    target, _, sentences = line.partition(" ")
    name, _, fixed = target.partition("=")
    value = {"": None, "true": True, "false": False}[fixed]
    return name, tuple((sentence, value) for sentence in sentences.split(" | "))


def _parameter(line: str, additions: list[tuple[str, tuple[tuple[str, JsonValue], ...]]]) -> Parameter:
    head, _, description = line.partition(" ")
    name, _, kind = head.partition(":")
    bare = name.rstrip("?")
    own = tuple(itertools.chain.from_iterable(pairs for target, pairs in additions if target == bare))
    return Parameter(bare, kind, description, not name.endswith("?"), own)


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def variants(function: Function, seed: int = 0) -> tuple[Function, ...]:
    """The same function as different people write it."""
    rng = random.Random(seed)
    shapes = []
    for number in range(8):
        shown = function
        if number % 4 == 3:  # without its optional parameters
            kept = tuple(p for p in function.parameters if p.required)
            names = {p.name for p in kept}
            questions = tuple(q for q in function.questions if set(SLOT.findall(q)) <= names)
            results = tuple(r for r in function.results if set(re.findall(r"<@(\w+)>", r)) <= names)
            if questions and results:
                shown = replace(function, parameters=kept, questions=questions, results=results)
        if number == 5:
            shown = replace(shown, name=camel(shown.name))
        shapes.append(
            shown.built(
                described=rng.random() < 0.6, closed=rng.random() < 0.3, documented=rng.random() < 0.85
            )
        )
    return tuple(shapes)


CLASSIC = tuple(variants(function) for function in parse(CLASSICS))
POOL = tuple(variants(function) for function in parse(OTHERS))

_VERBS = {  # class: verbs that could each ask for the same thing, so one prompt holds one of a class and noun
    "read": ("get", "fetch", "show", "read", "check", "find", "load", "lookup"),
    "create": ("create", "add", "make", "register", "new"),
    "change": ("update", "change", "set", "edit", "modify"),
    "remove": ("delete", "remove", "cancel", "drop"),
    "send": ("send", "share", "forward", "submit"),
    "run": ("start", "run", "launch", "trigger"),
}
_CLASSES = tuple(_VERBS)
_NOUNS = tuple(
    """invoice shipment customer profile contract lesson patient payment ticket_type report parking_spot robot
    printer machine backup session vehicle driver playlist photo album recipe_card member badge locker key
    garden_plan plant pet animal planet star spell potion quest hero game score match team player coach route_plan
    warehouse supplier coupon voucher gift survey poll vote comment post blog page chapter quote dictionary
    battery motor pump valve window_shade camera_feed alert log_entry metric deployment branch commit issue_label
    build pipeline container cluster volume snapshot certificate password_hint token_usage quota budget expense
    salary vacation shift candidate interview office_desk meeting_room projector elevator""".split()
)
_PARAMETERS = {
    "code": "id code reference key serial item_id number_plate uid ref",
    "name": "owner person manager author customer_name recipient full_name",
    "city": "city place region destination town",
    "date": "date day due_date start_date end_date deadline",
    "time": "time start_time hour_of_day at_time",
    "word": "label tag category color type group topic_name brand",
    "phrase": "note text summary comment_text keywords",
    "title": "title heading caption",
    "email": "email contact_email address_line",
    "count": "count size level limit copies floor",
    "number": "amount_of_units width height weight score_value",
    "price": "price cost budget_limit fee",
    "low|medium|high": "priority severity quality",
    "small|large|huge": "size_class scale",
    "red|green|blue": "shade paint",
    "json|csv|xml": "format output_format",
    "boolean": "urgent verbose public archived dry_run notify",
    "words": "tags labels options",
}
_PARAMETER_KINDS = tuple(_PARAMETERS)
_PARAMETER_WEIGHTS = (5, 3, 3, 3, 2, 4, 2, 2, 1, 3, 2, 2, 2, 1, 1, 1, 2, 1)
_PARAMETER_NAMES = {kind: tuple(names.split()) for kind, names in _PARAMETERS.items()}
_PLAIN_KINDS = tuple(
    {**STRINGS, **INTEGERS, **NUMBERS}.keys() - {"expression", "currency", "ticker", "operand"}
)
_NONCE_KINDS = tuple(sorted(_PLAIN_KINDS))
_QUOTED = ("phrase", "title", "sentence", "topic")
_PREPOSITIONS = {"city": ("in",), "date": ("on",), "time": ("at",), "code": ("", "for", "number"), "name": ("of", "for")}  # fmt: skip


def compose(rng: random.Random, noun: str | None = None, *, avoid: str = "") -> Function:
    """A function of a verb and a noun with one to three parameters; with `noun`, of another class than `avoid`."""
    kind = rng.choice([verb for verb in _CLASSES if verb != avoid])
    verb = rng.choice(_VERBS[kind])
    if noun is None:
        roll = rng.random()
        noun = nonce(rng) if roll < 0.35 else rng.choice(_NOUNS if roll < 0.8 else COMMON_WORDS)
    parameters = _parameters(rng)
    name = f"{verb}_{noun}"
    if rng.random() < 0.25:
        name = camel(name)
        parameters = tuple(replace(p, name=camel(p.name)) for p in parameters)
    words = noun.replace("_", " ")
    description = rng.choice(("{v} a {n}", "{v} the {n}.", "{v} one {n}", "{v}s a {n}.", "{v} {n}"))
    function = Function(
        name,
        frozenset((f"{kind} {noun}",)),
        description.format(v=verb.capitalize(), n=words),
        parameters,
        (_question(rng, verb, words, parameters),),
        ("<any>",),
    )
    return function.built(
        described=rng.random() < 0.4, closed=rng.random() < 0.25, documented=rng.random() < 0.8
    )


def _parameters(rng: random.Random) -> tuple[Parameter, ...]:
    parameters: dict[str, Parameter] = {}
    for position in range(rng.choices((1, 2, 3), (5, 4, 2))[0]):
        if rng.random() < 0.2:
            kind, name = rng.choice(_NONCE_KINDS), nonce(rng)
        else:
            kind = rng.choices(_PARAMETER_KINDS, _PARAMETER_WEIGHTS)[0]
            name = rng.choice(_PARAMETER_NAMES[kind])
        words = name.replace("_", " ")
        description = rng.choice((f"The {words}", f"The {words} to use", words.capitalize(), ""))
        required = position == 0 or rng.random() < 0.65
        parameters[name] = Parameter(name, kind, description, required)
    required_first = sorted(parameters.values(), key=lambda p: not p.required)
    return tuple(required_first)


def spoken(name: str) -> str:
    """A name's words: `dueDate` and `due_date` are `due date`."""
    return re.sub(r"([a-z])([A-Z])", r"\1 \2", name).replace("_", " ").lower()


def _question(rng: random.Random, verb: str, noun: str, parameters: tuple[Parameter, ...]) -> str:
    """One template: the first argument may follow a preposition, others come with their names."""
    start = rng.choice(("{v} the {n}", "{v} a {n}", "please {v} the {n}", "can you {v} the {n}", "{v} {n}", "I want to {v} the {n}"))  # fmt: skip
    parts = [start.format(v="look up" if verb == "lookup" else verb, n=noun)]
    style = rng.choice(("with {name} {slot}", "{name} {slot}", "{name}: {slot}", "and {name} {slot}", "{name} = {slot}"))  # fmt: skip
    for position, parameter in enumerate(parameters):
        if not parameter.required and rng.random() < 0.5:
            continue
        slot = f"{{{parameter.name}}}"
        if parameter.kind in _QUOTED and rng.random() < 0.7:
            slot = f'"{slot}"'
        plain = position == 0 and parameter.kind in _PREPOSITIONS and rng.random() < 0.5
        if plain:
            parts.append(f"{rng.choice(_PREPOSITIONS[parameter.kind])} {slot}".strip())
        else:
            shown = parameter.name if rng.random() < 0.15 else spoken(parameter.name)
            first = "with" if position == 0 else ""
            phrase = style.format(name=shown, slot=slot)
            parts.append(
                phrase if phrase.startswith("with") or not first else f"{first} {phrase.removeprefix('and ')}"
            )
    comma = ", " if ":" in style or "=" in style else " "
    text = parts[0] + " " + comma.join(parts[1:]) if len(parts) > 1 else parts[0]
    end = "?" if text.startswith("can you") else rng.choice((".", ".", ""))
    return text[0].upper() + text[1:] + end
