import { describe, expect, it } from "vitest";

import { samples } from "./api/metrics";
import { inputItems, requestBody, SettingError } from "./api/request";
import { advance, emptyRound } from "./api/stream";
import { tokensPerSecond } from "./components/AnswerView";
import { blocksOf, withDollars } from "./components/blocks";
import { shade, visible } from "./components/Tokens";
import { fault } from "./components/Validity";
import { literal } from "./state/export";
import { DEFAULTS } from "./state/types";
import type { Round, Turn } from "./state/types";

const added = (item: object) => ({ type: "response.output_item.added", item });

function after(...events: { type: string; [field: string]: unknown }[]): Round {
  return events.reduce((round, event, index) => advance(round, event, index), emptyRound(0));
}

describe("a stream becomes a round", () => {
  it("with thinking, text and a call", () => {
    const round = after(
      { type: "response.created", response: { id: "resp_1" } },
      added({ type: "reasoning", id: "rs" }),
      { type: "response.reasoning_text.delta", item_id: "rs", delta: "Hm" },
      { type: "response.output_item.done", item: { type: "reasoning", id: "rs" } },
      added({ type: "function_call", id: "fc", call_id: "c", name: "f" }),
      { type: "response.function_call_arguments.delta", item_id: "fc", delta: "{}" },
      { type: "response.output_item.done", item: { type: "function_call", id: "fc", arguments: "{}" } },
      added({ type: "message", id: "m", phase: "final_answer" }),
      { type: "response.output_text.delta", item_id: "m", delta: "a" },
      { type: "response.output_text.delta", item_id: "m", delta: "b" },
    );
    expect(round.responseId).toBe("resp_1");
    expect(round.firstToken).toBe(1);
    expect(round.parts).toMatchObject([
      { kind: "thinking", text: "Hm", began: 1, ended: 3 },
      { kind: "call", name: "f", arguments: "{}", written: true, byHand: true, output: null },
      { kind: "text", text: "ab", preamble: false },
    ]);
  });

  it("whatever it does not know it leaves alone", () => {
    const round = after({ type: "response.something.new" }, added({ type: "unheard_of", id: "x" }));
    expect(round.parts).toEqual([]);
  });

  it("an error ends it", () => {
    expect(after({ type: "error", message: "no" })).toMatchObject({ status: "failed", error: "no" });
  });
});

describe("the request", () => {
  const turn = (question: string, answers: Turn["answers"] = {}): Turn => ({ id: question, question, answers });

  it("gives each side its own history", () => {
    const said = (text: string) => ({ rounds: [{ ...emptyRound(0), items: [text] }] });
    const turns = [turn("one", { a: said("A"), b: said("B") }), turn("two")];
    expect(inputItems(turns, "b")).toContain("B");
    expect(inputItems(turns, "b")).not.toContain("A");
  });

  it("names the setting that is not JSON", () => {
    const settings = { ...DEFAULTS, schemaOn: true, schema: "{" };
    expect(() => requestBody("m", [turn("q")], "a", settings)).toThrow(SettingError);
    expect(() => requestBody("m", [turn("q")], "a", { ...settings, schema: "3" })).toThrow(/JSON object/);
  });
});

it("metrics are summed over labels", () => {
  const text = '# HELP x y\nx{a="1"} 2\nx{a="2"} 3\ny 0.5\n';
  expect([...samples(text)]).toEqual([["x", 5], ["y", 0.5]]);
});

it("mathematics gets dollars, code does not", () => {
  expect(withDollars("\\(a\\) and `\\(b\\)`")).toBe("$a$ and `\\(b\\)`");
  expect(withDollars("\\[a\nb\\]")).toBe("\n$$\na\nb\n$$\n");
  expect(withDollars("```\n\\[a\\]\n")).toBe("```\n\\[a\\]\n");
  expect(withDollars("so \\[\\frac{a")).toBe("so \n```latex\n\\frac{a");
});

describe("markdown in blocks", () => {
  const text = [
    "# Title", "A paragraph\nof two lines with \\(a\\).", "1. one\n\n   more of it\n2. two", "\\[\na\n\nb\n\\]",
    "```python\ndef f():\n\n    return 1\n```", "| a | b |\n|---|---|\n| 1 | 2 |", "> a\nlazy", "---", "end",
  ].join("\n\n");

  it("are the same when the text came letter by letter", () => {
    let blocks: string[] = [];
    const drawn: string[][] = [];
    for (let end = 1; end <= text.length; end++) drawn.push((blocks = blocksOf(text.slice(0, end), blocks)));
    const trimmed = (all: string[]) => all.map((block) => block.trim());
    expect(trimmed(blocks)).toEqual(trimmed(blocksOf(text)));
    expect(blocks.join("")).toBe(withDollars(text));
    expect(blocks).toHaveLength(9);
    // A block that others follow is drawn once: it never changes again.
    drawn.forEach((before, index) => {
      const after = drawn[index + 1] ?? before;
      expect(after.slice(0, before.length - 1)).toEqual(before.slice(0, -1));
    });
  });

  it("stay together where one speaks of another", () => {
    expect(blocksOf("See [it][1].\n\n[1]: https://example.test\n\nend", ["See [it][1].\n\n"])).toHaveLength(1);
  });

  it("begin anew where the text is another one", () => {
    expect(blocksOf("x\n\ny", ["a\n\n", "b"])).toEqual(["x\n\n", "y"]);
  });
});

it("likely tokens are plain, unlikely ones are red", () => {
  expect(shade(0)).toBe("p4");
  expect(shade(-10)).toBe("p0");
  expect(visible("a\n\t")).toBe("a⏎⇥");
  expect(visible("  ")).toBe("␣␣");
  expect(visible(" a")).toBe(" a");
});

it("a speed is told where there was time to measure one", () => {
  expect(tokensPerSecond(100, 0.5)).toBe(200);
  expect(tokensPerSecond(22, 0.0001)).toBeNull();
});

it("the model's own sampling is left to the server", () => {
  const own = requestBody("m", [], "a", DEFAULTS);
  expect(own).not.toHaveProperty("temperature");
  expect(own).not.toHaveProperty("top_p");
  expect(requestBody("m", [], "a", { ...DEFAULTS, temperature: 0, topP: 0.5 })).toMatchObject({ temperature: 0, top_p: 0.5 });
});

it("schemas are held", () => {
  expect(fault('{"a": 1}', '{"required": ["a"]}')).toBeNull();
  expect(fault("{}", '{"required": ["a"]}')).toMatch(/a/);
  expect(fault("{", "{}")).toMatch(/not JSON/);
  expect(fault("{}", "{")).toMatch(/schema/);
});

it("Python's literals", () => {
  expect(literal({ a: [true, null, "x\n"], b: {} })).toBe(
    '{\n    "a": [\n        True,\n        None,\n        "x\\n",\n    ],\n    "b": {},\n}',
  );
});
