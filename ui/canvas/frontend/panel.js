// The HTML beside the canvas: tool bar, connections of the chosen node, and the hidden list that keyboards and screen
// readers use. All text from files goes in by textContent.

import { visibleSpace } from "./draw.js";

export const LISTED = 60; // inputs and outputs shown of the chosen node

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// "feature/12/5/2034" -> what a reader wants to know about it.
export function describe(payload, node) {
  const kind = payload.nodes.kind[node];
  const token = visibleSpace(payload.tokens[payload.nodes.x[node]] ?? "");
  const layer = payload.layers[payload.nodes.y[node]];
  if (kind === "token") return `input token ${payload.nodes.x[node]}`;
  if (kind === "logit") return `output at “${token}”`;
  const index = payload.nodes.id[node].split("/")[3];
  return `${kind}${kind === "error" || index === "-1" ? "" : " " + index}, ${layer}, at “${token}”`;
}

export function percent(share) {
  const size = Math.abs(share) * 100;
  const digits = size >= 10 ? 0 : size >= 1 ? 1 : 2;
  return `${share < 0 ? "−" : "+"}${size.toFixed(digits)}%`;
}

export class Panel {
  constructor(host, actions) {
    this.actions = actions;
    this.host = host;
  }

  empty(payload) {
    this.host.replaceChildren(
      element("p", { class: "hint" }, "Click a node to see what feeds it and what it feeds. ",
        "Arrow keys walk, Space pins, Escape lets go; drag moves, Ctrl + wheel zooms."),
      this.legend(payload),
    );
  }

  legend(payload) {
    const diff = payload.mode === "diff";
    const entry = (className, text) => element("li", {}, element("span", { class: `swatch ${className}` }), text);
    return element("ul", { class: "legend" },
      entry("line positive", diff ? "stronger in B" : "raises its target"),
      entry("line negative", diff ? "stronger in A" : "lowers its target"),
      ...(diff
        ? [entry("dot a", "node only in A"), entry("dot b", "node only in B"), entry("dot both", "node in both")]
        : [entry("dot feature", "feature"), entry("diamond", "error: what the transcoder missed"),
          entry("square", "input token or output")]));
  }

  // inputs, outputs: [{link, node, w}] strongest first
  show(payload, names, node, pinned, inputs, outputs) {
    const title = element("h3", {}, names[node]);
    const pin = element("button", { class: "pin", type: "button", "aria-pressed": String(pinned), "data-action": "pin",
      onclick: () => this.actions.pin(node) }, pinned ? "Unpin" : "Pin");
    const close = element("button", { class: "plain", type: "button", "data-action": "clear", "aria-label": "Let go of this node",
      onclick: () => this.actions.choose(-1) }, "✕");
    const act = payload.nodes.act[node];
    const facts = element("p", { class: "facts" }, describe(payload, node), act === null ? "" : ` · activation ${Number(act.toPrecision(3))}`);
    this.host.replaceChildren(
      element("header", {}, title, element("span", { class: "buttons" }, pin, close)),
      facts,
      this.list("Inputs", "share of all this node receives", payload, names, inputs),
      this.list("Outputs", "share of what the target receives", payload, names, outputs),
      this.legend(payload),
    );
  }

  list(title, note, payload, names, rows) {
    const items = rows.slice(0, LISTED).map((row) => {
      const difference = payload.links.c
        ? ` (A ${row.a === null ? "–" : percent(row.a)}, B ${row.b === null ? "–" : percent(row.b)})` : "";
      return element("li", {},
        element("button", { type: "button", "data-node": payload.nodes.id[row.node], title: names[row.node] + difference,
          onclick: () => this.actions.choose(row.node),
          onmouseenter: () => this.actions.hover(row.node), onmouseleave: () => this.actions.hover(-1) },
          element("span", { class: `share ${row.w < 0 ? "negative" : "positive"}` }, percent(row.w)),
          element("span", { class: "name" }, names[row.node]),
          element("span", { class: "where" }, place(payload, row.node))));
    });
    const section = element("section", { "data-list": title.toLowerCase() },
      element("h4", {}, `${title} `, element("small", {}, `${rows.length} · ${note}`)));
    section.append(rows.length ? element("ol", {}, ...items) : element("p", { class: "hint" }, "none"));
    if (rows.length > LISTED) section.append(element("p", { class: "hint" }, `and ${rows.length - LISTED} weaker`));
    return section;
  }
}

function place(payload, node) {
  const kind = payload.nodes.kind[node];
  return kind === "token" || kind === "logit" ? kind : payload.layers[payload.nodes.y[node]];
}

// One option per node, visually hidden: the graph as a list, for keyboards and screen readers.
export class NodeList {
  constructor(host, prefix) {
    this.host = host;
    this.prefix = prefix;
  }

  fill(payload, names) {
    const all = document.createDocumentFragment();
    payload.nodes.id.forEach((id, node) => {
      const option = document.createElement("div");
      option.setAttribute("role", "option");
      option.id = `${this.prefix}-${node}`;
      option.dataset.node = id;
      option.textContent = `${names[node]}, ${describe(payload, node)}, ${id}`;
      all.append(option);
    });
    this.host.replaceChildren(all);
    this.active = -1;
  }

  mark(node) {
    if (this.active >= 0) this.host.children[this.active]?.removeAttribute("aria-selected");
    this.active = node;
    if (node >= 0) {
      this.host.children[node].setAttribute("aria-selected", "true");
      this.host.setAttribute("aria-activedescendant", `${this.prefix}-${node}`);
    } else this.host.removeAttribute("aria-activedescendant");
  }
}
