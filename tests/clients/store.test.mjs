import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { SDKS, unique } from "./sdks.mjs";

for (const sdk of SDKS) {
  test(`store, SDK ${sdk.name}: items are put, read, searched, listed and deleted`, async () => {
    const { store } = sdk.client();
    const root = unique();
    await store.putItem([root, "pets"], "cat", { legs: 4 });
    await store.putItem([root, "pets"], "bird", { legs: 2 }, { index: false, ttl: 60 });
    const cat = await store.getItem([root, "pets"], "cat");
    assert.deepEqual([cat.namespace, cat.key, cat.value], [[root, "pets"], "cat", { legs: 4 }]);
    assert.ok(cat.createdAt && cat.updatedAt);
    assert.equal(await store.getItem([root, "pets"], "dog"), null);

    const { items } = await store.searchItems([root], { filter: { legs: { $gt: 2 } }, limit: 5, offset: 0 });
    assert.deepEqual(items.map((item) => item.key), ["cat"]);
    assert.deepEqual(await store.listNamespaces({ prefix: [root], maxDepth: 2 }), { namespaces: [[root, "pets"]] });

    await store.deleteItem([root, "pets"], "cat");
    assert.equal(await store.getItem([root, "pets"], "cat"), null);
  });
}
