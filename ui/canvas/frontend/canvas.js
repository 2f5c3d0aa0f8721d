// The attribution-graph canvas: events, state, and the default export that Streamlit calls on mount, new data and new theme.
// The big constant payload comes in here; what is chosen travels through the bridge (bridge.js), so that a click sends a
// few bytes and Python answers with the card alone.

import { layout, MARGIN } from "./layout.js";
import { linkAt, nodeAt, pointOn, step } from "./hit.js";
import { byStrength, connections, countAt, fractionFor, grouped, linksOf, testedLinks, visibleLinks } from "./links.js";
import { bundle, colours, drawBase, drawOverlay, landmarks, visibleSpace } from "./draw.js";
import { element, LISTED, NodeList, Panel, percent, said } from "./panel.js";

const FIRST_LINKS = 600; // drawn before the reader asks for more
const SMALL = 1200; // a graph of up to this many links is drawn whole
const BURST = 150; // ms; arrow keys held down are sent at most this often
const REACH = 12; // px around the pointer in which a node is meant
const LINK_REACH = 5; // px, for a link

const hub = (window.circuitAtlas ??= { canvases: {}, bridges: {}, views: {} });
const instances = new WeakMap();
const remembered = new Map(); // zoom by circuit, for the life of the tab

class Canvas {
  constructor(parent) {
    this.root = element("div", { class: "ca", "data-ready": "no", "data-frames": "0" });
    this.stage = element("div", { class: "stage" });
    this.base = element("canvas", { class: "base", "aria-hidden": "true" });
    this.overlay = element("canvas", { class: "overlay", "aria-hidden": "true" });
    this.tip = element("div", { class: "tip", hidden: "" });
    this.options = element("div", { class: "unseen", role: "listbox", tabindex: "0", "aria-label": "Nodes of the attribution graph" });
    this.live = element("div", { class: "unseen", "aria-live": "polite" });
    this.aside = element("aside", { "aria-label": "Connections" });
    this.bar = element("div", { class: "bar" });
    this.stage.append(this.base, this.overlay, this.options, this.tip);
    this.root.append(this.bar, element("div", { class: "body" }, this.stage, this.aside), this.live);
    parent.append(this.root);
    this.list = new NodeList(this.options, "ca-node");
    this.panel = new Panel(this.aside, {
      choose: (node) => this.choose(node),
      chooseLink: (link) => this.chooseLink(link),
      pin: (node) => this.pin(node),
      hover: (node) => this.hoverOn(node),
    });
    this.click = -1;
    this.link = -1; // chosen; never both a node and a link
    this.hover = -1;
    this.hoverLink = -1;
    this.pins = new Set();
    this.seq = 0;
    this.frames = 0;
    this.listen();
  }

  // --- data -------------------------------------------------------------------------------------------------------

  update(data) {
    if (!data || typeof data !== "object" || !data.nodes) {
      this.root.dataset.error = "the payload is not an object";
      return;
    }
    this.colours = colours(this.root);
    const same = this.payload && this.payload.key === data.key && this.payload.rev === data.rev;
    if (same) {
      this.draw();
      return;
    }
    const sameCircuit = this.payload && this.payload.key === data.key;
    this.payload = data;
    hub.canvases[data.slot] = this;
    const count = data.nodes.id.length;
    this.row = new Map(data.nodes.id.map((id, i) => [id, i]));
    this.names = data.nodes.label.map(visibleSpace);
    this.into = grouped(data.links.t, count);
    this.outOf = grouped(data.links.s, count);
    this.order = byStrength(data.links.w);
    this.path = data.path || null;
    this.tested = testedLinks(data);
    this.testedOnly = false;
    this.hoverLink = -1;
    if (!sameCircuit) {
      this.click = this.link = -1;
      this.pins = new Set();
      this.seq = 0;
      this.known = landmarks(data);
      this.view = remembered.get(data.key) || { k: 1, tx: 0, ty: 0 };
      this.errors = true;
      const changed = data.links.c ? data.links.c.includes(0) : false; // what both have tells most; without it, all
      this.classes = { both: true, a: !changed, b: !changed };
      this.floor = data.floor || 0;
      this.count = data.links.w.length <= SMALL ? data.links.w.length : FIRST_LINKS;
    }
    this.hover = -1;
    this.list.fill(data, this.names);
    this.fillBar();
    this.resize();
    Object.assign(this.root.dataset, { mode: data.mode, nodes: count, links: data.links.w.length, tested: this.tested.size, key: data.key });
    const view = hub.views[data.slot];
    if (view && view.key === data.key) this.receive(view);
    this.reflect();
    this.root.dataset.ready = "yes";
  }

