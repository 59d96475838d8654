"use strict";
// Everything that comes from outside is set as text, never as markup.

const MINUTE_MS = 60000;
const WIDTH = 720;
const HEIGHT = 160;
const SVG = "http://www.w3.org/2000/svg";

/** Minute since 1970 to what was done in it: [minute, files, bytes, read, rejected, lag in ms]. */
const minutes = new Map();
let shown = 180;
let clock = Date.now();

const place = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? count : count.toFixed(1)} ${units[unit]}`;
}

function duration(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

function figures(list, rows) {
  list.replaceChildren(...rows.map(([name, value, more]) => {
    const box = element("div");
    const figure = element("dd", value);
    if (more) figure.append(element("small", more));
    box.append(element("dt", name), figure);
    return box;
  }));
}

function showState(status) {
  const state = place("state");
  const [text, kind] = status.paused
    ? [`paused: ${status.paused}`, "bad"]
    : status.pid === null ? ["the daemon does not run", "bad"] : ["running", "good"];
  // An unchanged text is not read aloud again.
  if (state.textContent !== text) state.textContent = text;
  state.className = kind;
}

function showNow(status) {
  const { pending, total, minute } = status;
  const rows = [];
  if (pending) {
    const least = pending.at_least ? "at least " : "";
    const oldest = pending.oldest_seconds === null ? "" : `, the oldest for ${duration(pending.oldest_seconds)}`;
    rows.push(["Pending files", `${least}${number.format(pending.files)}`,
      `${bytes(pending.bytes)}${oldest}; ${number.format(pending.settling)} not complete`]);
  } else {
    rows.push(["Pending files", "unknown", status.folder_error]);
  }
  rows.push(["Processed files", number.format(total.files), bytes(total.bytes)]);
  rows.push(["Records", number.format(total.read), `${number.format(total.written)} written`]);
  rows.push(["Rejected records", number.format(total.rejected), `${number.format(total.late)} late`]);
  rows.push(["Failed files", number.format(total.quarantined),
    pending ? `${number.format(pending.failed)} in the folder` : undefined]);
  rows.push(["Duplicates", number.format(total.duplicates)]);
  rows.push(["Rate", `${minute.records_per_second.toFixed(1)} records/s`,
    `${bytes(Math.round(minute.bytes_per_second))}/s in the last minute`]);
  const last = status.last_commit_ms;
  rows.push(["Last commit", last === null ? "never" : `${duration(Math.max(0, clock - last) / 1000)} ago`]);
  figures(place("now"), rows);
  const trouble = place("trouble");
  trouble.hidden = !status.last_error;
  if (status.last_error) {
    const at = new Date(status.last_error.at_ms).toISOString();
    trouble.textContent = `Last error, ${at}: ${status.last_error.error}`;
  }
}

function showTable(id, entries, cells) {
  const table = place(id);
  table.hidden = entries.length === 0;
  place(`no-${id}`).hidden = entries.length > 0;
  table.tBodies[0].replaceChildren(...entries.map((entry) => {
    const row = element("tr");
    row.append(...cells(entry).map(([text, className]) => element("td", text, className)));
    return row;
  }));
}

function showViews(status) {
  place("views-section").hidden = status.views.length + status.removed_views.length === 0 && status.watermark_us === null;
  const rows = status.views.map((view) => ["View", view]);
  for (const trouble of status.view_troubles) {
    if (trouble.stopped !== null) {
      rows.push(["Stopped view", `${trouble.view}: ${trouble.stopped}; run --reset-view ${trouble.view} makes it anew`]);
    }
    if (trouble.reason !== null) {
      const groups = trouble.group ? `${trouble.left_out} groups of ${trouble.view}, the last is ${trouble.group}` : trouble.view;
      rows.push(["Cannot be computed", `${groups}: ${trouble.reason}`]);
    }
  }
  for (const view of status.removed_views) {
    rows.push(["Removed view", `${view.name} keeps ${view.bytes} bytes; run --forget-view ${view.name} removes it`]);
  }
  if (status.watermark_us !== null) {
    rows.unshift(["Watermark", new Date(status.watermark_us / 1000).toISOString()]);
  }
  figures(place("views"), rows);
}

/** Bars of the minutes shown, `step` of them in each, by what `value` makes of the rows of a bar. */
function plot(id, step, value, label) {
  const now = Math.floor(clock / MINUTE_MS);
  const first = now - shown + 1;
  const bars = new Array(Math.ceil(shown / step)).fill(0);
  for (const row of minutes.values()) {
    const at = Math.floor((row[0] - first) / step);
    if (row[0] >= first && at < bars.length) bars[at] = value(bars[at], row);
  }
  const most = Math.max(...bars);
  const width = WIDTH / bars.length;
  const svg = place(id);
  const made = bars.map((bar, at) => {
    if (bar === 0) return null;
    const height = Math.max(1, (bar / most) * (HEIGHT - 8));
    const rect = document.createElementNS(SVG, "rect");
    const sizes = { x: at * width, y: HEIGHT - height, width: Math.max(1, width - 0.5), height };
    for (const [name, size] of Object.entries(sizes)) rect.setAttribute(name, size);
    rect.dataset.value = bar;
    const title = document.createElementNS(SVG, "title");
    const time = new Date((first + at * step) * MINUTE_MS).toISOString().slice(0, 16);
    title.textContent = `${time}Z: ${label(bar)}`;
    rect.append(title);
    return rect;
  });
  svg.replaceChildren(...made.filter((rect) => rect));
  svg.setAttribute("aria-label", `${id}, at most ${label(most)}`);
  place(`${id}-most`).textContent = `at most ${label(most)}`;
}

function showPlots() {
  const step = Math.ceil(shown / 180);
  const unit = step === 1 ? "in each minute" : `in each ${step} minutes`;
  for (const id of ["throughput-unit", "lag-unit"]) place(id).textContent = unit;
  for (const from of document.querySelectorAll(".from")) from.textContent = `${shown / 60} hours ago`;
  plot("throughput", step, (sum, row) => sum + row[3], (bar) => `${number.format(bar)} records`);
  plot("lag", step, (most, row) => Math.max(most, row[5]), (bar) => duration(bar / 1000));
}

function learn(rows) {
  for (const row of rows) minutes.set(row[0], row);
  const oldest = Math.floor(clock / MINUTE_MS) - 1440;
  for (const minute of minutes.keys()) if (minute < oldest) minutes.delete(minute);
}

function show(data) {
  clock = data.now_ms;
  place("job").textContent = data.job;
  document.title = `${data.job} - spoolmill`;
  showState(data.status);
  showNow(data.status);
  showViews(data.status);
  showTable("quarantined", data.quarantined, (entry) => [
    [entry.microbatch], [entry.time], [entry.file, "text"], [entry.reason, "text"],
  ]);
  showTable("newest", data.newest, (entry) => [
    [entry.microbatch], [entry.time], [entry.file, "text"],
    [entry.outcome === "quarantined" ? "failed" : entry.outcome.replace("_", " "), entry.outcome],
    [number.format(entry.bytes), "number"], [number.format(entry.read), "number"],
    [number.format(entry.written), "number"], [number.format(entry.rejected), "number"],
  ]);
  learn(data.series);
  showPlots();
}

function lost(text) {
  const state = place("state");
  state.textContent = text;
  state.className = "bad";
}

for (const button of document.querySelectorAll("button[data-minutes]")) {
  button.addEventListener("click", () => {
    shown = Number(button.dataset.minutes);
    for (const other of document.querySelectorAll("button[data-minutes]")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
    showPlots();
  });
}

async function start() {
  learn(await (await fetch("day.json")).json());
  const events = new EventSource("events");
  events.addEventListener("message", (event) => show(JSON.parse(event.data)));
  events.addEventListener("trouble", (event) => lost(JSON.parse(event.data)));
  events.addEventListener("error", () => lost("no answer; trying again"));
}

start().catch((error) => lost(String(error)));
