import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { browser } from "./browser.mjs";
import { BASE_URL, SDKS, killServer, until } from "./sdks.mjs";

const STORY = "once upon a time there was a stream that nobody could cut";

for (const sdk of SDKS) {
  describe(`useStream in Chromium, SDK ${sdk.name}`, { timeout: 120_000 }, () => {
    const { threads, runs } = sdk.client();
    let chromium;
    before(async () => (chromium = await browser(sdk.name)));
    after(async () => chromium.close());

    const open = (assistant, more = {}) => chromium.open({ api: BASE_URL, assistant, ...more });
    const text = (tab, selector) => tab.$eval(selector, (element) => element.textContent);
    const texts = (tab, selector) => tab.$$eval(selector, (all) => all.map((element) => element.textContent));
    const shows = (tab, selector, wanted) =>
      tab
        .waitForFunction((s, w) => document.querySelector(s)?.textContent.includes(w), {}, selector, wanted)
        .catch(async () => assert.fail(`${wanted} is not in ${selector}: ${await tab.$eval("body", (b) => b.innerText)}`));
    const rests = (tab) => tab.waitForFunction(() => document.querySelector("#loading").textContent === "false");
    const threadOf = (tab) => new URL(tab.url()).searchParams.get("thread");

    test("an answer appears while it is written", async () => {
      const tab = await open("story");
      await tab.click("#say");
      await shows(tab, "li.ai .text", "once");
      assert.notEqual(await text(tab, "li.ai .text"), STORY);
      await shows(tab, "li.ai .text", STORY);
      await rests(tab);
      assert.deepEqual(await texts(tab, "li .text"), ["hello", STORY]);
      assert.equal(await text(tab, "#error"), "");
      await tab.close();
    });

    test("a page that is loaded again goes on with the answer", async () => {
      const tab = await open("story");
      await tab.click("#say");
      await shows(tab, "li.ai .text", "once");
      await tab.reload();
      await shows(tab, "li.ai .text", STORY);
      await rests(tab);
      assert.deepEqual(await texts(tab, "li .text"), ["hello", STORY]);
      assert.equal((await runs.list(threadOf(tab))).length, 1);
      await tab.close();
    });

    test("a question is shown, survives a reload, and is answered", async () => {
      const tab = await open("approve");
      await tab.click("#start");
      await shows(tab, "#interrupt", "may I?");
      await tab.reload();
      await shows(tab, "#interrupt", "may I?");
      await tab.click("#answer");
      await shows(tab, "#values", '["yes","done"]');
      await rests(tab);
      assert.equal(await text(tab, "#interrupt"), "");
      await tab.close();
    });

    test("an earlier message is edited into a branch of its own, and both stay", async () => {
      const tab = await open("echo");
      await tab.click("#say");
      await shows(tab, "li.ai .text", "you said: hello");
      await rests(tab);
      await tab.click("li.human .edit");
      await shows(tab, "li.ai .text", "you said: edited");
      await rests(tab);
      assert.deepEqual(await texts(tab, "li .text"), ["edited", "you said: edited"]);
      await tab.waitForSelector("li.human .branch");
      await tab.click("li.human .branch");
      await shows(tab, "li.ai .text", "you said: hello");
      await tab.close();
    });

    test("an answer goes on when the server is killed and started again", async () => {
      const tab = await open("story");
      await tab.click("#say");
      await shows(tab, "li.ai .text", "once");
      killServer();
      // 2.0 gives up when nobody listens at its first try to reconnect; the page finds the run when it is loaded again.
      if (sdk.name === "2.0") {
        await until(async () => (await fetch(BASE_URL + "/ok").catch(() => null))?.ok, "the server is back");
        await tab.reload();
      }
      await shows(tab, "li.ai .text", STORY);
      await rests(tab);
      assert.deepEqual(await texts(tab, "li .text"), ["hello", STORY]);
      assert.equal(await text(tab, "#error"), "");
      await tab.close();
    });

    test("stop ends the run", async () => {
      const tab = await open("saga", { stop: "cancel" });
      await tab.click("#say");
      await shows(tab, "li.ai .text", "once");
      await tab.click("#stop");
      await rests(tab);
      const thread = threadOf(tab);
      await until(async () => (await threads.get(thread)).status !== "busy", "the run has stopped");
      const [run] = await runs.list(thread);
      assert.equal(run.status, "interrupted");
      await tab.close();
    });
  });
}