  // What Python (the address, the back button) says is chosen. An echo of an older click than ours is ignored.
  receive(view) {
    if (!this.payload || view.key !== this.payload.key || view.seq < this.seq) return;
    this.seq = view.seq;
    this.click = this.row.get(view.click) ?? -1;
    this.link = this.click < 0 && view.edge ? this.strongest(...view.edge.split("->")) : -1;
    this.pins = new Set(view.pins.map((id) => this.row.get(id)).filter((node) => node !== undefined));
    this.reflect();
  }

  send() {
    this.seq += 1;
    clearTimeout(this.timer);
    const wait = Math.max(0, (this.lastSent || 0) + BURST - performance.now());
    this.timer = setTimeout(() => {
      this.lastSent = performance.now();
      const bridge = hub.bridges[this.payload.slot];
      const id = this.payload.nodes.id;
      if (bridge) {
        bridge({ key: this.payload.key, seq: this.seq, click: this.click < 0 ? "" : id[this.click], edge: this.edgeKey(), pins: [...this.pins].map((n) => id[n]) });
      }
    }, wait);
  }

  choose(node) {
    if (node === this.click && this.link < 0) return;
    this.click = node;
    this.link = -1;
    this.reflect();
    this.send();
  }

  chooseLink(link) {
    if (link === this.link) return;
    this.link = link;
    this.click = -1;
    this.hoverLink = -1;
    this.reflect();
    this.send();
  }

  // "source->target" of the chosen link, by node keys.
  edgeKey() {
    if (this.link < 0) return "";
    const { links, nodes } = this.payload;
    return `${nodes.id[links.s[this.link]]}->${nodes.id[links.t[this.link]]}`;
  }

  // Links from one node to another (several where they enter by different slots), strongest first.
  between(source, target) {
    const { t, w } = this.payload.links;
    return linksOf(this.outOf, source).filter((link) => t[link] === target).sort((a, b) => Math.abs(w[b]) - Math.abs(w[a]));
  }

  strongest(source, target) {
    const ends = [this.row.get(source), this.row.get(target)];
    return ends.includes(undefined) ? -1 : this.between(...ends)[0] ?? -1;
  }

  chosenLinks() {
    return this.link < 0 ? [] : this.between(this.payload.links.s[this.link], this.payload.links.t[this.link]);
  }

  pin(node) {
    if (node < 0) return;
    if (!this.pins.delete(node)) this.pins.add(node);
    this.reflect();
    this.send();
  }

  hoverOn(node) {
    if (node === this.hover) return;
    this.hover = node;
    this.drawSoon("overlay");
  }

  // Bring everything outside the canvases in line with the state.
  reflect() {
    const { payload, root } = this;
    if (!payload) return;
    const id = payload.nodes.id;
    root.dataset.click = this.click < 0 ? "" : id[this.click];
    root.dataset.edge = this.edgeKey();
    root.dataset.pins = [...this.pins].map((n) => id[n]).join(",");
    this.list.mark(this.click);
    if (this.link >= 0) {
      this.panel.showLink(payload, this.names, this.chosenLinks(), this.tested.get(this.link));
      this.live.textContent = `${this.names[payload.links.s[this.link]]} to ${this.names[payload.links.t[this.link]]} chosen`;
    } else if (this.click < 0) this.panel.empty(payload);
    else {
      const { s, t, a, b } = payload.links;
      const both = (rows) => rows.map((row) => ({ ...row, a: a ? a[row.link] : null, b: b ? b[row.link] : null }));
      this.panel.show(payload, this.names, this.click, this.pins.has(this.click),
        both(connections(payload, this.into, s, this.click)), both(connections(payload, this.outOf, t, this.click)), this.tested);
      this.live.textContent = `${this.names[this.click]} chosen`;
    }
    this.drawSoon("overlay");
  }

