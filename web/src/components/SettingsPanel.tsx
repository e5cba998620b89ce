import {
  Button, Checkbox, Input, JsonInput, NumberInput, PasswordInput, SegmentedControl, Stack, Switch, Tabs, Textarea,
} from "@mantine/core";
import { useState } from "react";

import { editSettings, forgetEverything, useStore } from "../state/store";
import type { BuiltIn, Settings, Side } from "../state/types";
import { ToolsEditor } from "./ToolsEditor";

export function SettingsPanel() {
  const compare = useStore((state) => state.panels.compare);
  const [chosen, setSide] = useState<Side>("a");
  const side = compare ? chosen : "a";
  const settings = useStore((state) => state.settings[side]);
  const edit = (change: Partial<Settings>) => editSettings(side, change);
  return (
    <Stack gap="md">
      {compare && (
        <SegmentedControl
          aria-label="Whose settings"
          value={chosen}
          onChange={(value) => setSide(value as Side)}
          data={[{ value: "a", label: "Settings A" }, { value: "b", label: "Settings B" }]}
        />
      )}
      <Tabs defaultValue="model" keepMounted={false} key={side}>
        <Tabs.List grow mb="md">
          <Tabs.Tab value="model">Model</Tabs.Tab>
          <Tabs.Tab value="tools">Tools</Tabs.Tab>
          <Tabs.Tab value="format">Format</Tabs.Tab>
        </Tabs.List>
        <Tabs.Panel value="model">
          <ModelSettings settings={settings} edit={edit} />
        </Tabs.Panel>
        <Tabs.Panel value="tools">
          <ToolsEditor tools={settings.tools} onChange={(tools) => edit({ tools })} />
          <Checkbox.Group
            mt="md"
            label="Built-in tools"
            description="Run by the server, where it was started with them."
            value={settings.builtIns}
            onChange={(value) => edit({ builtIns: value as BuiltIn[] })}
          >
            <Stack gap="xs" mt="xs">
              <Checkbox value="web_search" label="browser" />
              <Checkbox value="code_interpreter" label="python" />
            </Stack>
          </Checkbox.Group>
        </Tabs.Panel>
        <Tabs.Panel value="format">
          <Stack gap="sm">
            <Switch
              label="Answer as JSON of a schema"
              checked={settings.schemaOn}
              onChange={(event) => edit({ schemaOn: event.currentTarget.checked })}
            />
            <JsonInput
              label="JSON schema"
              autosize
              minRows={8}
              maxRows={24}
              validationError="This is not JSON"
              formatOnBlur
              value={settings.schema}
              onChange={(schema) => edit({ schema })}
            />
          </Stack>
        </Tabs.Panel>
      </Tabs>
    </Stack>
  );
}

interface Editing {
  settings: Settings;
  edit: (change: Partial<Settings>) => void;
}

function ModelSettings({ settings, edit }: Editing) {
  const apiKey = useStore((state) => state.apiKey);
  return (
    <Stack gap="sm">
      <div>
        <Input.Label labelElement="div" id="effort">Effort</Input.Label>
        <SegmentedControl
          fullWidth
          aria-labelledby="effort"
          value={settings.effort}
          onChange={(effort) => edit({ effort: effort as Settings["effort"] })}
          data={["low", "medium", "high"]}
        />
      </div>
      <Textarea
        label="System text"
        description="Who the model is told it is. Empty: what it was trained with."
        autosize
        maxRows={6}
        value={settings.system}
        onChange={(event) => edit({ system: event.currentTarget.value })}
      />
      <Textarea
        label="Developer text"
        description="What the model is told to do before the conversation."
        autosize
        minRows={2}
        maxRows={10}
        value={settings.developer}
        onChange={(event) => edit({ developer: event.currentTarget.value })}
      />
      <Amount label="Temperature" description="Empty: what the model comes with" min={0} max={2} step={0.1} value={settings.temperature} onChange={(temperature) => edit({ temperature })} />
      <Amount label="Top p" description="Empty: what the model comes with" min={0} max={1} step={0.05} value={settings.topP} onChange={(topP) => edit({ topP })} />
      <Amount label="Min p" description="0: off" min={0} max={1} step={0.05} value={settings.minP} onChange={(value) => edit({ minP: value ?? 0 })} />
      <Amount label="Top k" description="0: off" min={0} value={settings.topK} onChange={(value) => edit({ topK: value ?? 0 })} />
      <Amount label="Most tokens" description="Empty: what the context holds" min={1} value={settings.maxTokens} onChange={(maxTokens) => edit({ maxTokens })} />
      <Amount label="Most tokens of thinking" description="Empty: as many as it likes" min={0} value={settings.thinkingBudget} onChange={(thinkingBudget) => edit({ thinkingBudget })} />
      <Amount label="Seed" description="Empty: a new one each time" value={settings.seed} onChange={(seed) => edit({ seed })} />
      <Switch
        label="Token probabilities"
        checked={settings.logprobs}
        onChange={(event) => edit({ logprobs: event.currentTarget.checked })}
      />
      <PasswordInput
        label="API key"
        description="Where the server asks for one. Kept in this browser."
        autoComplete="off"
        value={apiKey}
        onChange={(event) => useStore.setState({ apiKey: event.currentTarget.value })}
      />
      <Button variant="default" onClick={() => void forgetEverything()}>
        Forget everything in this browser
      </Button>
    </Stack>
  );
}

interface AmountProps {
  label: string;
  description: string;
  min?: number;
  max?: number;
  step?: number;
  value: number | null;
  onChange: (value: number | null) => void;
}

/** A number, or none where nothing is typed; whole unless there is a step. */
function Amount({ step, value, onChange, ...rest }: AmountProps) {
  const [typed, setTyped] = useState<string | number>(""); // such as "0.", on the way to a number
  return (
    <NumberInput
      {...rest}
      step={step}
      allowDecimal={step !== undefined}
      value={number(typed) === value ? typed : (value ?? "")}
      onChange={(now) => {
        setTyped(now);
        onChange(number(now));
      }}
    />
  );
}

function number(typed: string | number): number | null {
  return typed === "" || Number.isNaN(Number(typed)) ? null : Number(typed);
}
