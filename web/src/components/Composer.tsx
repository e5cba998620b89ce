import { ActionIcon, Textarea } from "@mantine/core";
import { IconArrowUp } from "@tabler/icons-react";
import { useEffect, useState } from "react";
import type { KeyboardEvent } from "react";

import { ask } from "../state/run";
import { currentConversation, useStore } from "../state/store";

/** Whether an answer of the open conversation is being made. */
export function useBusy(): boolean {
  return useStore((state) =>
    Object.values(currentConversation(state)?.turns.at(-1)?.answers ?? {}).some(
      (answer) => answer.rounds.at(-1)?.status === "running",
    ),
  );
}

export function Composer() {
  const [text, setText] = useState("");
  const busy = useBusy();
  const compare = useStore((state) => state.panels.compare);
  const modelKnown = useStore((state) => state.model !== null);
  const written = text.trim() !== "";
  const ready = modelKnown && written && !busy;
  // Enter was pressed before the server had named its model; to type on takes it back.
  const [early, setEarly] = useState(false);

  const send = () => {
    setEarly(written && !modelKnown);
    if (!ready) return;
    ask(text.trim());
    setText("");
  };
  useEffect(() => {
    if (early && ready) send();
  });
  const onKey = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing) return;
    event.preventDefault();
    send();
  };
  return (
    <div className="composer">
      <div className={compare ? "column wide" : "column"}>
        <Textarea
          aria-label="Message"
          placeholder="Ask something. Enter sends, Shift+Enter begins a new line."
          autosize
          minRows={1}
          maxRows={12}
          size="md"
          value={text}
          autoFocus
          onChange={(event) => {
            setText(event.currentTarget.value);
            setEarly(false);
          }}
          onKeyDown={onKey}
          rightSection={
            <ActionIcon aria-label="Send" onClick={send} disabled={!ready} radius="xl">
              <IconArrowUp size={18} />
            </ActionIcon>
          }
        />
      </div>
    </div>
  );
}
