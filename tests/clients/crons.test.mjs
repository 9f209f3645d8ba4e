import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { SDKS, unique } from "./sdks.mjs";

for (const sdk of SDKS) {
  describe(`crons, SDK ${sdk.name}`, () => {
    const { crons, threads } = sdk.client();

    test("a cron is created, found, changed and deleted", async () => {
      const tag = unique();
      // 2.0 does not send the metadata to count by.
      const others = await crons.count({ metadata: { tag } });
      const made = await crons.create("steps", { schedule: "0 9 * * 1", input: { count: 1 }, metadata: { tag } });
      const [found] = await crons.search({ metadata: { tag }, limit: 10, offset: 0 });
      assert.equal(found.cron_id, made.cron_id);
      assert.equal(found.schedule, "0 9 * * 1");
      assert.equal(await crons.count({ metadata: { tag } }), others + 1);
      if (sdk.has("crons", "update")) {
        const changed = await crons.update(made.cron_id, { schedule: "0 10 * * *", enabled: false });
        assert.deepEqual([changed.schedule, changed.enabled], ["0 10 * * *", false]);
      }
      await crons.delete(made.cron_id);
      assert.equal(await crons.count({ metadata: { tag } }), others);
    });

    test("a cron belongs to a thread", async () => {
      const { thread_id } = await threads.create();
      await crons.createForThread(thread_id, "steps", { schedule: "*/5 * * * *", input: { count: 1 } });
      const [found] = await crons.search({ threadId: thread_id });
      assert.equal(found.thread_id, thread_id);
      await assert.rejects(crons.create("steps", { schedule: "every day" }), /422/);
    });
  });
}
