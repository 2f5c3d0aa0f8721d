// The pure parts of the canvas under plain node: `node layout.test.mjs FRONTEND_FOLDER`.

import assert from "node:assert/strict";
import { pathToFileURL } from "node:url";

const folder = process.argv[2];
const load = (name) => import(pathToFileURL(`${folder}/${name}`).href);
const { layout, spread, MARGIN } = await load("layout.js");
const { linkAt, nodeAt, pointOn, step } = await load("hit.js");
const links = await load("links.js");

let passed = 0;
function test(name, body) {
  try {
    body();
    passed += 1;
  } catch (error) {
    console.error(`FAILED: ${name}`);
    throw error;
  }
}

const close = (a, b, slack = 0.01) => assert.ok(Math.abs(a - b) <= slack, `${a} is not ${b}`);

test("columns fill the room, wide ones give way when it is short", () => {
  close(spread([10, 10], 100).reduce((a, b) => a + b), 100);
  const squeezed = spread([400, 16, 16], 100);
  close(squeezed.reduce((a, b) => a + b), 100);
  assert.ok(squeezed[0] > squeezed[1] && squeezed[1] >= 15.9);
  assert.deepEqual(spread([], 100), []);
});

const small = {
  tokens: ["a", "b"],
  layers: ["input", "layer 0", "output"],
  nodes: { id: ["t", "f", "g", "o"], x: [0, 1, 1, 1], y: [0, 1, 1, 2], kind: ["token", "feature", "error", "logit"] },
  links: { s: [0, 0, 1, 2], t: [1, 2, 3, 3], w: [0.5, -0.3, 0.2, -0.01] },
};

test("later tokens lie right, higher layers lie above, all inside the stage", () => {
  const place = layout(small, 600, 400);
  assert.ok(place.x[0] < place.x[1]);
  assert.ok(place.y[0] > place.y[1] && place.y[1] > place.y[3]);
  assert.notEqual(place.x[1], place.x[2]);
  for (let i = 0; i < 4; i++) {
    assert.ok(place.x[i] >= MARGIN.left && place.x[i] <= 600 - MARGIN.right);
    assert.ok(place.y[i] >= MARGIN.top && place.y[i] <= 400 - MARGIN.bottom);
  }
});

test("no two of two hundred nodes in one cell stand on each other", () => {
  const count = 200;
  const place = layout({ tokens: ["a"], layers: ["x", "y"], nodes: { x: Array(count).fill(0), y: Array(count).fill(0) } }, 700, 500);
  const seen = new Set(Array.from(place.x, (x, i) => `${x.toFixed(1)},${place.y[i].toFixed(1)}`));
  assert.equal(seen.size, count);
  for (const y of place.y) assert.ok(y <= 500 - MARGIN.bottom + 1 && y >= MARGIN.top - 1);
});

test("an empty graph has a layout", () => {
  const place = layout({ tokens: [], layers: [], nodes: { x: [], y: [] } }, 300, 300);
  assert.equal(place.x.length, 0);
});

test("the pointer finds the nearest node in reach, in zoomed coordinates too, and no hidden one", () => {
  const place = { x: Float32Array.of(10, 20, 100), y: Float32Array.of(10, 10, 10) };
  const plain = { k: 1, tx: 0, ty: 0 };
  assert.equal(nodeAt(place, plain, 18, 12, 12), 1);
  assert.equal(nodeAt(place, plain, 60, 10, 12), -1);
  assert.equal(nodeAt(place, { k: 2, tx: -20, ty: 0 }, 0, 20, 3), 0);
  assert.equal(nodeAt(place, plain, 18, 12, 12, Uint8Array.of(1, 0, 1)), 0);
});

test("arrow keys go to the nearest node of that direction and stay at the rim", () => {
  const place = { x: Float32Array.of(0, 50, 0, 300), y: Float32Array.of(0, 2, -40, 0) };
  assert.equal(step(place, 0, "ArrowRight"), 1);
  assert.equal(step(place, 0, "ArrowUp"), 2);
  assert.equal(step(place, 0, "ArrowLeft"), 0);
  assert.equal(step(place, 0, "ArrowRight", Uint8Array.of(1, 0, 1, 1)), 3);
});

