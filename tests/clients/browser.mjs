// The page, bundled and served from an origin of its own, in a headless Chromium.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import puppeteer from "puppeteer-core";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const SDKS = { "1.12": "@langchain/langgraph-sdk/react", "2.0": "langgraph-sdk-2/react" };
const here = (path) => fileURLToPath(new URL(path, import.meta.url));

async function bundle(sdk) {
  const { outputFiles } = await build({
    entryPoints: [here("page/page.jsx")],
    alias: { "@langchain/langgraph-sdk/react": SDKS[sdk] },
    bundle: true,
    write: false,
    format: "esm",
    jsx: "automatic",
    define: { "process.env.NODE_ENV": '"production"' },
    logLevel: "error",
  });
  return outputFiles[0].contents;
}

/** The page with this SDK in a browser: `open` gives a tab, `close` ends everything. */
export async function browser(sdk) {
  const files = { "/page.js": await bundle(sdk), "/": await readFile(here("page/index.html")) };
  const server = createServer((request, response) => {
    const path = new URL(request.url, "http://page").pathname;
    const type = path.endsWith(".js") ? "text/javascript" : "text/html";
    response.writeHead(files[path] ? 200 : 404, { "content-type": type }).end(files[path]);
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  // Chromium does not start as root inside its own sandbox, and CI runs as root.
  const chromium = await puppeteer.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
  return {
    async open(query) {
      const tab = await chromium.newPage();
      await tab.goto(`http://127.0.0.1:${server.address().port}/?${new URLSearchParams(query)}`);
      return tab;
    },
    async close() {
      await chromium.close();
      server.closeAllConnections();
      await new Promise((closed) => server.close(closed));
    },
  };
}
