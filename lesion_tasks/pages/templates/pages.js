// What a served page does besides being read: Airflow's theme, live pages, and requests to Airflow's own API.
"use strict";

const root = document.body.dataset.root;
// Airflow's address ends where the pages' prefix begins.
const api = new URL("../api/v2/", new URL(root, location.href));

function followTheme() {
  let outer;
  try { outer = window.parent !== window ? window.parent.document.documentElement : null; } catch { outer = null; }
  if (!outer) {
    showReport(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    return;
  }
  const follow = () => {
    const isDark = outer.classList.contains("dark") || outer.dataset.theme === "dark";
    document.documentElement.classList.toggle("dark", isDark);
    document.documentElement.classList.toggle("light", !isDark);
    showReport(isDark ? "dark" : "light");
  };
  follow();
  new MutationObserver(follow).observe(outer, { attributes: true, attributeFilter: ["class", "data-theme"] });
}

// The report that a page frames, in a theme: the report itself runs no script that could follow one.
function showReport(theme) {
  const frame = document.querySelector("iframe[data-report]");
  if (!frame) return;
  const address = new URL(root, location.href).pathname + `themed/${theme}/reports/`;
  let path = frame.dataset.report;
  try {
    // The reader may have followed a link inside the report.
    path = /\/themed\/(dark|light)\/reports\/(.*)$/.exec(frame.contentWindow.location.pathname)?.[2] ?? path;
  } catch { /* nothing is shown yet */ }
  if (frame.src !== new URL(address + path, location.href).href) frame.src = address + path;
}

// What stands above a framed report is about that report: the reader may have followed a link to another.
function followReport() {
  const frame = document.querySelector("iframe[data-report]");
  const now = document.querySelector("[data-now]");
  if (!frame || !now) return;
  let shown = frame.dataset.report;
  frame.addEventListener("load", async () => {
    let path;
    try { path = /\/themed\/(?:dark|light)\/reports\/(.*)$/.exec(frame.contentWindow.location.pathname)?.[1]; } catch { return; }
    if (!path || path === shown) return;
    shown = path;
    const bare = document.body.classList.contains("bare") ? "?is_bare=true" : "";
    const answer = await fetch(new URL(`read/${path}${bare}`, new URL(root, location.href)), { credentials: "same-origin" });
    const fresh = answer.ok && new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("[data-now]");
    if (shown === path) now.replaceChildren(...(fresh ? fresh.childNodes : []));
  });
}

async function ask(path, options = {}) {
  const answer = await fetch(new URL(path, api), {
    credentials: "same-origin",
    headers: { "Content-Type": "application/json" },
    ...options,
  });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const detail = body.detail;
    const error = new Error(typeof detail === "string" ? detail : JSON.stringify(detail ?? answer.statusText));
    throw Object.assign(error, { status: answer.status });
  }
  return body;
}

function element(name, text, css) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (css) made.className = css;
  return made;
}

// A run of Airflow, by its id.
function linkToRun(dag, run) {
  const link = element("a", run);
  link.dataset.airflow = `dags/${encodeURIComponent(dag)}/runs/${encodeURIComponent(run)}`;
  followToAirflow(link);
  return link;
}

function whileBusy(form, said, work) {
  const buttons = form.querySelectorAll("button");
  buttons.forEach((button) => { button.disabled = true; });
  said.textContent = "…";
  return work()
    .then((words) => { said.replaceChildren(...[words].flat()); })
    .catch((error) => {
      said.textContent = `Not done: ${error.message}`;
      buttons.forEach((button) => { button.disabled = false; });
    });
}

// What the product knows of a question that Airflow keeps open: null where the run says it no longer, undefined if the
// server does not answer now.
async function knownOf(run) {
  const address = new URL("question", new URL(root, location.href));
  address.search = new URLSearchParams({ dag: run.dag_id, run: run.dag_run_id, map_index: run.map_index });
  try {
    const answer = await fetch(address, { credentials: "same-origin" });
    if (answer.status === 404) return null;
    return answer.ok ? await answer.json() : undefined;
  } catch { return undefined; }
}

// The pictures that a question is about, from the bucket through the guard of the pages.
function picturesOf(names) {
  const shown = element("p", undefined, "pictures");
  for (const name of names) {
    const link = element("a");
    link.href = new URL(`image/${encodeURIComponent(name)}`, new URL(root, location.href)).href;
    const picture = element("img");
    picture.src = link.href;
    picture.alt = name;
    picture.width = 192;
    picture.height = 144;
    link.append(picture);
    shown.append(link);
  }
  return shown;
}

const parsed = (html) => new DOMParser().parseFromString(html, "text/html").body;