test("the pointer finds the nearest link in reach, straight or curved, in zoomed coordinates too", () => {
  const place = { x: Float32Array.of(0, 100, 0, 100), y: Float32Array.of(100, 0, 160, 0) };
  const ends = { s: [0, 2], t: [1, 3] };
  const plain = { k: 1, tx: 0, ty: 0 };
  assert.equal(linkAt(place, ends, plain, 50, 52, 5, [0, 1], false), 0);
  assert.equal(linkAt(place, ends, plain, 50, 78, 5, [0, 1], false), 1);
  assert.equal(linkAt(place, ends, plain, 50, 65, 5, [0, 1], false), -1);
  assert.equal(linkAt(place, ends, plain, 50, 78, 5, [0], false), -1);
  assert.equal(linkAt(place, ends, { k: 2, tx: 10, ty: 0 }, 110, 104, 5, [0, 1], false), 0);
  for (const u of [0.1, 0.35, 0.5, 0.9]) {
    const [x, y] = pointOn(place, 0, 1, u, true);
    assert.equal(linkAt(place, ends, plain, x, y, 3, [0], true), 0, `at ${u}`);
  }
  assert.equal(linkAt(place, ends, plain, 12, 88, 3, [0], true), -1); // the curve leaves its source upwards, not aslant
  assert.deepEqual(pointOn(place, 0, 1, 0, true).map(Math.round), [0, 100]);
  assert.deepEqual(pointOn(place, 0, 1, 1, true).map(Math.round), [100, 0]);
});

test("forty thousand straight links are searched in a few frames", () => {
  const at = (n, by) => Float32Array.from({ length: n }, (_, i) => (i * by) % 1000);
  const place = { x: at(800, 37), y: at(800, 91) };
  const ends = { s: Array.from({ length: 40000 }, (_, i) => i % 800), t: Array.from({ length: 40000 }, (_, i) => (i * 7) % 800) };
  const began = performance.now();
  linkAt(place, ends, { k: 1, tx: 0, ty: 0 }, 500, 500, 5, ends.s.keys(), false);
  assert.ok(performance.now() - began < 500);
});

test("links are grouped by their ends", () => {
  const into = links.grouped(small.links.t, 4);
  assert.deepEqual(links.linksOf(into, 3), [2, 3]);
  assert.deepEqual(links.linksOf(into, 0), []);
});

test("connections come strongest first with their sign", () => {
  const into = links.grouped(small.links.t, 4);
  const rows = links.connections(small, into, small.links.s, 3);
  assert.deepEqual(rows.map((r) => [r.node, r.w]), [[1, 0.2], [2, -0.01]]);
});

test("the strongest links are drawn, error nodes can be left out", () => {
  const order = links.byStrength(small.links.w);
  const all = { count: 2, errors: true, classes: {}, floor: 0 };
  assert.deepEqual(links.visibleLinks(small, order, all), [0, 1]);
  assert.deepEqual(links.visibleLinks(small, order, { ...all, errors: false }), [0, 2]);
});

test("in a difference each class has its switch and the noise floor hides what is below it", () => {
  const payload = { ...small, links: { ...small.links, c: [0, 1, 2, 0] } };
  const order = links.byStrength(payload.links.w);
  const asked = { count: 9, errors: true, floor: 0, classes: { both: true, a: false, b: false } };
  assert.deepEqual(links.visibleLinks(payload, order, asked), [0, 3]);
  assert.deepEqual(links.visibleLinks(payload, order, { ...asked, floor: 0.1 }), [0]);
  assert.deepEqual(links.visibleLinks(payload, order, { ...asked, classes: { both: false, a: true, b: true } }), [1, 2]);
});

test("tested links are shown however weak, or alone", () => {
  const payload = { ...small, marks: { link: [3], mark: ["refuted"], predicted: [0.2], measured: [null] } };
  const tested = links.testedLinks(payload);
  assert.deepEqual(tested.get(3), { mark: "refuted", predicted: 0.2, measured: null });
  assert.equal(links.testedLinks(small).size, 0);
  const order = links.byStrength(small.links.w);
  const asked = { count: 2, errors: true, classes: {}, floor: 0, tested };
  assert.deepEqual(links.visibleLinks(payload, order, asked), [0, 1, 3]);
  assert.deepEqual(links.visibleLinks(payload, order, { ...asked, testedOnly: true }), [3]);
  assert.deepEqual(links.visibleLinks(payload, order, { ...asked, errors: false }), [0, 2]); // its source is an error node
});

test("the slider runs from one link to all and back", () => {
  assert.equal(links.countAt(0, 40000), 1);
  assert.equal(links.countAt(1, 40000), 40000);
  assert.equal(links.countAt(links.fractionFor(600, 40000), 40000), 600);
  assert.equal(links.countAt(0.5, 0), 0);
  assert.equal(links.fractionFor(3, 3), 1);
});

test("forty thousand links are sorted and filtered within a second", () => {
  const w = Array.from({ length: 40000 }, (_, i) => Math.sin(i * 12.9898));
  const payload = { nodes: { kind: Array(800).fill("feature") }, links: { s: w.map((_, i) => i % 800), t: w.map((_, i) => (i * 7) % 800), w } };
  const began = performance.now();
  const order = links.byStrength(w);
  links.grouped(payload.links.s, 800);
  assert.equal(links.visibleLinks(payload, order, { count: 600, errors: true, floor: 0 }).length, 600);
  assert.ok(performance.now() - began < 1000);
});

console.log(`${passed} passed`);