  // --- tool bar ---------------------------------------------------------------------------------------------------

  fillBar() {
    const { payload } = this;
    const total = payload.links.w.length;
    const amount = element("output", {});
    const slider = element("input", { type: "range", min: "0", max: "1", step: "0.005", "aria-label": "How many links are drawn",
      value: String(fractionFor(this.count, total)),
      oninput: (event) => {
        this.count = countAt(Number(event.target.value), total);
        this.filter();
      } });
    this.amount = amount;
    const check = (text, on, change) => element("label", {},
      Object.assign(element("input", { type: "checkbox", onchange: (e) => { change(e.target.checked); this.filter(); } }), { checked: on }), text);
    const zoom = (text, label, act) => element("button", { type: "button", "aria-label": label, title: label, onclick: act }, text);
    const middle = () => [this.width / 2, this.height / 2];
    this.bar.replaceChildren(
      element("label", {}, "Strongest links", slider, amount),
      ...(payload.links.c ? this.classChecks(check) : []),
      payload.nodes.kind.includes("error") ? check("error nodes", this.errors, (on) => { this.errors = on; }) : "",
      this.tested.size ? check(`tested only (${this.tested.size})`, this.testedOnly, (on) => { this.testedOnly = on; }) : "",
      element("span", { class: "zoom" }, zoom("−", "Zoom out", () => this.zoom(1 / 1.4, ...middle())),
        zoom("+", "Zoom in", () => this.zoom(1.4, ...middle())),
        zoom("Fit", "Show the whole graph", () => this.setView({ k: 1, tx: 0, ty: 0 }))));
  }

  classChecks(check) {
    const counts = [0, 0, 0];
    for (const c of this.payload.links.c) counts[c]++;
    return [
      check(`in both (${counts[0]})`, this.classes.both, (on) => { this.classes.both = on; }),
      check(`only A (${counts[1]})`, this.classes.a, (on) => { this.classes.a = on; }),
      check(`only B (${counts[2]})`, this.classes.b, (on) => { this.classes.b = on; }),
      this.payload.floor
        ? check("above noise only", this.floor > 0, (on) => { this.floor = on ? this.payload.floor : 0; }) : "",
    ];
  }

  filter() {
    const { payload } = this;
    this.visible = visibleLinks(payload, this.order, this);
    this.shown = Uint8Array.from(payload.nodes.kind, (kind) => (this.errors || kind !== "error" ? 1 : 0));
    this.amount.textContent = `${this.visible.length} of ${payload.links.w.length}`;
    this.root.dataset.drawn = String(this.visible.length);
    this.bundled = bundle(payload, this.place, this.visible.filter((link) => !this.tested.has(link)));
    this.drawSoon("base");
  }

  // --- drawing ----------------------------------------------------------------------------------------------------

  resize() {
    const box = this.stage.getBoundingClientRect();
    if (!this.payload || box.width < 20) return;
    this.width = box.width;
    this.height = box.height;
    this.ratio = window.devicePixelRatio || 1;
    for (const canvas of [this.base, this.overlay]) {
      canvas.width = Math.round(this.width * this.ratio);
      canvas.height = Math.round(this.height * this.ratio);
    }
    this.place = layout(this.payload, this.width, this.height);
    this.filter();
    this.draw();
  }

