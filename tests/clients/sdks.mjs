// The JavaScript SDKs that Holdfast is tested with: the living 1.x line, and what npm calls latest.
import { readFileSync } from "node:fs";
import { Client } from "@langchain/langgraph-sdk";
import { Client as Client2 } from "langgraph-sdk-2";

export const BASE_URL = process.env.BASE_URL;
export const UNKNOWN_ID = "00000000-0000-4000-8000-000000000000";

export const SDKS = [
  { name: "1.12", Client },
  { name: "2.0", Client: Client2 },
].map(({ name, Client }) => ({
  name,
  /** A client of the server under test. Retries would hide what it answers. */
  client: (options = {}) => new Client({ apiUrl: BASE_URL, callerOptions: { maxRetries: 0 }, ...options }),
  has: (resource, method) => method in new Client({ apiUrl: BASE_URL })[resource],
}));

/** All items of an async iterable. */
export async function all(items) {
  const found = [];
  for await (const item of items) found.push(item);
  return found;
}

/** Poll until `check` is true; its value. */
export async function until(check, what, seconds = 15) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const found = await check();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`not within ${seconds} s: ${what}`);
    await new Promise((resume) => setTimeout(resume, 20));
  }
}

/** The run goes on until it is cancelled. */
export const LONG = { input: { pause: 0.03, count: 1000 }, config: { recursion_limit: 2000 } };

/** kill -9; the test's launcher starts it again. */
export const killServer = () => process.kill(Number(readFileSync(process.env.SERVER_PID_FILE)), "SIGKILL");

/** A name that no other test uses. */
export const unique = () => crypto.randomUUID();
