import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { LONG, SDKS, all, until } from "./sdks.mjs";

for (const sdk of SDKS) {
  describe(`runs, SDK ${sdk.name}`, () => {
    const { threads, runs } = sdk.client();
    const thread = async () => (await threads.create()).thread_id;
    const running = async (t, r) => (await runs.get(t, r)).status === "running";

    test("a run is streamed in every mode", async () => {
      let created;
      const events = await all(
        runs.stream(await thread(), "nested", {
          input: { messages: [{ role: "human", content: "hi" }] },
          streamMode: ["values", "updates", "messages-tuple", "custom", "debug", "tasks", "checkpoints", "events"],
          streamSubgraphs: true,
          streamResumable: true,
          onRunCreated: (run) => (created = run),
        }),
      );
      const names = new Set(events.map((event) => event.event.split("|")[0]));
      for (const name of ["metadata", "values", "updates", "messages", "custom", "debug", "tasks", "checkpoints", "events"])
        assert.ok(names.has(name), `no ${name} event`);
      assert.equal(events[0].event, "metadata");
      assert.equal(events[0].data.run_id, created.run_id);
      const text = events.filter((e) => e.event.startsWith("messages|")).map((e) => e.data[0].content);
      assert.ok(text.join("").startsWith("you said: hi"));
    });

    test("message mode shows messages growing", async () => {
      const events = await all(
        runs.stream(null, "echo", {
          input: { messages: [{ role: "human", content: "hi" }] },
          streamMode: ["messages"],
        }),
      );
      const partial = events.filter((event) => event.event === "messages/partial");
      assert.equal(partial.at(-1).data[0].content, "you said: hi");
    });

    test("a stream is joined again where it was left", async () => {
      const t = await thread();
      let run;
      const events = await all(
        runs.stream(t, "steps", { input: { count: 4 }, streamResumable: true, onRunCreated: (r) => (run = r) }),
      );
      const again = await all(runs.joinStream(t, run.run_id, { lastEventId: events[2].id }));
      assert.deepEqual(again, events.slice(3));
      const from = await all(runs.joinStream(null, run.run_id, { lastEventId: "-1" }));
      assert.deepEqual(from, events);
    });

    test("runs are created, waited for, listed and deleted", async () => {
      const t = await thread();
      const made = await runs.create(t, "steps", { input: { count: 1 }, metadata: { who: "ada" }, afterSeconds: 0 });
      assert.deepEqual((await runs.join(t, made.run_id)).log, [0]);
      assert.equal((await runs.get(t, made.run_id)).metadata.who, "ada");
      assert.equal((await runs.list(t, { limit: 5, offset: 0, status: "success" })).length, 1);
      if (sdk.name !== "2.0") {
        const [picked] = await runs.list(t, { select: ["run_id", "status"] });
        assert.deepEqual(picked, { run_id: made.run_id, status: "success" });
      }
      await runs.delete(t, made.run_id);
      await assert.rejects(runs.get(t, made.run_id), /404/);
    });

    test("a failed run throws what the graph said", async () => {
      await assert.rejects(runs.wait(await thread(), "failing", { input: {} }), /as told/);
      const quiet = await runs.wait(await thread(), "failing", { input: {}, raiseError: false });
      assert.deepEqual(quiet.__error__, { error: "ValueError", message: "as told" });
      const events = await all(runs.stream(await thread(), "failing", { input: {} }));
      assert.equal(events.at(-1).event, "error");
    });

    test("a question is answered", async () => {
      const t = await thread();
      const asked = await runs.wait(t, "approve", { input: {} });
      assert.deepEqual(asked.__interrupt__[0].value, { question: "may I?" });
      const done = await runs.wait(t, "approve", { command: { resume: "yes" } });
      assert.deepEqual(done.log, ["yes", "done"]);
    });

    test("runs without a thread, one and many", async () => {
      assert.deepEqual((await runs.wait(null, "steps", { input: { count: 1 } })).log, [0]);
      const made = await runs.create(null, "steps", { input: { count: 1 } });
      assert.deepEqual((await runs.join(made.thread_id, made.run_id)).log, [0]);
      const batch = await runs.createBatch([1, 2].map((count) => ({ assistantId: "steps", input: { count } })));
      assert.equal(batch.length, 2);
    });

    test("a run is cancelled, with and without waiting", async () => {
      for (const [wait, action] of [[true, "interrupt"], [true, "rollback"], [false, "interrupt"]]) {
        const t = await thread();
        const { run_id } = await runs.create(t, "steps", LONG);
        await until(() => running(t, run_id), "the run is running");
        await runs.cancel(t, run_id, wait, action);
        if (action === "rollback") await assert.rejects(runs.get(t, run_id), /404/);
        else await until(async () => (await runs.get(t, run_id)).status === "interrupted", "the run has stopped");
      }
    });

    if (sdk.has("runs", "cancelMany")) test("many runs are cancelled at once", async () => {
      const t = await thread();
      const made = [await runs.create(t, "steps", LONG), await runs.create(t, "steps", LONG)];
      await runs.cancelMany({ threadId: t, runIds: made.map((run) => run.run_id) });
      await until(async () => (await threads.get(t)).status !== "busy", "the thread rests");
    });

    test("a second run waits, is refused, or replaces the first", async () => {
      const t = await thread();
      const first = await runs.create(t, "steps", LONG);
      await until(() => running(t, first.run_id), "the first run is running");
      await assert.rejects(runs.create(t, "steps", { input: {}, multitaskStrategy: "reject" }), /409/);
      const last = await runs.wait(t, "steps", { input: { count: 0 }, multitaskStrategy: "rollback" });
      assert.equal(last.log.length, 1);
      await assert.rejects(runs.get(t, first.run_id), /404/);
    });
  });
}
