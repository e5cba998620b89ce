"""What may follow what, over the whole Harmony stream."""

from __future__ import annotations

import json
import pickle
import threading

import pytest

from mosso.core.constraints import Call, Grammar, GrammarKind, Turn, TurnConstraint
from mosso.core.errors import EngineError, RequestError
from mosso.grammar import HarmonyConstrainer

VOCAB = 512  # of the fixtures
FREE = Grammar(GrammarKind.TEXT)
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
          "additionalProperties": False}  # fmt: skip
FORMED = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA), "response_format")
CALLS = (Call("functions.f", FORMED), Call("functions.g", Grammar(GrammarKind.JSON_OBJECT)))
FINAL = "<|channel|>final<|message|>"
THOUGHT = "<|channel|>analysis<|message|>Hm {<|end|><|start|>assistant"


def test_a_formed_answer(allowed):
    turn = TurnConstraint(FORMED)
    assert allowed(turn, "") == {"<|channel|>"}
    assert allowed(turn, "<|channel|>") == {"a", "analysis", "f", "final"}
    assert allowed(turn, THOUGHT) == {"<|channel|>"}
    assert allowed(turn, THOUGHT + "<|channel|>") == {"final"}, "one thought, or it might never end"
    assert allowed(turn, THOUGHT + FINAL) == {"{"}
    assert allowed(turn, "<|channel|>final <|constrain|>json<|message|>") == {"{"}
    assert allowed(turn, FINAL + '{"a": 1') >= {"0", "}"}
    assert allowed(turn, FINAL + '{"a": 1}') == {"<|return|>"}
    assert allowed(turn, FINAL + '{"a": 1}<|return|>') is None


def test_thinking_is_free_and_ends_in_its_own_token_only(allowed, tokenizer):
    after = allowed(TurnConstraint(FORMED), "<|channel|>analysis<|message|>any text")
    control = {token for token in after if token.startswith("<|")}
    assert control == {"<|end|>"}
    assert len(after) > 0.5 * 512


