// Markdown that grows: what no later text can change any more is set apart, so that it is drawn once.

import remarkGfm from "remark-gfm";
import remarkMath from "remark-math";
import remarkParse from "remark-parse";
import { unified } from "unified";

const parser = unified().use(remarkParse).use(remarkGfm).use(remarkMath);

// `[name]: address` and footnotes speak of other blocks, so a text with them stays in one piece.
const SPEAKS_OF_OTHERS = /^ {0,3}\[[^\]\n]+\]:/m;

/**
 * gpt-oss writes mathematics as \( … \) and \[ … \]; the parser knows dollars. Code stays as it is, and a formula
 * that has no end yet is shown as code.
 */
export function withDollars(text: string): string {
  return text
    .split(/(```[\s\S]*?(?:```|$)|`[^`\n]*`)/)
    .map((part, index, parts) => {
      if (index % 2) return part;
      const made = part
        .replace(/\\\[([\s\S]*?)\\\]/g, "\n$$$$\n$1\n$$$$\n")
        .replace(/\\\((.*?)\\\)/g, "$$$1$$");
      return index === parts.length - 1 ? made.replace(/\\\[([\s\S]*)$/, "\n```latex\n$1") : made;
    })
    .join("");
}

/** The top-level blocks of `text`; given those of an earlier state of it, only the last of them is read again. */
export function blocksOf(text: string, before: readonly string[] = []): string[] {
  const source = withDollars(text);
  if (SPEAKS_OF_OTHERS.test(source)) return [source];
  const settled = before.slice(0, -1);
  let length = 0;
  for (const block of settled) length += block.length;
  if (!source.startsWith(settled.join(""))) return blocksOf(text);
  const rest = source.slice(length);
  const starts = parser.parse(rest).children.map((node) => node.position!.start.offset!);
  const cuts = [0, ...starts.slice(1), rest.length];
  return [...settled, ...cuts.slice(1).map((end, index) => rest.slice(cuts[index], end))];
}
