import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { SDKS, UNKNOWN_ID, unique } from "./sdks.mjs";

for (const sdk of SDKS) {
  describe(`assistants, SDK ${sdk.name}`, () => {
    const { assistants, threads, runs } = sdk.client();

    test("an assistant is created, changed through versions, and deleted", async () => {
      const tag = unique();
      const made = await assistants.create({
        graphId: "echo",
        name: "First",
        description: "one",
        metadata: { tag },
        context: { tone: "dry" },
      });
      assert.equal(made.version, 1);
      assert.deepEqual(made.config.configurable, { tone: "dry" });

      const changed = await assistants.update(made.assistant_id, { name: "Second", metadata: { more: 1 } });
      assert.deepEqual([changed.version, changed.name, changed.metadata], [2, "Second", { tag, more: 1 }]);
      assert.equal((await assistants.get(made.assistant_id)).name, "Second");

      const versions = await assistants.getVersions(made.assistant_id, { limit: 5, offset: 0 });
      assert.deepEqual(versions.map((row) => row.version), [2, 1]);
      assert.equal((await assistants.setLatest(made.assistant_id, 1)).name, "First");

      assert.equal(await assistants.count({ metadata: { tag }, graphId: "echo", name: "first" }), 1);
      await assistants.delete(made.assistant_id);
      await assert.rejects(assistants.get(made.assistant_id), /404/);
    });

    test("an assistant can take its threads along", async () => {
      const made = await assistants.create({ graphId: "steps" });
      const thread = await threads.create();
      await runs.wait(thread.thread_id, made.assistant_id, { input: { count: 1 } });
      await assistants.delete(made.assistant_id, { deleteThreads: true });
      await assert.rejects(threads.get(thread.thread_id), /404/);
    });

    test("an id that is taken is refused, or kept", async () => {
      const assistantId = unique();
      await assistants.create({ graphId: "echo", assistantId, name: "kept" });
      await assert.rejects(assistants.create({ graphId: "echo", assistantId }), /409/);
      const kept = await assistants.create({ graphId: "steps", assistantId, ifExists: "do_nothing" });
      assert.deepEqual([kept.graph_id, kept.name], ["echo", "kept"]);
      await assert.rejects(assistants.create({ graphId: "nowhere" }), /404/);
    });

    test("assistants are searched page by page", async () => {
      const tag = unique();
      for (const name of ["a", "b", "c"]) await assistants.create({ graphId: "echo", name, metadata: { tag } });
      const first = await assistants.search({
        metadata: { tag },
        limit: 2,
        sortBy: "name",
        sortOrder: "asc",
        includePagination: true,
      });
      assert.deepEqual(first.assistants.map((row) => row.name), ["a", "b"]);
      assert.equal(first.next, "2");
      const rest = await assistants.search({ metadata: { tag }, offset: 2, sortBy: "name", sortOrder: "asc" });
      assert.deepEqual(rest.map((row) => row.name), ["c"]);
      const [picked] = await assistants.search({ metadata: { tag }, name: "B", select: ["name", "graph_id"] });
      assert.deepEqual(picked, { name: "b", graph_id: "echo" });
    });

    test("a graph is drawn and described", async () => {
      const drawing = await assistants.getGraph("nested", { xray: true });
      assert.ok(drawing.nodes.some((node) => node.id === "child:inside"));
      assert.equal((await assistants.getSchemas("steps")).graph_id, "steps");
      assert.deepEqual(Object.keys(await assistants.getSubgraphs("nested")), ["child"]);
      const child = await assistants.getSubgraphs("nested", { namespace: "child", recurse: true });
      assert.deepEqual(Object.keys(child), ["child"]);
      await assert.rejects(assistants.getGraph(UNKNOWN_ID), /404/);
    });
  });
}
