// Shows the OpenAPI document and sends requests to the API that it is of.
"use strict";

const $ = id => document.getElementById(id);

// make builds an element; text is never read as markup.
function make(tag, text, ...children) {
  const e = document.createElement(tag);
  if (text) e.textContent = text;
  e.append(...children);
  return e;
}

const refName = s => s && s.$ref ? s.$ref.split("/").pop() : "";

function typeText(s) {
  if (!s) return "";
  if (s.$ref) return refName(s);
  const t = Array.isArray(s.type) ? s.type.filter(x => x !== "null").join(" or ") : s.type || "any";
  if (t === "array") return "list of " + typeText(s.items);
  if (t === "object" && s.additionalProperties && typeof s.additionalProperties === "object")
    return "map to " + typeText(s.additionalProperties);
  return s.format && s.format !== "int64" && s.format !== "double" ? t + " (" + s.format + ")" : t;
}

function link(s) {
  const name = refName(s) || refName(s && s.items);
  const cell = make("td");
  if (!name) cell.textContent = typeText(s);
  else { const a = make("a", typeText(s)); a.href = "#type-" + name; cell.append(a); }
  return cell;
}

function row(name, required, schema, about) {
  const n = make("td", "", make("code", name));
  if (required) n.classList.add("required");
  return make("tr", "", n, link(schema), make("td", about || ""));
}

// example is a body to begin with: the fields that must be there.
function example(doc, schema, depth = 0) {
  if (!schema || depth > 4) return null;
  if (schema.$ref) return example(doc, doc.components.schemas[refName(schema)], depth + 1);
  const t = Array.isArray(schema.type) ? schema.type[0] : schema.type;
  if (t === "object") {
    const out = {};
    for (const f of schema.required || []) out[f] = example(doc, schema.properties[f], depth + 1);
    return out;
  }
  return { array: [], string: "", integer: 0, number: 0, boolean: false }[t] ?? null;
}

function tryOut(doc, path, method, op) {
  const box = make("div"), inputs = [];
  for (const p of op.parameters || []) {
    const i = make("input");
    inputs.push([p, i]);
    box.append(make("label", p.name + " ", i), " ");
  }
  let body;
  const content = op.requestBody && op.requestBody.content;
  if (content) {
    body = make("textarea");
    const schema = content["application/json"] && content["application/json"].schema;
    if (schema) body.value = JSON.stringify(example(doc, schema), null, 2);
    box.append(body);
  }
  const send = make("button", "Send"), stop = make("button", "Stop"), out = make("pre");
  stop.hidden = out.hidden = true;
  let abort;
  stop.onclick = () => abort.abort();
  send.onclick = async () => {
    abort = new AbortController();
    send.disabled = true; stop.hidden = out.hidden = false; out.textContent = "";
    try { await request(path, method, inputs, content && body.value, content, out, abort.signal); }
    catch (e) { out.textContent += "\n" + e; }
    send.disabled = false; stop.hidden = true;
  };
  box.append(make("div", "", send, " ", stop), out);
  return box;
}

async function request(path, method, inputs, body, content, out, signal) {
  const query = new URLSearchParams(), headers = {};
  for (const [p, i] of inputs) {
    if (i.value === "") continue;
    if (p.in === "path") path = path.replace("{" + p.name + "}", encodeURIComponent(i.value));
    else if (p.in === "query") query.append(p.name, i.value);
    else headers[p.name] = i.value;
  }
  if ($("key").value) headers.Authorization = "Bearer " + $("key").value;
  if (body) headers["Content-Type"] = Object.keys(content)[0];
  const url = path + (query.size ? "?" + query : "");
  const res = await fetch(url, { method: method.toUpperCase(), headers, body: body || undefined, signal });
  out.textContent = res.status + " " + res.statusText + "\n";
  const reader = res.body.getReader(), decoder = new TextDecoder();
  let text = "";
  for (let part; !(part = await reader.read()).done;) {
    text = (text + decoder.decode(part.value, { stream: true })).slice(-100000);
    out.textContent = res.status + " " + res.statusText + "\n" + pretty(text);
  }
}

function pretty(text) {
  try { return JSON.stringify(JSON.parse(text), null, 2); } catch { return text; }
}

function operation(doc, path, method, op) {
  const d = make("details"), head = make("summary");
  head.append(make("span", method.toUpperCase()), make("span", path), make("span", op.summary));
  head.children[0].className = "method"; head.children[1].className = "path"; head.children[2].className = "about";
  d.append(head);
  d.dataset.words = (method + " " + path + " " + op.summary + " " + (op.tags || "")).toLowerCase();
  d.addEventListener("toggle", () => {
    if (!d.open || d.dataset.shown) return;
    d.dataset.shown = "yes";
    if (op.description) d.append(make("p", op.description));
    const rows = (op.parameters || []).map(p => row(p.name + " (" + p.in + ")", p.required, p.schema, p.description));
    for (const [type, m] of Object.entries((op.requestBody || {}).content || {}))
      rows.push(row("body, " + type, op.requestBody.required, m.schema, ""));
    for (const [status, r] of Object.entries(op.responses || {}))
      for (const [type, m] of Object.entries(r.content || { "": {} }))
        if (status < 400) rows.push(row(status + (type && ", " + type), false, m.schema, r.description));
    d.append(make("table", "", ...rows), tryOut(doc, path, method, op));
  });
  return d;
}

function show(doc) {
  $("about").textContent = doc.info.description;
  const groups = new Map();
  for (const [path, item] of Object.entries(doc.paths))
    for (const method of ["get", "post", "put", "patch", "delete"])
      if (item[method]) {
        const tag = (item[method].tags || ["Other"])[0];
        if (!groups.has(tag)) groups.set(tag, []);
        groups.get(tag).push(operation(doc, path, method, item[method]));
      }
  for (const [tag, list] of groups) $("operations").append(make("h2", tag), ...list);
  for (const name of Object.keys(doc.components.schemas).sort()) {
    const s = doc.components.schemas[name], d = make("details", "", make("summary", "", make("code", name)));
    d.id = "type-" + name;
    if (s.description) d.append(make("p", s.description));
    d.append(make("table", "", ...Object.entries(s.properties || {}).map(
      ([f, p]) => row(f, (s.required || []).includes(f), p, p.description))));
    $("types").append(d);
  }
}

$("filter").addEventListener("input", () => {
  const words = $("filter").value.toLowerCase().split(/\s+/);
  for (const d of $("operations").querySelectorAll("details")) d.hidden = !words.every(w => d.dataset.words.includes(w));
});
addEventListener("hashchange", () => { const d = $(location.hash.slice(1)); if (d) d.open = true; });
fetch("/openapi.json").then(r => r.json()).then(show, e => $("operations").append(make("p", "" + e)));
