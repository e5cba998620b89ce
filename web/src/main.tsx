import "@mantine/core/styles/default-css-variables.css";
import "@mantine/core/styles.css";
import "katex/dist/katex.min.css";
import "./app.css";

import { createTheme, MantineProvider } from "@mantine/core";
import { createRoot } from "react-dom/client";

import { App } from "./App";
import { load } from "./state/store";

const theme = createTheme({ defaultRadius: "md", cursorType: "pointer" });

void load();
// The server's content-security policy allows no style elements: variables come from the style sheets instead.
createRoot(document.getElementById("root")!).render(
  <MantineProvider theme={theme} defaultColorScheme="auto" withCssVariables={false} withGlobalClasses={false}>
    <App />
  </MantineProvider>,
);