  scene() {
    const { payload, place, view, width, height, ratio, visible, shown, names, tested } = this;
    return { payload, place, view, width, height, ratio, visible, shown, names, tested, bundle: this.bundled, colours: this.colours };
  }

  // The links that light up with a node: its strongest inputs and outputs, as many as the panel lists.
  incident(node) {
    const { s, t } = this.payload.links;
    const strongest = (group, ends) => connections(this.payload, group, ends, node)
      .filter((row) => this.passes(row.link)).slice(0, LISTED).map((row) => row.link);
    return [...strongest(this.into, s), ...strongest(this.outOf, t)];
  }

  passes(link) {
    const { s, t, c } = this.payload.links;
    const kind = this.payload.nodes.kind;
    if (!this.errors && (kind[s[link]] === "error" || kind[t[link]] === "error")) return false;
    return !c || (c[link] === 0 ? this.classes.both : c[link] === 1 ? this.classes.a : this.classes.b);
  }

  drawSoon(layer) {
    this.stale = this.stale === "base" || layer === "base" ? "base" : "overlay";
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw(this.stale);
      this.stale = null;
    });
  }

  draw(layer = "base") {
    if (!this.place) return;
    const scene = this.scene();
    const state = { hover: this.hover, click: this.click, hoverLink: this.hoverLink, chosen: this.chosenLinks(), pins: this.pins, path: this.path,
      landmarks: this.known, incident: (node) => this.incident(node) };
    if (layer === "base") drawBase(this.base.getContext("2d"), scene);
    drawOverlay(this.overlay.getContext("2d"), scene, state);
    const focused = this.hover >= 0 || this.click >= 0 || this.link >= 0 || this.path;
    this.base.style.opacity = focused ? "0.38" : "1";
    this.frames += 1;
    this.root.dataset.frames = String(this.frames);
  }

  setView(view) {
    this.view = view;
    remembered.set(this.payload.key, view);
    this.drawSoon("base");
  }

  zoom(factor, px, py) {
    const k = Math.min(24, Math.max(1, this.view.k * factor));
    const ratio = k / this.view.k;
    this.setView(k === 1 ? { k: 1, tx: 0, ty: 0 } : { k, tx: px - (px - this.view.tx) * ratio, ty: py - (py - this.view.ty) * ratio });
  }

  // Where a node is on the page, for tests.
  locate(id) {
    const node = this.row.get(id);
    const box = this.stage.getBoundingClientRect();
    return { x: box.left + this.place.x[node] * this.view.k + this.view.tx, y: box.top + this.place.y[node] * this.view.k + this.view.ty };
  }

  // The middle of a link on the page, for tests.
  locateLink(source, target) {
    const link = this.strongest(source, target);
    const { s, t } = this.payload.links;
    const [x, y] = pointOn(this.place, s[link], t[link], 0.5, this.bundled.curved);
    const box = this.stage.getBoundingClientRect();
    return { x: box.left + x * this.view.k + this.view.tx, y: box.top + y * this.view.k + this.view.ty };
  }

  // --- events -----------------------------------------------------------------------------------------------------

  listen() {
    const at = (event) => {
      const box = this.stage.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    const under = (event) => nodeAt(this.place, this.view, ...at(event), REACH, this.shown);
    const linkUnder = (event) => this.linkUnder(...at(event));
    this.stage.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || !this.place) return;
      this.drag = { from: at(event), view: this.view, moved: false };
      this.stage.setPointerCapture(event.pointerId);
    });
    this.stage.addEventListener("pointermove", (event) => {
      if (!this.place) return;
      const [px, py] = at(event);
      if (this.drag) {
        const dx = px - this.drag.from[0];
        const dy = py - this.drag.from[1];
        if (Math.abs(dx) + Math.abs(dy) > 4) this.drag.moved = true;
        if (this.drag.moved) this.setView({ k: this.drag.view.k, tx: this.drag.view.tx + dx, ty: this.drag.view.ty + dy });
        return;
      }
      const node = under(event);
      const link = node < 0 ? linkUnder(event) : -1;
      this.hoverOn(node);
      if (link !== this.hoverLink) {
        this.hoverLink = link;
        this.drawSoon("overlay");
      }
      this.stage.style.cursor = node >= 0 || link >= 0 ? "pointer" : "grab";
      this.showTip(node, link, px, py);
    });
    this.stage.addEventListener("pointerup", (event) => {
      const drag = this.drag;
      this.drag = null;
      if (!drag || drag.moved) return;
      this.options.focus({ preventScroll: true });
      const node = under(event);
      const link = node < 0 ? linkUnder(event) : -1;
      if (event.shiftKey) this.pin(node);
      else if (link >= 0) this.chooseLink(link);
      else this.choose(node);
    });
    this.stage.addEventListener("pointerleave", () => {
      this.hoverOn(-1);
      this.hoverLink = -1;
      this.drawSoon("overlay");
      this.tip.hidden = true;
    });
    this.stage.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // the page keeps its scroll
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * 0.004), ...at(event));
    }, { passive: false });
    this.options.addEventListener("click", (event) => {
      const id = event.target.dataset?.node;
      if (id !== undefined) this.choose(this.row.get(id));
    });
    this.options.addEventListener("keydown", (event) => this.key(event));
    this.observer = new ResizeObserver(() => {
      const box = this.stage.getBoundingClientRect();
      if (Math.abs(box.width - this.width) > 1 || Math.abs(box.height - this.height) > 1) this.resize();
    });
    this.observer.observe(this.stage);
  }

  // Lit links (of the chosen node, or of the path) come before the others, which are dimmed while something is lit.
  linkUnder(px, py) {
    const find = (links) => linkAt(this.place, this.payload.links, this.view, px, py, LINK_REACH, links, this.bundled.curved);
    const lit = this.click >= 0 ? this.incident(this.click) : this.path ? this.path.links : [];
    const found = find(lit);
    return found >= 0 ? found : find(this.visible);
  }

  key(event) {
    if (!this.place || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key.startsWith("Arrow")) {
      const from = this.link >= 0 ? this.payload.links.t[this.link] : this.click;
      this.choose(from < 0 ? this.shown.indexOf(1) : step(this.place, from, event.key, this.shown));
    } else if (event.key === " " || event.key === "Enter") this.pin(this.click);
    else if (event.key === "Escape") this.choose(-1);
    else return;
    event.preventDefault();
  }

  showTip(node, link, px, py) {
    this.tip.hidden = node < 0 && link < 0;
    if (this.tip.hidden) return;
    const { nodes, links, layers } = this.payload;
    const act = node < 0 ? null : nodes.act[node];
    const lines = node >= 0
      ? [this.names[node], `${nodes.kind[node]} · ${layers[nodes.y[node]]}${act === null ? "" : ` · ${Number(act.toPrecision(3))}`}`]
      : [`${this.names[links.s[link]]} → ${this.names[links.t[link]]}`, `${percent(links.w[link])} · ${said(this.tested.get(link))}`];
    this.tip.replaceChildren(element("b", {}, lines[0]), element("span", {}, lines[1]));
    this.tip.style.left = `${Math.min(px + 14, this.width - 180)}px`;
    this.tip.style.top = `${Math.min(py + 14, this.height - MARGIN.bottom)}px`;
  }

  destroy() {
    this.observer.disconnect();
    clearTimeout(this.timer);
    if (this.frame) cancelAnimationFrame(this.frame);
    if (this.payload && hub.canvases[this.payload.slot] === this) delete hub.canvases[this.payload.slot];
    this.root.remove();
  }
}

export default function (component) {
  const { parentElement, data } = component;
  let canvas = instances.get(parentElement);
  if (!canvas) {
    canvas = new Canvas(parentElement);
    instances.set(parentElement, canvas);
  }
  canvas.update(data);
  return () => {
    canvas.destroy();
    instances.delete(parentElement);
  };
}
