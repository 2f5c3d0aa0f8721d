// What is connected to what, and which links are strong enough to be drawn. Pure, no DOM.

// Links grouped by node: links of node i are list[start[i] .. start[i + 1]).
export function grouped(ends, nodeCount) {
  const start = new Uint32Array(nodeCount + 1);
  for (const end of ends) start[end + 1]++;
  for (let i = 0; i < nodeCount; i++) start[i + 1] += start[i];
  const next = start.slice();
  const list = new Uint32Array(ends.length);
  ends.forEach((end, link) => {
    list[next[end]++] = link;
  });
  return { start, list };
}

export function linksOf(group, node) {
  return Array.from(group.list.subarray(group.start[node], group.start[node + 1]));
}

// Link numbers, strongest first.
export function byStrength(weights) {
  return Uint32Array.from(weights.keys()).sort((a, b) => Math.abs(weights[b]) - Math.abs(weights[a]) || a - b);
}

// The slider is logarithmic: 0 -> 1 link, 1 -> all.
export function countAt(fraction, total) {
  if (!total || fraction >= 1) return total;
  return Math.max(1, Math.round(Math.pow(total, fraction)));
}

export function fractionFor(count, total) {
  if (total <= 1 || count >= total) return 1;
  return Math.log(Math.max(1, count)) / Math.log(total);
}

// Width class 0..3 of a signed share.
export function widthClass(weight) {
  const size = Math.abs(weight);
  return size >= 0.2 ? 3 : size >= 0.06 ? 2 : size >= 0.015 ? 1 : 0;
}

// Link -> what an intervention said of it: {mark: "confirmed" | "refuted" | "inconclusive", predicted, measured}.
export function testedLinks({ marks }) {
  if (!marks) return new Map();
  const { link, mark, predicted, measured } = marks;
  return new Map(link.map((number, i) => [number, { mark: mark[i], predicted: predicted[i], measured: measured[i] }]));
}

// Which links are shown: the `count` strongest among those that pass, and every tested one, however weak. classes: {both, a, b}
// switches of the diff mode; tested: Map of tested links; testedOnly: leave out all others.
export function visibleLinks(payload, order, { count, errors, classes, floor, tested, testedOnly }) {
  const { s, t, w, c } = payload.links;
  const kind = payload.nodes.kind;
  const out = [];
  let left = count;
  for (const link of order) {
    const asked = tested?.has(link);
    if (!asked && (testedOnly || left <= 0)) {
      if (!tested?.size) break;
      continue;
    }
    if (!errors && (kind[s[link]] === "error" || kind[t[link]] === "error")) continue;
    if (c) {
      if (c[link] === 0 ? !classes.both : c[link] === 1 ? !classes.a : !classes.b) continue;
      if (Math.abs(w[link]) < floor) continue;
    }
    out.push(link);
    left -= 1;
  }
  return out;
}

// Connections of one node, strongest first: [{link, node, w}].
export function connections(payload, group, otherEnd, node) {
  return linksOf(group, node)
    .map((link) => ({ link, node: otherEnd[link], w: payload.links.w[link] }))
    .sort((a, b) => Math.abs(b.w) - Math.abs(a.w) || a.link - b.link);
}
