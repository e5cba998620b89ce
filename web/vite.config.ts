import { fileURLToPath } from "node:url";

import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

/** Every browser that runs this page reads woff2: KaTeX's older fonts stay out of the package. */
const onlyWoff2 = {
  name: "only-woff2",
  enforce: "pre" as const,
  transform: (code: string, id: string) =>
    id.endsWith("katex.min.css") ? code.replace(/,url\([^)]*\.(?:woff|ttf)\) format\("(?:woff|truetype)"\)/g, "") : null,
};

// The built files lie in the Python package, which serves them. A build of the same sources gives the same files.
export default defineConfig({
  plugins: [react(), onlyWoff2],
  base: "/playground/",
  // In browsers this package parses with the page's own parser, which applies the content-security policy to the
  // style attributes of KaTeX's markup; the other parser makes plain data of them.
  resolve: { alias: { "hast-util-from-html-isomorphic": fileURLToPath(new URL("src/html.ts", import.meta.url)) } },
  build: {
    outDir: "../src/mosso/server/static",
    emptyOutDir: true,
    assetsInlineLimit: 0, // nothing from data: URLs, so that the content-security policy can refuse them
    modulePreload: { polyfill: false },
    target: "es2022",
    chunkSizeWarningLimit: 2000,
  },
  server: { proxy: { "/v1": "http://127.0.0.1:8000", "/metrics": "http://127.0.0.1:8000" } },
});