// What a question that came with the page says of itself.
function readBack(form) {
  return {
    title: form.querySelector(".recipe")?.textContent,
    body: form.querySelector(".decided").innerHTML,
    pictures: [...form.querySelectorAll(".pictures img")].map((picture) => picture.alt),
  };
}

function shownQuestion(question, known, mayAnswer, key, least) {
  const run = question.task_instance;
  const form = element("form", undefined, "question");
  form.dataset.dag = run.dag_id;
  form.dataset.run = run.dag_run_id;
  form.dataset.place = run.map_index;
  form.dataset.key = key;
  form.append(element("h3", question.subject));
  if (known?.title) form.append(element("p", known.title, "recipe"));
  const asks = element("p", "Asked by run ", "muted");
  asks.append(linkToRun(run.dag_id, run.dag_run_id));
  form.append(asks);
  // What is decided stands before the buttons that decide, and is never folded away.
  const words = element("div", known ? undefined : question.body, known ? "scroll decided" : "scroll decided source");
  if (known) words.replaceChildren(...parsed(known.body).childNodes);
  if (known?.pictures.length) form.append(picturesOf(known.pictures));
  form.append(words);
  if (!mayAnswer) {
    form.append(element("p", "Your role may read this question, not answer it.", "muted"));
    return form;
  }
  const label = element("label");
  label.append(element("span", `Reason, in at least ${least} characters for a rejection`));
  const reason = element("textarea");
  reason.maxLength = 500;
  label.append(reason);
  form.append(label);
  const actions = element("div", undefined, "actions");
  const said = element("p", "", "said");
  said.setAttribute("role", "status");
  // In the order in which they are asked, which Required Actions has as well.
  for (const [place, option] of question.options.entries()) {
    const button = element("button", option, place ? "quiet" : "");
    button.type = "button";
    button.addEventListener("click", () => {
      if (option === "Reject" && reason.value.trim().length < least) {
        said.textContent = `Say why, in at least ${least} characters: it is kept. Nothing was sent.`;
        reason.focus();
        return;
      }
      const path = `dags/${encodeURIComponent(run.dag_id)}/dagRuns/${encodeURIComponent(run.dag_run_id)}`
        + `/taskInstances/${encodeURIComponent(run.task_id)}/${run.map_index}/hitlDetails`;
      whileBusy(form, said, async () => {
        await ask(path, {
          method: "PATCH",
          body: JSON.stringify({ chosen_options: [option], params_input: { reason: reason.value.trim() } }),
        });
        reason.value = ""; // nothing is being typed any longer, so the page renews itself
        button.blur();
        const then = document.querySelector("main[data-live]") ? "" : " Reload this page then.";
        return `${option}: sent. The decision follows shortly.${then}`;
      });
    });
    actions.append(button);
  }
  form.append(actions, said);
  return form;
}

async function showQuestions() {
  const section = document.querySelector("[data-questions]");
  if (!section) return;
  let open, more;
  try {
    const found = await Promise.all(section.dataset.questions.split(" ").map(
      (dag) => ask(`dags/${dag}/dagRuns/~/hitlDetails?response_received=false&state=awaiting_input&limit=20`)));
    open = found.flatMap((one) => one.hitl_details ?? []);
    more = found.reduce((n, one) => n + (one.total_entries ?? 0), 0) - open.length;
  } catch (error) {
    // Whoever may not see questions sees none; what is shown stays while Airflow does not answer.
    if (error.status === 401 || error.status === 403) section.hidden = true;
    return;
  }
  const list = section.querySelector("[data-list]");
  const answerable = section.dataset.may.split(" ");
  const shown = await Promise.all(open.map(async (one) => {
    const run = one.task_instance;
    const mayAnswer = answerable.includes(run.dag_id);
    const looked = await knownOf(run);
    // What was decided, or replaced by a newer question, ends by itself: it is none any more.
    if (looked && !looked.is_open) return null;
    const before = [...list.children].find(
      (form) => form.dataset.dag === run.dag_id && form.dataset.run === run.dag_run_id && form.dataset.place === String(run.map_index));
    // One that came with the page has no buttons yet, and says itself what is known where the server does not.
    const known = looked === undefined && before && !before.dataset.key ? readBack(before) : looked;
    // One that is shown already stays as its reader has left it: unfolded, or with a reason begun.
    const key = JSON.stringify([mayAnswer, known && parsed(known.body).innerHTML.replaceAll("<wbr>", "")]);
    const isSame = before && (known === undefined || before.dataset.key === key);
    return isSame ? before : shownQuestion(one, known, mayAnswer, key, Number(section.dataset.least));
  }));
  const left = shown.filter(Boolean);
  section.hidden = left.length === 0;
  section.querySelector("[data-more]")?.remove();
  if (more > 0) {
    section.append(element("p", `And ${more} more under Required Actions.`, "muted"));
    section.lastChild.dataset.more = "";
  }
  // One that stays is not moved: it would lose its reader's place.
  if (left.length !== list.children.length || left.some((form, place) => form !== list.children[place])) {
    list.replaceChildren(...left);
    breakIds(list);
  }
}

