import { ActionIcon, CopyButton, Button, Modal, SegmentedControl, Tooltip } from "@mantine/core";
import { IconCode } from "@tabler/icons-react";
import { useState } from "react";

import { exported } from "../state/export";
import type { Format } from "../state/export";
import { currentConversation, useStore } from "../state/store";

export function ExportMenu() {
  const [open, setOpen] = useState(false);
  const conversation = useStore(currentConversation);
  return (
    <>
      <Tooltip label="Export" withinPortal>
        <ActionIcon variant="subtle" size="lg" aria-label="Export" disabled={!conversation} onClick={() => setOpen(true)}>
          <IconCode size={18} />
        </ActionIcon>
      </Tooltip>
      {/* lockScroll would add a style element, which the content-security policy forbids */}
      <Modal opened={open} onClose={() => setOpen(false)} title="Export" size="lg" lockScroll={false} closeButtonProps={{ "aria-label": "Close" }}>
        <Exported />
      </Modal>
    </>
  );
}

function Exported() {
  const [format, setFormat] = useState<Format>("curl");
  const { model, settings } = useStore();
  const conversation = useStore(currentConversation);
  if (!conversation) return null;
  let text: string;
  try {
    text = exported(format, window.location.origin, model ?? "", conversation, "a", settings.a);
  } catch (error) {
    text = (error as Error).message;
  }
  return (
    <>
      <SegmentedControl
        aria-label="Format"
        value={format}
        onChange={(value) => setFormat(value as Format)}
        data={[{ value: "curl", label: "curl" }, { value: "python", label: "Python" }, { value: "json", label: "JSON" }]}
      />
      <pre className="source" tabIndex={0} aria-label="Exported conversation">{text}</pre>
      <CopyButton value={text}>
        {({ copied, copy }) => <Button onClick={copy}>{copied ? "Copied" : "Copy"}</Button>}
      </CopyButton>
    </>
  );
}
