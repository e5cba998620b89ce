import { Button, Fieldset, JsonInput, Stack, TextInput } from "@mantine/core";

import { EXAMPLE_TOOL } from "../state/types";
import type { ToolDefinition } from "../state/types";

interface Props {
  tools: ToolDefinition[];
  onChange: (tools: ToolDefinition[]) => void;
}

/** The functions that the model may call, and that a person answers. */
export function ToolsEditor({ tools, onChange }: Props) {
  const edit = (id: string, change: Partial<ToolDefinition>) =>
    onChange(tools.map((tool) => (tool.id === id ? { ...tool, ...change } : tool)));
  const add = () => {
    const names = new Set(tools.map((tool) => tool.name));
    const name = names.has(EXAMPLE_TOOL.name) ? `function_${tools.length + 1}` : EXAMPLE_TOOL.name;
    onChange([...tools, { ...EXAMPLE_TOOL, id: crypto.randomUUID(), name }]);
  };
  return (
    <Stack gap="md">
      {tools.map((tool) => (
        <Fieldset key={tool.id} legend={tool.name || "unnamed"}>
          <Stack gap="xs">
            <TextInput
              label="Name"
              value={tool.name}
              error={/^[\w-]{1,64}$/.test(tool.name) ? null : "letters, digits, _ and -"}
              onChange={(event) => edit(tool.id, { name: event.currentTarget.value })}
            />
            <TextInput
              label="Description"
              value={tool.description}
              onChange={(event) => edit(tool.id, { description: event.currentTarget.value })}
            />
            <JsonInput
              label="Parameters (JSON schema)"
              autosize
              minRows={4}
              maxRows={16}
              validationError="This is not JSON"
              value={tool.parameters}
              onChange={(parameters) => edit(tool.id, { parameters })}
            />
            <Button variant="default" size="xs" onClick={() => onChange(tools.filter((one) => one.id !== tool.id))}>
              Remove
            </Button>
          </Stack>
        </Fieldset>
      ))}
      <Button variant="light" onClick={add}>
        Add a function
      </Button>
    </Stack>
  );
}
