import { memo, useEffect, useMemo, useRef, useState } from "react";
import ReactMarkdown from "react-markdown";
import type { Components } from "react-markdown";
import rehypeHighlight from "rehype-highlight";
import rehypeKatex from "rehype-katex";
import remarkGfm from "remark-gfm";
import remarkMath from "remark-math";

import { blocksOf } from "./blocks";

// What a model writes must neither run nor load anything: no HTML (react-markdown shows it as text), no images,
// links only to the web and only when a person follows them, mathematics without macros that reach out.
const MATHEMATICS = { trust: false, strict: false, throwOnError: false, maxExpand: 200, maxSize: 20 } as const;

const components: Components = {
  img: ({ alt, src }) => <code>{`![${alt ?? ""}](${String(src ?? "").slice(0, 200)})`}</code>,
  a: ({ href, children }) =>
    href && /^(https?:|mailto:)/i.test(href) ? (
      <a href={href} target="_blank" rel="noopener noreferrer nofollow">
        {children}
      </a>
    ) : (
      <span>{children}</span>
    ),
  input: ({ checked }) => <input type="checkbox" checked={checked ?? false} readOnly disabled aria-label="item" />,
};

const Block = memo(({ text }: { text: string }) => (
  <ReactMarkdown
    remarkPlugins={[remarkGfm, remarkMath]}
    rehypePlugins={[[rehypeKatex, MATHEMATICS], [rehypeHighlight, { detect: false }]]}
    components={components}
  >
    {text}
  </ReactMarkdown>
));

/** Text that may still grow. While it does, it is drawn again only as often as leaves the page time to breathe. */
export function Markdown({ text, growing }: { text: string; growing: boolean }) {
  const shown = useThrottled(text, growing);
  const blocks = useBlocks(shown);
  return (
    <div className="markdown">
      {blocks.map((block, index) => (
        <Block key={index} text={block} />
      ))}
    </div>
  );
}

function useBlocks(text: string): string[] {
  const last = useRef<string[]>([]);
  return useMemo(() => (last.current = blocksOf(text, last.current)), [text]);
}

function useThrottled(text: string, growing: boolean): string {
  const [shown, setShown] = useState(text);
  const latest = useRef(text);
  const pause = useRef(50); // milliseconds; grows with what a drawing takes
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  latest.current = text;
  useEffect(() => {
    if (!growing) {
      clearTimeout(timer.current);
      timer.current = undefined;
      setShown(text);
      return;
    }
    timer.current ??= setTimeout(() => {
      const before = performance.now();
      timer.current = undefined;
      setShown(latest.current);
      requestAnimationFrame(() => {
        pause.current = Math.min(1000, Math.max(50, 6 * (performance.now() - before)));
      });
    }, pause.current);
  }, [text, growing]);
  useEffect(() => () => clearTimeout(timer.current), []);
  return growing ? shown : text;
}