def test_text_that_spells_control_tokens_is_text(constrainer, tokenizer, ids):
    text = "a<|end|><|start|>user"
    spelled = Grammar(GrammarKind.JSON_SCHEMA, json.dumps({"const": text}))
    row = constrainer.begin(Turn(TurnConstraint(spelled)), ids(FINAL))
    said = []
    while tokenizer.control.return_ not in (
        may := [i for i in range(VOCAB) if row.mask()[i // 8] >> i % 8 & 1]
    ):
        said.append(may[0])
        row.consume(may[0])
    assert not any(map(tokenizer.is_control, said))
    assert json.loads(tokenizer.decode(said)) == text


def test_a_required_call(allowed):
    turn = TurnConstraint(None, CALLS)
    assert allowed(turn, "") == {"<|channel|>", " "}
    assert allowed(turn, "<|channel|>") == {"a", "analysis", "c"}, "no final answer, no other channel"
    assert allowed(turn, "<|channel|>commentary") == {" "}, "no preamble"
    assert allowed(turn, "<|channel|>commentary to=functions.") == {"f", "g"}
    assert allowed(turn, " to=functions.g<|channel|>commentary") == {" ", "<|message|>"}
    arguments = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>"
    assert allowed(turn, arguments) == {"{"}
    assert allowed(turn, arguments + '{"a":1}') == {"<|call|>"}
    assert allowed(turn, arguments + '{"a":1}<|call|>') is None


def test_a_tool_of_the_model_s_own_is_called_as_the_model_likes(allowed):
    constraint = TurnConstraint(None, (Call("python", Grammar(GrammarKind.TEXT)),))
    for header in (
        "<|channel|>analysis to=python code<|message|>",
        "<|channel|>commentary to=python<|message|>",
        " to=python<|channel|>analysis code<|message|>",
    ):
        assert "<|call|>" in allowed(constraint, f"{header}print(1)")
        assert "<|end|>" not in allowed(constraint, f"{header}print(1)")
    function = TurnConstraint(None, (Call("functions.f", Grammar(GrammarKind.TEXT)),))
    assert " " not in allowed(function, "<|channel|>analysis")


def test_an_answer_or_a_call(allowed):
    turn = TurnConstraint(FREE, CALLS)
    assert allowed(turn, "<|channel|>") == {"a", "analysis", "c", "f", "final"}
    assert "<|message|>" in allowed(turn, "<|channel|>commentary"), "a preamble before a call"
    assert allowed(turn, THOUGHT + THOUGHT + "<|channel|>") == {"a", "analysis", "c", "f", "final"}
    assert "<|return|>" in allowed(turn, FINAL + "anything")
    formed = TurnConstraint(FORMED, CALLS)
    assert allowed(formed, "<|channel|>commentary") == {" "}, "words before a formed answer would break it"


def test_white_space_ends(allowed):
    turn = TurnConstraint(FORMED)
    assert "\n" in allowed(turn, FINAL + "{" + "\n" * 31)
    assert allowed(turn, FINAL + "{" + "\n" * 32) == {'"'}


@pytest.mark.parametrize(
    ("grammar", "said", "after"),
    [
        (Grammar(GrammarKind.REGEX, "[ab]/c"), "a", {"/"}),
        (Grammar(GrammarKind.CHOICE, '["x y", "x\\"<|end|>"]'), "x", {" ", '"'}),
        (Grammar(GrammarKind.LARK, 'start: "q" x\nx: "1" | "2" x'), "q2", {"1", "2"}),
        (
            Grammar(GrammarKind.LARK, 'root ::= "q" my-x # start: no\nmy-x ::= "1" | "2" my-x'),
            "q2",
            {"1", "2"},
        ),
        (Grammar(GrammarKind.LARK, 'root ::= "a <|x" [/"] "x"'), "a <|x", {"/", '"'}),
        (Grammar(GrammarKind.JSON_SCHEMA, "true"), "[1", None),
        (Grammar(GrammarKind.JSON_OBJECT), "{", None),
    ],
)
def test_kinds(allowed, grammar, said, after):
    found = allowed(TurnConstraint(grammar), FINAL + said)
    assert found == after if after is not None else found


def test_many_choices(allowed):
    words = [f"word{n}" for n in range(5000)]
    turn = TurnConstraint(Grammar(GrammarKind.CHOICE, json.dumps(words)))
    assert allowed(turn, FINAL + "word499") >= {"0", "9", "<|return|>"}


def test_a_choice_that_spells_a_control_token_is_text(constrainer, ids, tokenizer):
    turn = TurnConstraint(Grammar(GrammarKind.CHOICE, '["<|end|>"]'))
    constrainer.begin(Turn(turn), [*ids(FINAL), *tokenizer.encode("<|end|>"), tokenizer.control.return_])
    with pytest.raises(EngineError):
        constrainer.begin(Turn(turn), [*ids(FINAL), tokenizer.control.end])


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        (Grammar(GrammarKind.JSON_SCHEMA, '{"not": {}}', "where"), ["where", "not"]),
        (Grammar(GrammarKind.JSON_SCHEMA, '{"items": {}, "uniqueItems": true}', "where"), ["uniqueItems"]),
        (Grammar(GrammarKind.JSON_SCHEMA, '{"uniqueItems": true, "x-guidance": {"lenient": true}}', "where"),
         ["uniqueItems"]),
        (Grammar(GrammarKind.JSON_SCHEMA, '{"type": "string", "format": "foo"}', "where"), ["format", "foo"]),
        (Grammar(GrammarKind.JSON_SCHEMA, '{"oneOf": [{"type": "number"}, {"type": "integer"}]}', "where"),
         ["oneOf", "anyOf"]),
        (Grammar(GrammarKind.JSON_SCHEMA, '{"properties": {"a": {}}, "minProperties": 1}', "where"),
         ["minProperties", "required"]),
        (Grammar(GrammarKind.JSON_SCHEMA, '{"pattern": "(?=a)b"}', "where"), ["pattern:", "look-ahead"]),
        (Grammar(GrammarKind.JSON_SCHEMA, '{"patternProperties": {"a": {}, "b": {}}}', "where"),
         ["patternProperties"]),
        (Grammar(GrammarKind.JSON_SCHEMA, "false", "where"), ["false"]),
        (Grammar(GrammarKind.JSON_SCHEMA, '{"$ref": "#"}', "where"), ["admits nothing"]),
        (Grammar(GrammarKind.JSON_SCHEMA, "{", "where"), ["JSON"]),
        (Grammar(GrammarKind.REGEX, "(?=a)b", "where"), ["look-ahead"]),
        (Grammar(GrammarKind.LARK, "start: x", "where"), ["unknown name", "x"]),
        (Grammar(GrammarKind.LARK, "start: <|end|>", "where"), ["control"]),
        (Grammar(GrammarKind.LARK, "start: <[1-5]>", "where"), ["control"]),
        (Grammar(GrammarKind.LARK, "start: @turn", "where"), ["other grammars"]),
        (Grammar(GrammarKind.LARK, "root ::= x", "where"), ["EBNF", "'x' not found"]),
        (Grammar(GrammarKind.LARK, "root ::= <|end|>", "where"), ["EBNF", "line 1"]),
        (Grammar(GrammarKind.LARK, "root ::= " + "(" * 9999 + ")" * 9999, "where"), ["EBNF", "recursion"]),
        (Grammar(GrammarKind.LARK, 'root ::= "' + "x" * 40000 + '"', "where"), ["EBNF", "32768"]),
        (Grammar(GrammarKind.LARK, r'root ::= "\u0041bc"', "where"), ["EBNF", r"\u0041"]),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_named(constrainer, grammar, words):
    with pytest.raises(RequestError) as caught:
        constrainer.prepare(Turn(TurnConstraint(None, (Call("functions.f", grammar),))))
    assert caught.value.param == "where"
    assert all(word in caught.value.message for word in words)


def test_a_lenient_schema_becomes_any_object(allowed):
    grammar = Grammar(GrammarKind.JSON_SCHEMA, '{"type": "object", "not": {}}', strict=False)
    assert allowed(TurnConstraint(grammar), FINAL) == {"{"}


def test_a_token_outside_the_mask_is_an_error(constrainer, ids):
    turn = constrainer.begin(Turn(TurnConstraint(FORMED)), [])
    with pytest.raises(EngineError, match="the constraint failed"):
        turn.consume(ids("x")[0])
    with pytest.raises(EngineError):
        turn.mask()


def test_what_follows_the_end_is_ignored(constrainer, ids):
    turn = constrainer.begin(Turn(TurnConstraint(FORMED)), ids(FINAL + '{"a":1}<|return|>'))
    turn.consume(ids("x")[0])
    assert turn.mask() is None


def test_masks_end_with_the_model_s_vocabulary(folder):
    mask = HarmonyConstrainer(folder, 600).begin(Turn(TurnConstraint(FREE)), []).mask()
    assert len(mask) * 8 >= 600
    padding = int.from_bytes(mask, "little") >> 512
    assert padding == 0, "ids without a token are never allowed"


def test_turns_do_not_disturb_each_other(constrainer, ids):
    """Copies share what was compiled; threads advance them at once."""
    text = ids(THOUGHT + FINAL + '{"a": 12}')
    done = []

    def walk():
        for _ in range(20):
            done.append(constrainer.begin(Turn(TurnConstraint(FORMED)), text).mask())

    threads = [threading.Thread(target=walk) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 80
    assert len(set(done)) == 1


def test_what_is_compiled_is_kept_and_the_oldest_goes(folder, monkeypatch):
    monkeypatch.setattr("mosso.grammar.constrainer.MAX_COMPILED", 3)
    made = []
    compiled = HarmonyConstrainer._compile
    monkeypatch.setattr(
        HarmonyConstrainer, "_compile", lambda self, wanted: made.append(wanted) or compiled(self, wanted)
    )
    own = HarmonyConstrainer(folder, 512)
    turns = [Turn(TurnConstraint(Grammar(GrammarKind.REGEX, letter))) for letter in "abc"]
    for turn in (turns[0], turns[1], turns[0], turns[2], turns[0], turns[1]):
        own.begin(turn, []).mask()
    assert [wanted.answer.text for wanted in made if wanted != ()] == ["a", "b", "c", "b"]


def test_a_form_that_compiles_keeps_nobody_waiting(folder, monkeypatch):
    own, slow, go = HarmonyConstrainer(folder, 512), threading.Event(), threading.Event()
    compiled = HarmonyConstrainer._compile

    def compile_slowly(self, wanted):
        if wanted == TurnConstraint(FORMED):
            slow.set()
            assert go.wait(60)
        return compiled(self, wanted)

    monkeypatch.setattr(HarmonyConstrainer, "_compile", compile_slowly)
    thread = threading.Thread(target=own.prepare, args=(Turn(TurnConstraint(FORMED)),))
    thread.start()
    assert slow.wait(60)
    assert own.begin(Turn(TurnConstraint(FREE)), []).mask()
    go.set()
    thread.join()


def test_who_asks_for_a_form_that_compiles_waits_for_it(folder, monkeypatch):
    own, made, slow, go = HarmonyConstrainer(folder, 512), [], threading.Event(), threading.Event()
    compiled = HarmonyConstrainer._compile

    def compile_slowly(self, wanted):
        made.append(wanted)
        slow.set()
        go.wait(0.3)  # in which the second would begin, too
        return compiled(self, wanted)

    monkeypatch.setattr(HarmonyConstrainer, "_compile", compile_slowly)
    wrong = Turn(TurnConstraint(Grammar(GrammarKind.REGEX, "(", "where")))
    for turn in (Turn(TurnConstraint(FORMED)), wrong):
        errors: list[Exception] = []

        def ask(turn=turn, errors=errors):
            try:
                own.begin(turn, [])
            except RequestError as error:
                errors.append(error)

        slow.clear()
        threads = [threading.Thread(target=ask) for _ in range(3)]
        threads[0].start()
        assert slow.wait(60)
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(errors) == (3 if turn is wrong else 0)
    assert made.count(TurnConstraint(FORMED)) == 1


def test_a_folder_without_tokenizer_json(tmp_path):
    with pytest.raises(RequestError, match=r"tokenizer\.json"):
        HarmonyConstrainer(tmp_path, 512).prepare(Turn(TurnConstraint(FORMED)))


def test_constraints_cross_a_socket():
    turn = TurnConstraint(FORMED, CALLS)
    assert pickle.loads(pickle.dumps(turn)) == turn


def test_one_of_branches_that_cannot_both_match(allowed):
    def tagged(kind):
        return {"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]}

    turn = TurnConstraint(Grammar(GrammarKind.JSON_SCHEMA, json.dumps({"oneOf": [tagged("a"), tagged("f")]})))
    assert allowed(turn, FINAL + '{"kind":"') == {"a", "f"}
    turn = TurnConstraint(
        Grammar(GrammarKind.JSON_SCHEMA, '{"oneOf": [{"type": "null"}, {"type": "boolean"}]}')
    )
    assert allowed(turn, FINAL) >= {"n", "t", "f"}
