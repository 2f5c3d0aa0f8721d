// Paint the scene on its two canvases: base (all links and nodes) and overlay (what the pointer or a click lights up).

import { widthClass } from "./links.js";
import { handles, pointOn } from "./hit.js";
import { MARGIN } from "./layout.js";

const WIDTHS = [0.6, 1.1, 2.0, 3.4];
const BASE_ALPHA = [0.22, 0.34, 0.5, 0.75];
const CURVED_UP_TO = 4000; // links; curves of more than that cost too much per frame
const DASHES = { confirmed: [], refuted: [7, 5], inconclusive: [1.5, 4] }; // px
const BADGE = 6; // px, radius

export function colours(element) {
  const style = getComputedStyle(element);
  const read = (name, fallback) => style.getPropertyValue(name).trim() || fallback;
  return {
    text: read("--st-text-color", "#222"),
    back: read("--st-background-color", "#fff"),
    soft: read("--st-secondary-background-color", "#eee"),
    primary: read("--st-primary-color", "#2563eb"),
    positive: read("--ca-positive", "#2f7de1"),
    negative: read("--ca-negative", "#e2711d"),
    confirmed: read("--ca-confirmed", "#2a9158"),
    refuted: read("--ca-refuted", "#c22f55"),
    inconclusive: read("--ca-inconclusive", "#7d838c"),
    font: read("--st-font", "sans-serif"),
  };
}

function trace(path, place, source, target, curved) {
  const x0 = place.x[source];
  const y0 = place.y[source];
  const x1 = place.x[target];
  const y1 = place.y[target];
  path.moveTo(x0, y0);
  if (curved) {
    const [ax, ay, bx, by] = handles(x0, y0, x1, y1);
    path.bezierCurveTo(ax, ay, bx, by, x1, y1);
  } else path.lineTo(x1, y1);
}

// Links in eight Path2D: sign x width class. Built once per filter change, stroked every frame.
export function bundle(payload, place, links, curved = links.length <= CURVED_UP_TO) {
  const bundles = Array.from({ length: 8 }, () => new Path2D());
  const { s, t, w } = payload.links;
  for (const link of links) {
    trace(bundles[(w[link] < 0 ? 4 : 0) + widthClass(w[link])], place, s[link], t[link], curved);
  }
  return { bundles, curved };
}

function prepare(context, scene) {
  context.setTransform(scene.ratio, 0, 0, scene.ratio, 0, 0);
  context.clearRect(0, 0, scene.width, scene.height);
}

function enterStage(context, { ratio, view }) {
  context.setTransform(ratio * view.k, 0, 0, ratio * view.k, ratio * view.tx, ratio * view.ty);
}

function clipStage(context, scene) {
  context.beginPath();
  context.rect(MARGIN.left - 12, 0, scene.width - MARGIN.left + 12, scene.height - MARGIN.bottom + 12);
  context.clip();
}

function strokeBundles(context, { bundles }, scene, alpha, wider = 0) {
  for (let i = 0; i < 8; i++) {
    context.strokeStyle = i < 4 ? scene.colours.positive : scene.colours.negative;
    context.globalAlpha = alpha[i % 4];
    context.lineWidth = (WIDTHS[i % 4] + wider) / scene.view.k;
    context.stroke(bundles[i]);
  }
  context.globalAlpha = 1;
}

// Links that an intervention tested: the line's colour stays that of its sign, the dashes say the mark, and so does a badge.
function paintTested(context, scene, links, wider) {
  const tested = links.filter((link) => scene.tested.has(link));
  if (!tested.length) return;
  const { s, t, w } = scene.payload.links;
  enterStage(context, scene);
  context.globalAlpha = 0.95;
  context.lineCap = "round";
  for (const link of tested) {
    const path = new Path2D();
    trace(path, scene.place, s[link], t[link], scene.bundle.curved);
    context.strokeStyle = w[link] < 0 ? scene.colours.negative : scene.colours.positive;
    context.lineWidth = (Math.max(1.4, WIDTHS[widthClass(w[link])]) + wider) / scene.view.k;
    context.setLineDash(DASHES[scene.tested.get(link).mark].map((length) => length / scene.view.k));
    context.stroke(path);
  }
  context.setLineDash([]);
  context.lineCap = "butt";
  context.globalAlpha = 1;
  context.setTransform(scene.ratio, 0, 0, scene.ratio, 0, 0);
}

