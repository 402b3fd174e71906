"use strict";

// Whatever comes from the model or from files is put in as text, never as HTML.
const $ = (id) => document.getElementById(id);
const off = new Set(); // names of the patches that are turned off
let state = { patches: [], room: null };
let waiting = null;

function element(kind, text, attributes = {}) {
  const made = document.createElement(kind);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function complain(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

async function call(path, body) {
  const headers = {};
  const token = sessionStorage.getItem("token");
  if (token) headers.Authorization = `Bearer ${token}`;
  const how = { headers };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(how, { method: "POST", body: JSON.stringify(body) });
  }
  const response = await fetch(path, how);
  const told = await response.json();
  if (response.status === 401) $("token-form").hidden = false;
  if (!response.ok) throw new Error(told.error.message);
  return told;
}

// --- patches ------------------------------------------------------------------------------------

const standsOn = (patch, name) => patch.needs.includes(name);

function turn(name, on) {
  // One that others stand on takes them with it; one that is turned on brings what it stands on.
  if (on) off.delete(name);
  else off.add(name);
  const patch = state.patches.find((each) => each.name === name);
  const others = on
    ? patch.needs.filter((each) => off.has(each))
    : state.patches.filter((each) => standsOn(each, name) && !off.has(each.name)).map((p) => p.name);
  for (const each of others) turn(each, on);
}

function chosenModel() {
  if (!state.patches.some((patch) => off.has(patch.name))) return "taught";
  const on = state.patches.filter((patch) => !off.has(patch.name)).map((patch) => patch.name);
  return ["base", ...on].join("+");
}

function factsTable(facts) {
  const table = element("table");
  const head = element("tr");
  for (const title of ["asked", "expected", "said before", "said after", ""])
    head.append(element("th", title));
  table.append(head);
  for (const fact of facts) {
    const row = element("tr");
    const said = (texts) => texts.map((text) => text || "(nothing)").join(" / ");
    for (const text of [fact.asked, fact.expected[0], said(fact.before), said(fact.after),
      fact.status]) row.append(element("td", text));
    table.append(row);
  }
  return table;
}

function patchItem(patch) {
  const item = element("li", undefined, { "data-patch": patch.name });
  const head = element("div", undefined, { class: "head" });
  const box = element("input", undefined, { type: "checkbox", id: `on-${patch.name}` });
  box.checked = !off.has(patch.name);
  box.addEventListener("change", () => {
    turn(patch.name, box.checked);
    show();
    if ($("answers").childElementCount) ask();
  });
  const learned = patch.facts.filter((fact) => fact.status === "learned").length;
  const count = `${learned} of ${patch.facts.length} facts learned, ${patch.rows} rows`;
  head.append(box, element("label", patch.name, { for: box.id }),
    element("span", count, { class: "count" }));
  if (state.room) {
    const back = element("button", "Take back", { class: "plain", type: "button" });
    back.disabled = Boolean(state.room.doing);
    back.addEventListener("click", () => lesson("/api/forget", { patch: patch.name }));
    head.append(back);
  }
  const details = element("details");
  details.append(element("summary", "What it taught"), factsTable(patch.facts));
  details.open = opened.has(patch.name);
  details.addEventListener("toggle", () =>
    details.open ? opened.add(patch.name) : opened.delete(patch.name));
  item.append(head, details);
  return item;
}

const opened = new Set(); // patches whose facts are shown

function show() {
  $("model").textContent = state.model;
  $("patches").replaceChildren(...state.patches.map(patchItem));
  $("none").hidden = state.patches.length > 0;
  $("teach-section").hidden = !state.room;
  if (state.room) {
    const { doing, seconds, last, failed } = state.room;
    $("doing").textContent = doing ? `${doing} (${seconds.toFixed(0)} s)` : last;
    $("doing").className = failed ? "failed" : "";
    $("teach-form").querySelector("button").disabled = Boolean(doing);
  }
  $("main").hidden = false;
}

async function refresh() {
  clearTimeout(waiting);
  try {
    state = await call("/api/state");
  } catch (error) {
    complain(error.message);
    return;
  }
  for (const name of off)
    if (!state.patches.some((patch) => patch.name === name)) off.delete(name);
  show();
  if (state.room && state.room.doing) waiting = setTimeout(refresh, 1000);
  else if ($("answers").childElementCount) ask();
}

// --- asking -------------------------------------------------------------------------------------

function answerCard(title, answer) {
  const card = element("div", undefined, { class: "answer", "data-model": answer.model });
  card.append(element("h3", title), element("p", answer.said || "(nothing)", { class: "said" }));
  for (const [name, share] of Object.entries(answer.patches)) {
    const of_all = share * answer.written;
    if (of_all < 0.005) continue;
    const bar = element("div", undefined, { class: "bar" });
    bar.append(element("span", name), element("progress", undefined, { max: 1, value: of_all }),
      element("span", `${(100 * of_all).toFixed(0)} %`));
    card.append(bar);
  }
  if (answer.patches_on.length)
    card.append(element("p", answer.taught_by.length
      ? `taught by ${answer.taught_by.join(", ")}` : "taught by no patch",
    { class: "note by" }));
  return card;
}

async function ask() {
  const question = $("question").value.trim();
  if (!question) return;
  const button = $("ask-form").querySelector("button");
  button.disabled = true;
  complain("");
  try {
    const told = await call("/api/ask", { question, models: ["base", chosenModel()] });
    const [before, after] = told.answers;
    const count = after.patches_on.length;
    $("answers").replaceChildren(answerCard("Without patches", before),
      answerCard(`With ${count} of ${state.patches.length} patches; shares of all that was read`,
        after));
  } catch (error) {
    complain(error.message);
  } finally {
    button.disabled = false;
  }
}

// --- teaching -----------------------------------------------------------------------------------

async function lesson(path, body) {
  complain("");
  try {
    state.room = await call(path, body);
    show();
  } catch (error) {
    complain(error.message);
    return;
  }
  waiting = setTimeout(refresh, 300);
}

$("ask-form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
$("teach-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const [question, answer] = ["teach-question", "teach-answer"].map((id) => $(id).value.trim());
  if (question && answer) lesson("/api/teach", { question, answer });
  else complain("A fact needs a question and its answer.");
});
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value.trim());
  $("token-form").hidden = true;
  complain("");
  refresh();
});
refresh();
