import { ActionIcon, Alert, Switch, Tooltip, useComputedColorScheme, useMantineColorScheme } from "@mantine/core";
import { useMediaQuery } from "@mantine/hooks";
import { IconActivity, IconAdjustments, IconMenu2, IconMoon, IconSun } from "@tabler/icons-react";
import { useEffect } from "react";

import { servedModel } from "./api/models";
import { Composer } from "./components/Composer";
import { EnginePanel } from "./components/EnginePanel";
import { ExportMenu } from "./components/ExportMenu";
import { History } from "./components/History";
import { SettingsPanel } from "./components/SettingsPanel";
import { Turns } from "./components/Turns";
import { explained } from "./state/run";
import { editPanels, useStore } from "./state/store";

export function App() {
  const { loaded, panels, problem, model, apiKey } = useStore();
  const narrow = useMediaQuery("(max-width: 900px)", false, { getInitialValueInEffect: false });

  useEffect(() => {
    if (!loaded) return;
    let latest = true; // what is told of an earlier key, however late, counts no more
    servedModel(apiKey).then(
      (name) => latest && useStore.setState({ model: name, problem: null }),
      (error: unknown) => latest && useStore.setState({ model: null, problem: explained(error) }),
    );
    return () => {
      latest = false;
    };
  }, [loaded, apiKey]);

  useEffect(() => {
    if (narrow) editPanels({ navigation: false, settings: false, engine: false });
  }, [narrow]);

  if (!loaded) return null;
  return (
    <div className="app">
      <Header model={model} narrow={narrow} />
      {panels.navigation && (
        <nav className="side left" aria-label="Conversations">
          <History narrow={narrow} />
        </nav>
      )}
      <main className="main">
        {problem && (
          <Alert color="red" m="md" title="This page cannot work yet" role="alert">
            {problem} {problem.includes("key") && "Give it under Settings."}
          </Alert>
        )}
        <Turns />
        <Composer />
      </main>
      {(panels.settings || panels.engine) && (
        <aside className="side right" aria-label={panels.engine ? "Engine" : "Settings"}>
          {panels.engine ? <EnginePanel /> : <SettingsPanel />}
        </aside>
      )}
    </div>
  );
}

function Header({ model, narrow }: { model: string | null; narrow: boolean }) {
  const { panels } = useStore();
  const { setColorScheme } = useMantineColorScheme({ keepTransitions: true }); // else it adds a style element
  const scheme = useComputedColorScheme("light");
  return (
    <header className="header">
      <IconButton
        label="Conversations"
        pressed={panels.navigation}
        onClick={() => editPanels({ navigation: !panels.navigation, ...(narrow && { settings: false, engine: false }) })}
      >
        <IconMenu2 size={18} />
      </IconButton>
      <h1 className="brand">mosso</h1>
      <span className="wide-only">{model}</span>
      <span className="grow" />
      <Switch
        label="Compare"
        checked={panels.compare}
        onChange={(event) => editPanels({ compare: event.currentTarget.checked })}
      />
      <ExportMenu />
      <IconButton
        label="Engine"
        pressed={panels.engine}
        onClick={() => editPanels({ engine: !panels.engine, settings: false, ...(narrow && { navigation: false }) })}
      >
        <IconActivity size={18} />
      </IconButton>
      <IconButton
        label="Settings"
        pressed={panels.settings}
        onClick={() => editPanels({ settings: !panels.settings, engine: false, ...(narrow && { navigation: false }) })}
      >
        <IconAdjustments size={18} />
      </IconButton>
      <IconButton
        label={scheme === "dark" ? "Light colours" : "Dark colours"}
        onClick={() => setColorScheme(scheme === "dark" ? "light" : "dark")}
      >
        {scheme === "dark" ? <IconSun size={18} /> : <IconMoon size={18} />}
      </IconButton>
    </header>
  );
}

interface IconButtonProps {
  label: string;
  pressed?: boolean;
  onClick: () => void;
  children: React.ReactNode;
}

function IconButton({ label, pressed, onClick, children }: IconButtonProps) {
  return (
    <Tooltip label={label} withinPortal>
      <ActionIcon
        variant={pressed ? "light" : "subtle"}
        size="lg"
        aria-label={label}
        aria-pressed={pressed}
        onClick={onClick}
      >
        {children}
      </ActionIcon>
    </Tooltip>
  );
}

