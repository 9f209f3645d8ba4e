import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { LONG, SDKS, all, unique } from "./sdks.mjs";

for (const sdk of SDKS) {
  describe(`threads, SDK ${sdk.name}`, () => {
    const { threads, runs } = sdk.client();

    async function walked(count = 2) {
      const { thread_id } = await threads.create();
      await runs.wait(thread_id, "steps", { input: { count } });
      return thread_id;
    }

    test("a thread is created, read, changed and deleted", async () => {
      const threadId = unique();
      const made = await threads.create({ threadId, graphId: "steps", metadata: { a: 1 }, ttl: 60 });
      assert.deepEqual(made.metadata, { graph_id: "steps", a: 1 });
      await assert.rejects(threads.create({ threadId }), /409/);
      assert.equal((await threads.create({ threadId, ifExists: "do_nothing" })).metadata.a, 1);
      const changed = await threads.update(threadId, { metadata: { b: 2 }, ttl: { ttl: 30, strategy: "delete" } });
      assert.deepEqual(changed.metadata, { graph_id: "steps", a: 1, b: 2 });
      assert.equal((await threads.get(threadId)).status, "idle");
      await threads.delete(threadId);
      await assert.rejects(threads.get(threadId), /404/);
    });

    test("a thread starts with the supersteps of another conversation", async () => {
      const made = await threads.create({
        graphId: "steps",
        supersteps: [
          { updates: [{ values: { count: 1 }, asNode: "__input__" }] },
          { updates: [{ values: { count: 1 }, asNode: "__start__" }] },
          { updates: [{ values: { log: [0] }, asNode: "step" }] },
        ],
      });
      const state = await threads.getState(made.thread_id);
      assert.deepEqual(state.values, { log: [0], count: 1 });
      assert.deepEqual(state.next, []);
    });

    test("threads are searched and counted", async () => {
      const tag = unique();
      for (const n of [1, 2, 3]) await threads.create({ metadata: { tag, n } });
      const found = await threads.search({ metadata: { tag }, sortBy: "created_at", sortOrder: "asc", limit: 2 });
      assert.deepEqual(found.map((row) => row.metadata.n), [1, 2]);
      assert.equal((await threads.search({ metadata: { tag }, limit: 2, offset: 2 })).length, 1);
      assert.equal((await threads.search({ metadata: { tag }, status: "busy" })).length, 0);
      const [picked] = await threads.search({ metadata: { tag, n: 2 }, select: ["thread_id", "metadata"] });
      assert.deepEqual(Object.keys(picked).sort(), ["metadata", "thread_id"]);
      assert.equal(await threads.count({ metadata: { tag } }), 3);
    });

    test("a thread is copied with what it remembers", async () => {
      const original = await walked();
      const copy = await threads.copy(original);
      assert.notEqual(copy.thread_id, original);
      assert.deepEqual((await threads.getState(copy.thread_id)).values.log, [0, 1]);
    });

    test("states are read, searched and updated", async () => {
      const thread = await walked();
      const history = await threads.getHistory(thread, { limit: 10 });
      assert.deepEqual(history.map((state) => state.values.log?.length ?? 0), [2, 1, 0, 0]);
      const earlier = await threads.getState(thread, history[1].checkpoint.checkpoint_id);
      assert.deepEqual(earlier.values.log, [0]);
      assert.deepEqual((await threads.getState(thread, history[1].checkpoint)).values.log, [0]);
      const before = await threads.getHistory(thread, { before: history[1].checkpoint && { configurable: history[1].checkpoint } });
      assert.equal(before.length, 2);
      const updated = await threads.updateState(thread, { values: { log: ["mine"] }, asNode: "step" });
      assert.ok(updated.checkpoint.checkpoint_id);
      assert.deepEqual((await threads.getState(thread)).values.log, [0, 1, "mine"]);
      // The SDK has the method, no server a route for it.
      await assert.rejects(threads.patchState(thread, { a: 1 }), /405/);
    });

    test("a thread's stream follows every run", async () => {
      const { thread_id } = await threads.create();
      const stop = new AbortController();
      const seen = [];
      const following = (async () => {
        for await (const event of threads.joinStream(thread_id, { lastEventId: "-", signal: stop.signal })) {
          seen.push(event);
          if (seen.filter((one) => one.data?.status === "run_done").length === 2) return;
        }
      })();
      for (const _ of [1, 2]) await all(runs.stream(thread_id, "steps", { input: { count: 1 } }));
      await following;
      stop.abort();
      assert.deepEqual([...new Set(seen.map((event) => event.event))].sort(), ["metadata", "values"]);
      assert.equal(new Set(seen.map((event) => event.id)).size, seen.length);
    });

    if (sdk.has("threads", "prune")) test("threads that nobody needs are pruned", async () => {
      const [kept, gone] = [await walked(), await walked()];
      assert.deepEqual(await threads.prune([kept], { strategy: "keep_latest" }), { pruned_count: 1 });
      assert.equal((await threads.getHistory(kept, { limit: 10 })).length, 1);
      assert.deepEqual((await threads.getState(kept)).values.log, [0, 1]);
      assert.deepEqual(await threads.prune([gone, unique()]), { pruned_count: 1 });
      await assert.rejects(threads.get(gone), /404/);
    });

    test("a busy thread can be deleted", async () => {
      const { thread_id } = await threads.create();
      await runs.create(thread_id, "steps", LONG);
      await threads.delete(thread_id);
      await assert.rejects(threads.get(thread_id), /404/);
    });
  });
}