// Forms whose buttons start a run of a DAG: with what the form holds, its fields, and what the button says.
function offerStarts(within = document) {
  for (const form of within.querySelectorAll("form[data-start]")) {
    form.addEventListener("submit", (event) => event.preventDefault()); // the Enter key decides nothing
    for (const button of form.querySelectorAll("button")) {
      button.addEventListener("click", () => {
        const said = form.querySelector(".said");
        const fields = [...form.querySelectorAll("input[name], select[name], textarea[name]")];
        const given = Object.fromEntries(fields.map((field) => [field.name, field.value.trim()]));
        const least = Number(form.dataset.least ?? 0);
        if (least && given.reason.length < least) {
          said.textContent = `Say why, in at least ${least} characters: it is kept. Nothing was sent.`;
          form.querySelector("[name=reason]").focus();
          return;
        }
        const conf = { ...JSON.parse(form.dataset.conf), ...given };
        if (button.name) conf[button.name] = button.value;
        whileBusy(form, said, async () => {
          const run = await ask(`dags/${form.dataset.start}/dagRuns`, {
            method: "POST",
            body: JSON.stringify({ logical_date: null, conf }),
          });
          // Nothing is being typed any longer, so the page renews itself.
          for (const field of form.querySelectorAll("input[type=text], textarea")) field.value = "";
          button.blur();
          // Nobody is asked about a rollback.
          const isAsked = form.dataset.start !== "rollback_champion";
          const then = document.querySelector("main[data-live]")
            ? !isAsked ? "This page shows in a moment what was done." : "This page shows in a moment what was done, or the question that somebody has to answer."
            : "Reload this page in a moment: what was done, or a question that somebody has to answer, stands on it then.";
          return ["Started as ", linkToRun(form.dataset.start, run.dag_run_id), `. ${then}`];
        });
      });
    }
  }
}

// A link to a page of Airflow's own: followed in the frame of the UI it would open Airflow inside of Airflow.
function leadToAirflow(within = document) {
  within.querySelectorAll("a[data-airflow]").forEach(followToAirflow);
}

function followToAirflow(link) {
  link.href = new URL(link.dataset.airflow, new URL("../", new URL(root, location.href))).href;
  link.addEventListener("click", (event) => {
    if (window.parent === window) return;
    event.preventDefault();
    const outer = window.parent.document.createElement("a");
    outer.href = link.href;
    window.parent.document.body.append(outer);
    outer.click();
    outer.remove();
  });
}

const LOG_LINES = 60;

// The end of a log that Airflow keeps.
async function showLog() {
  const section = document.querySelector("[data-log]");
  if (!section) return;
  try {
    const found = await ask(section.dataset.log, { headers: { Accept: "application/json" } });
    const lines = (found.content ?? []).flatMap((line) => [
      [line.timestamp, line.level, line.event].filter(Boolean).join(" "),
      ...(line.error_detail ?? []).map((error) => `${error.exc_type}: ${error.exc_value}`),
    ]);
    const shown = section.querySelector(".log");
    shown.textContent = lines.filter((line) => !/::(end)?group::/.test(line)).slice(-LOG_LINES).join("\n");
    shown.scrollTop = shown.scrollHeight;
  } catch (error) {
    section.querySelector(".said").textContent = `Airflow does not show it: ${error.message}`;
  }
}

function limitComparison() {
  const form = document.querySelector("form[data-compare]");
  if (!form) return;
  form.addEventListener("submit", (event) => {
    const n = form.querySelectorAll("input[name=training]:checked").length;
    const most = Number(form.dataset.compare);
    if (n >= 1 && n <= most) return;
    event.preventDefault();
    form.querySelector(".said").textContent = n ? `At most ${most} at once.` : "Tick at least one training.";
  });
}

// What each section was made of: one of which nothing is new stays as its reader has left it.
const madeOf = new WeakMap();

function noteSections(within) {
  for (const section of within.querySelectorAll("section")) madeOf.set(section, section.outerHTML);
}

// What is folded, by its summary and what its form is about: rows of a table have the same summary.
function nameOf(details) {
  return JSON.stringify([details.querySelector("summary").textContent, details.querySelector("form")?.dataset.conf]);
}