// After the nodes, so that none hides them; one that would cover another is left out (its dashes still say it).
function paintBadges(context, scene, links) {
  const { s, t } = scene.payload.links;
  const taken = [];
  const done = new Set(); // a test is of two nodes, however many slots their links enter by
  for (const link of links) {
    const found = scene.tested.get(link);
    const pair = `${s[link]}-${t[link]}`;
    if (!found || done.has(pair)) continue;
    done.add(pair);
    const at = [0.5, 0.38, 0.62, 0.27, 0.73]
      .map((u) => pointOn(scene.place, s[link], t[link], u, scene.bundle.curved))
      .map(([x, y]) => [x * scene.view.k + scene.view.tx, y * scene.view.k + scene.view.ty])
      .find(([x, y]) => !taken.some(([a, b]) => (x - a) ** 2 + (y - b) ** 2 < (2 * BADGE + 2) ** 2));
    if (!at) continue;
    taken.push(at);
    badge(context, scene, found.mark, ...at);
  }
}

function badge(context, scene, name, x, y) {
  context.beginPath();
  context.arc(x, y, BADGE, 0, 7);
  context.fillStyle = scene.colours[name];
  context.fill();
  context.lineWidth = 1.5;
  context.strokeStyle = scene.colours.back;
  context.stroke();
  context.strokeStyle = context.fillStyle = "#fff";
  context.lineWidth = 1.6;
  context.beginPath();
  if (name === "confirmed") {
    context.moveTo(x - 3, y + 0.2);
    context.lineTo(x - 0.8, y + 2.4);
    context.lineTo(x + 3, y - 2.2);
  } else if (name === "refuted") {
    context.moveTo(x - 2.3, y - 2.3);
    context.lineTo(x + 2.3, y + 2.3);
    context.moveTo(x + 2.3, y - 2.3);
    context.lineTo(x - 2.3, y + 2.3);
  } else {
    context.font = `700 9px ${scene.colours.font}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText("?", x, y + 0.5);
  }
  context.stroke();
}

function mark(context, kind, x, y, r) {
  context.beginPath();
  if (kind === "token" || kind === "logit") context.rect(x - r, y - r, 2 * r, 2 * r);
  else if (kind === "error") {
    context.moveTo(x, y - r);
    context.lineTo(x + r, y);
    context.lineTo(x, y + r);
    context.lineTo(x - r, y);
    context.closePath();
  } else if (kind === "head") {
    context.moveTo(x, y - r);
    context.lineTo(x + r, y + r);
    context.lineTo(x - r, y + r);
    context.closePath();
  } else if (kind === "feature" || kind === "neuron") context.arc(x, y, r, 0, 7);
  else context.rect(x - r, y - r * 0.6, 2 * r, 1.2 * r);
}

export function radius(scene, node) {
  const count = scene.payload.nodes.id.length;
  const zoom = Math.min(1.8, Math.max(count < 120 ? 1.5 : count < 400 ? 1.15 : 0.95, Math.sqrt(scene.view.k)));
  return (2.2 + 3.4 * scene.payload.nodes.size[node]) * zoom;
}

function screen(scene, node) {
  return [scene.place.x[node] * scene.view.k + scene.view.tx, scene.place.y[node] * scene.view.k + scene.view.ty];
}

function paintNode(context, scene, node, strong) {
  const { colours: c } = scene;
  const kind = scene.payload.nodes.kind[node];
  const side = scene.payload.nodes.side ? scene.payload.nodes.side[node] : 0;
  const [x, y] = screen(scene, node);
  const r = radius(scene, node) + (strong ? 0.8 : 0);
  mark(context, kind, x, y, r);
  const colour = side === 1 ? c.negative : side === 2 ? c.positive : kind === "logit" || kind === "token" ? c.primary : c.text;
  const hollow = kind === "error" || (scene.payload.mode === "diff" && side === 0);
  context.fillStyle = hollow ? c.back : colour;
  context.globalAlpha = kind === "error" && !strong ? 0.55 : 1;
  context.fill();
  context.lineWidth = hollow ? 1.2 : 0.8;
  context.strokeStyle = hollow ? colour : c.back;
  context.stroke();
  context.globalAlpha = 1;
}

function shortened(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  let cut = text;
  while (cut.length > 1 && context.measureText(cut + "…").width > room) cut = cut.slice(0, -1);
  return room < 12 ? "" : cut + "…";
}

function paintBands(context, scene) {
  const { place, view, colours: c, width, height } = scene;
  const floor = height - MARGIN.bottom + 6;
  place.rows.forEach((row, i) => {
    const top = Math.max(0, row.top * view.k + view.ty);
    const bottom = Math.min(floor, (row.top + row.height) * view.k + view.ty);
    if (i % 2 === 0 || bottom <= top) return;
    context.globalAlpha = 0.6;
    context.fillStyle = c.soft;
    context.fillRect(MARGIN.left - 12, top, width, bottom - top);
  });
  context.strokeStyle = c.text;
  context.globalAlpha = 0.1;
  context.lineWidth = 1;
  context.beginPath();
  place.columns.forEach((column, i) => {
    const left = column.left * view.k + view.tx;
    if (!i || left < MARGIN.left - 12) return;
    context.moveTo(left, 0);
    context.lineTo(left, floor);
  });
  context.stroke();
  context.globalAlpha = 1;
}

// Layer names at the left, tokens below; they stay put while the stage is moved and are never dimmed.
function paintAxes(context, scene) {
  const { place, view, payload, colours: c, width, height } = scene;
  const floor = height - MARGIN.bottom;
  context.font = `12px ${c.font}`;
  context.textBaseline = "middle";
  context.textAlign = "right";
  context.fillStyle = c.text;
  context.globalAlpha = 0.7;
  let last = Infinity;
  place.rows.forEach((row, i) => {
    const middle = (row.top + row.height / 2) * view.k + view.ty;
    const crowded = last - middle < 13 && i < place.rows.length - 1;
    if (middle < 0 || middle > floor + 8 || crowded) return;
    last = middle;
    context.fillText(payload.layers[i], MARGIN.left - 18, middle);
  });
  context.globalAlpha = 1;
  context.textAlign = "center";
  place.columns.forEach((column, i) => {
    const room = column.width * view.k;
    const middle = column.left * view.k + view.tx + room / 2;
    if (middle < MARGIN.left - 12 || middle > width || room < 11) return;
    const text = visibleSpace(payload.tokens[i]);
    if (room - 6 >= Math.min(28, context.measureText(text).width)) {
      context.fillText(shortened(context, text, room - 6), middle, floor + 24);
      return;
    }
    context.save();
    context.translate(middle, floor + 12);
    context.rotate(-Math.PI / 2);
    context.textAlign = "right";
    context.fillText(shortened(context, text, MARGIN.bottom - 14), 0, 0);
    context.restore();
  });
}

export function visibleSpace(token) {
  return token.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/^ +| +$/g, (s) => "·".repeat(s.length)) || "∅";
}

export function drawBase(context, scene) {
  prepare(context, scene);
  paintBands(context, scene);
  context.save();
  clipStage(context, scene);
  enterStage(context, scene);
  strokeBundles(context, scene.bundle, scene, scene.visible.length > 6000 ? BASE_ALPHA.map((a) => a * 0.6) : BASE_ALPHA);
  context.setTransform(scene.ratio, 0, 0, scene.ratio, 0, 0);
  paintTested(context, scene, scene.visible, 0);
  for (let node = 0; node < scene.shown.length; node++) if (scene.shown[node]) paintNode(context, scene, node, false);
  paintBadges(context, scene, scene.visible);
  context.restore();
}

function ring(context, scene, node, colour, width, gap) {
  const [x, y] = screen(scene, node);
  context.beginPath();
  context.arc(x, y, radius(scene, node) + gap, 0, 7);
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke();
}

// The nodes named while nothing is chosen: the likeliest outputs and the strongest others.
export function landmarks(payload) {
  const { kind, size } = payload.nodes;
  const strongest = (wanted, most) => [...size.keys()].filter((node) => wanted(kind[node]))
    .sort((a, b) => size[b] - size[a] || a - b).slice(0, most);
  return [...strongest((k) => k === "logit", 3), ...strongest((k) => !["logit", "token", "error"].includes(k), 8)];
}

// Names beside nodes, first come first served; one that would cover another name is left out. With `shy` a name also keeps
// off every other node; without, it stands at the right (or left) whatever is there, because it was asked for.
function paintNames(context, scene, nodes, { most = 190, shy = false } = {}) {
  const taken = [];
  if (shy) {
    for (let node = 0; node < scene.shown.length; node++) {
      const [x, y] = screen(scene, node);
      const r = radius(scene, node);
      if (scene.shown[node]) taken.push([x - r, y - r, x + r, y + r]);
    }
  }
  context.font = `12px ${scene.colours.font}`;
  context.textBaseline = "middle";
  context.textAlign = "left";
  for (const node of nodes) {
    const [x, y] = screen(scene, node);
    if (x < MARGIN.left - 12 || y > scene.height - MARGIN.bottom + 10 || !scene.shown[node]) continue;
    const text = shortened(context, scene.names[node], most);
    const w = context.measureText(text).width;
    const gap = radius(scene, node) + 6;
    const places = [[x + gap, y], [x - gap - w, y]];
    if (shy) places.push([x - w / 2, y - gap - 6], [x - w / 2, y + gap + 6]);
    const box = places
      .map(([left, middle]) => [left - 3, middle - 8, left + w + 3, middle + 8])
      .filter((it) => it[0] >= MARGIN.left - 12 && it[2] <= scene.width && it[1] >= 0)
      .find((it) => !taken.some((b) => it[0] < b[2] && it[2] > b[0] && it[1] < b[3] && it[3] > b[1]));
    if (!box) continue;
    taken.push(box);
    context.globalAlpha = 0.86;
    context.fillStyle = scene.colours.back;
    context.fillRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
    context.globalAlpha = 1;
    context.fillStyle = scene.colours.text;
    context.fillText(text, box[0] + 3, (box[1] + box[3]) / 2);
  }
}

// state: {hover, click, hoverLink, chosen: links of the chosen pair, pins: Set, path: {nodes, links} | null, landmarks,
// incident(node) -> links}
export function drawOverlay(context, scene, state) {
  prepare(context, scene);
  paintAxes(context, scene);
  const lit = [];
  for (const node of [state.hover, state.click]) if (node >= 0 && !lit.includes(node)) lit.push(node);
  const links = new Set();
  for (const node of lit) for (const link of state.incident(node)) links.add(link);
  const pinned = [...state.pins];
  for (const node of pinned) {
    for (const link of state.incident(node)) {
      const { s, t } = scene.payload.links;
      if (state.pins.has(s[link]) && state.pins.has(t[link])) links.add(link);
    }
  }
  if (state.path) for (const link of state.path.links) links.add(link);
  for (const link of state.chosen) links.add(link);
  const quiet = !links.size && state.hoverLink >= 0; // only a link under the pointer: the rest stays as it is
  if (state.hoverLink >= 0) links.add(state.hoverLink);
  if (!links.size && !lit.length && !pinned.length && !state.path) {
    paintNames(context, scene, state.landmarks, { most: 150, shy: true });
    return;
  }

  context.save();
  clipStage(context, scene);
  enterStage(context, scene);
  const drawn = [...links].slice(0, 3000);
  const strong = bundle(scene.payload, scene.place, drawn.filter((link) => !scene.tested.has(link)), scene.bundle.curved);
  strokeBundles(context, strong, scene, [0.45, 0.7, 0.85, 0.95], state.hoverLink >= 0 || state.chosen.length ? 1.2 : 0.4);
  context.setTransform(scene.ratio, 0, 0, scene.ratio, 0, 0);
  paintTested(context, scene, drawn, 0.6);
  const ends = new Set();
  for (const link of links) {
    ends.add(scene.payload.links.s[link]);
    ends.add(scene.payload.links.t[link]);
  }
  for (const node of [...lit, ...pinned, ...(state.path ? state.path.nodes : [])]) ends.add(node);
  for (const node of ends) paintNode(context, scene, node, true);
  for (const node of pinned) ring(context, scene, node, scene.colours.primary, 1.6, 3);
  if (state.path) for (const node of state.path.nodes) ring(context, scene, node, scene.colours.primary, 1.6, 3);
  if (state.hover >= 0) ring(context, scene, state.hover, scene.colours.text, 1.2, 3.5);
  if (state.click >= 0) ring(context, scene, state.click, scene.colours.primary, 2.6, 4);
  const chosenEnds = state.chosen.length ? [scene.payload.links.s[state.chosen[0]], scene.payload.links.t[state.chosen[0]]] : [];
  for (const node of chosenEnds) ring(context, scene, node, scene.colours.primary, 2, 4);
  paintBadges(context, scene, drawn);
  context.restore();
  if (quiet) paintNames(context, scene, state.landmarks, { most: 150, shy: true });
  else paintNames(context, scene, [...new Set([...lit.reverse(), ...chosenEnds, ...(state.path ? state.path.nodes : []), ...pinned])]);
}