// What a form said stays, until a question about it is answered or what it is about is gone from the page.
function carryWords(old, part) {
  for (const form of old.querySelectorAll("form[data-start]")) {
    const said = form.querySelector(".said");
    if (!said?.textContent) continue;
    const fresh = [...part.querySelectorAll("form[data-start]")].find(
      (one) => one.dataset.start === form.dataset.start && one.dataset.conf === form.dataset.conf);
    const wasAsked = form.closest("article, tr")?.querySelector(".asked");
    const offered = (one) => [...one.querySelectorAll("option")].map((option) => option.textContent).join("\n");
    if (!fresh || offered(fresh) !== offered(form) || (wasAsked && !fresh.closest("article, tr").querySelector(".asked"))) continue;
    fresh.querySelector(".said").textContent = said.textContent;
    const areOff = [...form.querySelectorAll("button")].map((button) => button.disabled);
    fresh.querySelectorAll("button").forEach((button, place) => { button.disabled = areOff[place]; });
  }
}

// The mark about changes of the data renews itself on every page that has it, also on one that is not live.
const MARK_PAUSE = 8000;
const OWN_SECTIONS = "section:not([data-mark] section)";

async function keepMark() {
  const mark = document.querySelector("[data-mark]");
  if (!mark) return;
  let shown = mark.innerHTML;
  const refresh = async () => {
    if (!document.hidden) {
      try {
        const answer = await fetch(mark.dataset.mark, { credentials: "same-origin" });
        const fresh = answer.ok ? new DOMParser().parseFromString(await answer.text(), "text/html").body : null;
        if (fresh && fresh.innerHTML.trim() !== shown.trim()) {
          shown = fresh.innerHTML;
          mark.replaceChildren(...fresh.childNodes);
          leadToAirflow(mark);
          breakIds(mark);
        }
      } catch { /* the server is away for a moment: the next look may reach it */ }
    }
    setTimeout(refresh, MARK_PAUSE);
  };
  setTimeout(refresh, MARK_PAUSE);
}

// Takes over what is new on a page; what its reader may be at stays as it is.
function takeOver(main, fresh) {
  const named = (part) => `section[aria-labelledby="${CSS.escape(part.getAttribute("aria-labelledby"))}"]`;
  for (const old of main.querySelectorAll(OWN_SECTIONS)) {
    if (!fresh.querySelector(named(old))) old.remove();
  }
  let last = null;
  for (const part of fresh.querySelectorAll(OWN_SECTIONS)) {
    const old = main.querySelector(named(part));
    // Questions come from Airflow; a log is that of the last failure.
    const isKept = old && ("questions" in part.dataset || madeOf.get(old) === part.outerHTML
      || ("kept" in part.dataset && old.dataset.log === part.dataset.log));
    if (!isKept) {
      madeOf.set(part, part.outerHTML);
      const unfolded = [...old?.querySelectorAll("details[open]") ?? []].map(nameOf);
      for (const one of part.querySelectorAll("details")) {
        if (unfolded.includes(nameOf(one))) one.open = true;
      }
      if (old) {
        carryWords(old, part);
        old.replaceWith(part);
      } else if (last) last.after(part);
      else if (main.querySelector("[data-mark]")) main.querySelector("[data-mark]").after(part);
      else main.prepend(part);
      offerStarts(part);
      leadToAirflow(part);
      breakIds(part);
      if (part.dataset.log) showLog();
    }
    last = isKept ? old : part;
  }
}

// Long names in code break after hyphens, dots, slashes and underscores, never within a word; what is copied is as it was.
function breakIds(within = document) {
  for (const code of within.querySelectorAll("code")) {
    const parts = code.childElementCount || code.textContent.length < 17 ? [] : code.textContent.split(/(?<=[-_./+:])/);
    if (parts.length > 1) code.replaceChildren(...parts.flatMap((part, n) => (n ? [element("wbr"), part] : [part])));
  }
}

async function keepLive() {
  const main = document.querySelector("main[data-live]");
  if (!main) return;
  const pause = 1000 * Number(main.dataset.live);
  const refresh = async () => {
    const isTyping = [...main.querySelectorAll("textarea, input[type=text]")].some((field) => field.value)
      || document.activeElement.matches("textarea, input, select, button");
    if (!document.hidden && !isTyping) {
      try {
        const answer = await fetch(location.href, { credentials: "same-origin" });
        if (answer.ok) {
          const whole = new DOMParser().parseFromString(await answer.text(), "text/html");
          const fresh = whole.querySelector("main");
          await showQuestions();
          takeOver(main, fresh);
          document.querySelector("[data-made]").textContent = whole.querySelector("[data-made]").textContent;
        }
      } catch { /* the server is away for a moment: the next look may reach it */ }
    }
    setTimeout(refresh, pause);
  };
  setTimeout(refresh, pause);
}

noteSections(document);
keepMark(); // before anything rewrites what it compares
followReport();
followTheme();
showQuestions();
offerStarts();
leadToAirflow();
breakIds();
showLog();
limitComparison();
keepLive();
