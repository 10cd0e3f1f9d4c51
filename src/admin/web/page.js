// Shows what the process says of itself, and says since when it is silent. Text comes into the page as text, never as HTML.
"use strict";

const EVERY_MS = 1000;
const PATIENCE_MS = 4000;
const MINUTE_S = 60;
const SHOWN_EVENTS = 8;
const OLDER_EVENTS = 100;
const KEPT_EVENTS = 1000;
// A thread that has reported nothing for so long hangs.
const CONTROL_MOST_S = 5;
const STATS_MOST_S = 2;

const state = {
  page: 1, serverPage: 1, open: null, last: -1, events: [], earlier: [], shown: SHOWN_EVENTS,
  missing: null, process: null, restartedAt: null, answeredAt: null, failedSince: null, error: "",
};

const byId = (id) => document.getElementById(id);

// --- elements

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== "") element.append(child);
  }
  return element;
}
const el = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// Makes what is there as it should be, and touches nothing else: focus and selected text stay.
function morph(there, wanted) {
  if (there.nodeType === Node.TEXT_NODE) {
    if (there.data !== wanted.data) there.data = wanted.data;
    return;
  }
  for (const { name } of [...there.attributes]) if (!wanted.hasAttribute(name)) there.removeAttribute(name);
  for (const { name, value } of wanted.attributes) if (there.getAttribute(name) !== value) there.setAttribute(name, value);
  fill(there, [...wanted.childNodes]);
}
function fill(parent, wanted) {
  wanted.forEach((node, at) => {
    const there = parent.childNodes[at];
    if (!there) parent.append(node);
    else if (there.nodeName !== node.nodeName || there.dataset?.key !== node.dataset?.key) there.replaceWith(node);
    else morph(there, node);
  });
  while (parent.childNodes.length > wanted.length) parent.lastChild.remove();
}
const put = (id, ...children) => fill(byId(id), [...el("div", {}, children).childNodes]);

// --- words

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const whole = new Intl.NumberFormat("en");
const rate = (value) => (value === null || value === undefined ? "–" : compact.format(value));
const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)} %`);
const plural = (count, word) => `${whole.format(count)} ${word}${count === 1 ? "" : "s"}`;

const NBSP = "\u00a0";

function duration(seconds) {
  return spoken(Math.max(0, Math.floor(seconds))).replaceAll(" ", NBSP);
}
function spoken(s) {
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}
function time(ns) {
  if (ns < 1e3) return `${ns} ns`;
  if (ns < 1e6) return `${+(ns / 1e3).toPrecision(3)} µs`;
  if (ns < 1e9) return `${+(ns / 1e6).toPrecision(3)} ms`;
  return `${+(ns / 1e9).toPrecision(3)} s`;
}
const below = (ns, counted) => (ns ? `< ${time(ns)}` : counted ? "> 1 s" : "–");
const two = (n) => String(n).padStart(2, "0");
const dayOf = (date) => `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
const clock = (date) => `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
const moment = (seconds) => new Date(seconds * 1000);

// A sign, a word and a colour: each says it alone.
const SIGNS = { ok: "●", warn: "▲", fail: "■" };
const grade = (of, word) => el("span", { class: of }, `${SIGNS[of]} ${word}`);

function cell(label, content, kind) {
  const isBlank = content === "" || content === null || (Array.isArray(content) && content.length === 0);
  return el("td", { "data-label": label, class: [kind, isBlank && "blank"].filter(Boolean).join(" ") || null }, el("div", {}, content));
}

// --- parts of the page

function showHead(now) {
  const { head } = now;
  const what = head.mode === "filter" ? `filter of server ${head.server}` : `${head.mode}, engine ${head.engine ?? "–"}`;
  const link = head.interface_up === false ? "down" : "up";
  put("what", `${what}, on ${head.interface}${head.interface_up === null ? "" : ` (link ${link})`}`);
  document.title = `${now.services.fail ? `■ ${now.services.fail} without servers – ` : now.servers.fail ? `■ ${now.servers.fail} down – ` : ""}oneip ${location.hostname}`;
  put("process", `oneip ${head.version}, process ${head.pid}, started ${dayOf(moment(now.started))} ${clock(moment(now.started))} `
    + `(${duration(now.at - now.started)} ago), table generation ${whole.format(head.generation)}, configuration ${head.config}`);
  put("workers", now.workers.map((worker) => el("li", {},
    worker.stuck ? grade("fail", "stuck ") : worker.turns ? grade("ok", "runs ") : grade("fail", "hangs "),
    ` worker ${worker.worker} on core ${worker.core}: ${whole.format(worker.received)} frames, ${whole.format(worker.pins)} of ${whole.format(worker.pins_most)} flows remembered`)));
  byId("peers-section").hidden = head.peers.length === 0;
  put("peers", head.peers.map((peer) => el("li", {},
    grade(!peer.heard ? "warn" : peer.differs.length ? "fail" : "ok", peer.heard ? "heard" : "not heard"),
    ` ${peer.server}`, peer.differs?.length ? `: has another ${peer.differs.join(", ")}` : "")));
  showGroup(head.group);
}

const STANCES = {
  together: "what most members find counts",
  waiting: "the findings of the other members are not known now, and servers keep their state",
  alone: "this member's own checks count",
};

function showGroup(group) {
  byId("group-section").hidden = !group;
  if (!group) return;
  const store = group.connected ? grade("ok", "the store can be reached") : grade("fail", `the store cannot be reached: ${group.why ?? ""}`);
  put("group-title", `Group ${group.name}`);
  put("group", [group.outside ? grade("fail", group.outside) : store, `; for ${duration(group.since_s)}`,
    group.queued ? `; ${whole.format(group.queued)} orders wait for it` : "",
    group.health ? `; health: ${STANCES[group.health.stance]}` : "",
    group.health?.differs ? `; this member finds ${whole.format(group.health.differs)} servers in a different state from the group` : ""]);
  put("members", (group.living ?? []).map((one) => el("li", {},
    grade(one.belongs ? "ok" : "fail", one.belongs ? "lives" : "has another configuration or hash key"),
    ` ${one.member}${one.member === group.member ? " (this one)" : ""}: ${one.mode}, oneip ${one.version}`)));
}

const notice = (kind, sign, ...text) => el("p", { class: `notice ${kind}` }, el("strong", {}, sign), text);

const remark = (finding) => [`${finding.name}: ${finding.why}`, finding.fix ? [". Fix: ", el("code", {}, finding.fix)] : ""];

function showNotices(now) {
  const notices = [];
  if (state.failedSince) {
    const since = state.answeredAt ?? state.failedSince;
    const shown = state.answeredAt ? " What is shown is from then." : "";
    notices.push(notice("fail", "■", `No answer since ${clock(new Date(since))} (${duration((Date.now() - since) / 1000)}): ${state.error}.${shown} This page tries again every second.`));
  }
  if (now) {
    if (state.restartedAt && now.at - state.restartedAt < MINUTE_S) {
      notices.push(notice("", "▲", `The process started anew at ${clock(moment(state.restartedAt))}. Counters began at 0.`));
    }
    if (now.control_age_s > CONTROL_MOST_S) notices.push(notice("fail", "■", `The control thread has reported nothing for ${duration(now.control_age_s)}: servers are not followed.`));
    if (now.stats_age_s > STATS_MOST_S) notices.push(notice("fail", "■", `The stats thread has reported nothing for ${duration(now.stats_age_s)}: figures are old.`));
    if (state.missing !== null) notices.push(notice("", "▲", `There is no service ${state.missing}.`));
    for (const trouble of now.troubles) notices.push(notice("fail", "■", trouble));
    for (const finding of now.head.findings.filter(({ state: it }) => it === "fail")) notices.push(notice("fail", "■", remark(finding)));
  }
  const shown = notices.slice(0, 12);
  if (notices.length > shown.length) shown.push(el("p", { class: "dim" }, `and ${notices.length - shown.length} more`));
  byId("notices").hidden = shown.length === 0;
  put("notices", shown);
  const warnings = now ? now.head.findings.filter(({ state: it }) => it === "warn") : [];
  byId("remarks").hidden = warnings.length === 0;
  put("remarks-title", `▲ ${plural(warnings.length, "remark")} about this host, as oneip doctor says them`);
  put("remarks-list", warnings.map((finding) => el("li", {}, remark(finding))));
}

function showLive() {
  const live = state.failedSince ? grade("fail", "no answer") : state.answeredAt ? grade("ok", "live") : "connecting";
  put("live", live, state.answeredAt ? ` as of ${clock(new Date(state.answeredAt))}` : "");
  document.body.classList.toggle("stale", state.failedSince !== null && state.answeredAt !== null);
}

function showTiles(now) {
  const newest = now.minute.at(-1);
  const tally = (count, bad) => (count.fail ? grade("fail", bad(count.fail)) : count.warn ? grade("warn", `${count.warn} to look at`) : grade("ok", "all fine"));
  const tile = (name, value, ...note) => el("div", { class: "tile" }, el("span", {}, name), el("b", {}, value), el("span", {}, note));
  const dropped = now.dropped.reduce((sum, drop) => sum + drop.count, 0);
  put("tiles",
    tile("Services", whole.format(now.services.all), tally(now.services, (n) => `${n} without servers`)),
    tile("Servers, in all services", whole.format(now.servers.all), tally(now.servers, (n) => `${n} down`)),
    tile("Forwarded, frames/s", rate(newest?.forwarded), `${whole.format(now.forwarded)} since the start`),
    tile("Dropped, frames/s", rate(newest?.dropped), `${whole.format(dropped)} since the start`),
    tile("Left to the kernel, frames/s", rate(newest?.passed), `${whole.format(now.passed)} since the start`));
}

function nice(value) {
  const step = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 5, 10].map((factor) => factor * step).find((bound) => bound >= value) ?? 10 * step;
}

function chart(name, minute, key, kind) {
  const [width, height, left, top, bottom] = [340, 110, 40, 8, 92];
  const most = nice(Math.max(1, ...minute.map((point) => point[key])));
  const x = (ago) => left + (width - left - 4) * (1 - ago / MINUTE_S);
  const y = (value) => bottom - ((bottom - top) * value) / most;
  // Where nobody counted for a while, there is a gap.
  const pieces = [];
  minute.filter((point) => point.ago_s <= MINUTE_S).forEach((point, at, all) => {
    if (at === 0 || all[at - 1].ago_s - point.ago_s > 2.5) pieces.push([]);
    pieces.at(-1).push(point);
  });
  const line = (points) => points.map((point) => `${x(point.ago_s).toFixed(1)},${y(point[key]).toFixed(1)}`).join(" ");
  const area = (points) => `${x(points[0].ago_s).toFixed(1)},${bottom} ${line(points)} ${x(points.at(-1).ago_s).toFixed(1)},${bottom}`;
  const label = (at, height_, text, anchor) => svg("text", { x: at, y: height_, "text-anchor": anchor }, text);
  const newest = minute.at(-1)?.[key];
  const highest = Math.max(0, ...minute.map((point) => point[key]));
  return el("figure", { class: kind }, el("figcaption", {}, `${name}: now ${rate(newest)}, highest ${rate(highest)}`),
    svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${name} over the last minute` },
      svg("path", { class: "grid", d: `M${left} ${top}H${width - 4}M${left} ${(top + bottom) / 2}H${width - 4}M${left} ${bottom}H${width - 4}` }),
      pieces.map((points) => [svg("polygon", { class: "area", points: area(points) }), svg("polyline", { class: "curve", points: line(points) })]),
      label(left - 5, top + 4, compact.format(most), "end"), label(left - 5, bottom + 2, "0", "end"),
      label(left, height - 3, "60 s ago", "start"), label(width - 4, height - 3, "now", "end")));
}

function showCharts(now) {
  put("charts", chart("Forwarded, frames/s", now.minute, "forwarded", ""), chart("Dropped, frames/s", now.minute, "dropped", "drop"),
    chart("Left to the kernel, frames/s", now.minute, "passed", ""));
}

function showDrops(now) {
  const rows = now.dropped.map((drop) => el("tr", { "data-key": drop.reason },
    cell("Reason", el("code", {}, drop.reason)), cell("Per second", rate(drop.per_s), "n"),
    cell("Since the start", whole.format(drop.count), "n"), cell("Meaning", drop.help)));
  put("drops", rows.length ? rows : el("tr", {}, el("td", { colspan: 4, class: "empty wide" }, "No frame was dropped since the start.")));
}

const WORDS = { ok: "fine", warn: "look", fail: "no server" };

function differs(row) {
  const parts = row.named.map((server) => el("li", {}, `${server.name} is ${server.state}${server.why ? `: ${server.why}` : ""}`));
  if (row.more) parts.push(el("li", { class: "dim" }, `and ${row.more} more`));
  const announce = row.announce;
  if (announce && (!announce.ready || announce.withdrawn)) parts.push(el("li", {}, `${announce.withdrawn ? "withdrawn" : "not ready"}: ${announce.why}`));
  else if (announce?.announced === false) parts.push(el("li", {}, `not announced: ${announce.why}`));
  if (row.moving) parts.push(el("li", {}, `${percent(row.moving / row.slots)} of its clients are moving; their connections stay`));
  return parts.length ? el("ul", { class: "plain" }, parts) : "";
}

function showServices(list) {
  state.page = list.page;
  put("services-caption", `${list.found === list.all ? plural(list.all, "service") : `${whole.format(list.found)} of ${plural(list.all, "service")}`}, those with trouble first. `
    + `Rates and latency are of the last ${list.span_s === null ? "minute" : `${Math.round(list.span_s)} s`}.`);
  const rows = list.rows.map((row) => el("tr", { "data-key": row.name },
    cell("State", grade(row.grade, WORDS[row.grade]), "state"),
    cell("Service", el("a", { href: `#service=${encodeURIComponent(row.name)}` }, row.name), "name"),
    cell("Address", [row.address, " ", el("span", { class: "dim" }, row.ports.join(" ") || "all ports")]),
    cell("Servers", `${row.takes_clients} of ${row.servers}`, "n"), cell("Frames/s", rate(row.frames_per_s), "n"),
    cell("Latency p99", below(row.p99_ns, false), "n"), cell("What differs", differs(row))));
  put("services", rows.length ? rows : el("tr", {}, el("td", { colspan: 7, class: "empty wide" }, "No service is like that.")));
  showPages("pages", list, (page) => { state.page = page; });
}

function showPages(id, list, turn) {
  const button = (text, page, isThere) => el("button", { type: "button", disabled: !isThere, "data-page": page }, text);
  byId(id).onclick = (event) => {
    const page = event.target.dataset?.page;
    if (page) { turn(Number(page)); refresh(); }
  };
  put(id, list.pages > 1 ? [button("Back", list.page - 1, list.page > 1), `page ${list.page} of ${list.pages}`, button("Next", list.page + 1, list.page < list.pages)] : "");
}

function shares(server) {
  const bar = (value, kind) => svg("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: kind, width: (100 * (value ?? 0)).toFixed(2), height: 8 }));
  return el("div", { class: "share" }, el("span", {}, percent(server.expected)), bar(server.expected, "expected"),
    el("span", {}, percent(server.seen)), bar(server.seen, "column"));
}

function checked({ check, why }) {
  if (!check) return el("span", { class: "dim" }, "not checked");
  if (check.unchecked) return grade("warn", `cannot be checked for ${duration(check.unchecked_s ?? 0)}: ${check.unchecked}`);
  const last = check.age_s === null ? "not yet" : `${check.latency_ms === null ? "" : `${check.latency_ms.toFixed(1)}${NBSP}ms, `}${duration(check.age_s)}${NBSP}ago`;
  if (check.failing) return grade("warn", why === check.failure ? "fails" : `fails: ${check.failure ?? ""}`);
  return check.failure ? [last, el("div", { class: "dim" }, `failed ${duration(check.failure_age_s)} ago: ${check.failure}`)] : last;
}

function showService(detail) {
  byId("service").hidden = !detail;
  if (!detail) return;
  const { service, servers, latency } = detail;
  put("service-title", `Service ${service.name}`);
  const announced = service.announce?.announced;
  put("service-facts", grade(service.grade, WORDS[service.grade]), ` ${service.address}, ${service.ports.join(" ") || "all ports"}; clients are chosen by ${detail.hash} (${detail.selection}), ${whole.format(service.slots)} slots`
    + `${announced === undefined || announced === null ? "" : announced ? "; announced" : "; not announced"}. `, differs({ ...service, named: [], more: 0 }));
  state.serverPage = servers.page;
  put("servers-caption", `${servers.found === servers.all ? plural(servers.all, "server") : `${whole.format(servers.found)} of ${plural(servers.all, "server")}`}. `
    + "Expected: the server’s part of the slots. Seen: its part of the frames of the last "
    + `${servers.span_s === null ? "minute" : `${Math.round(servers.span_s)} s`}; with few clients the two differ.`);
  const rows = servers.rows.map((server) => el("tr", { "data-key": server.name },
    cell("State", grade(server.grade, server.state), "state"),
    cell("Server", [el("div", { class: "name" }, server.name, " ", el("span", { class: "dim" }, server.address)),
      server.why ? el("div", { class: server.grade }, server.why) : "",
      el("div", { class: "dim" }, `weight ${server.weight}${server.configured_weight === null ? "" : ` (configured: ${server.configured_weight})`}, ${server.mac ?? "no MAC address"}`)]),
    cell("Share", shares(server)), cell("Frames/s", rate(server.frames_per_s), "n"), cell("New TCP/s", rate(server.flows_per_s), "n"),
    cell("Check", checked(server)), cell("For", duration(server.since_s), "nowrap")));
  put("servers", rows.length ? rows : el("tr", {}, el("td", { colspan: 7, class: "empty wide" }, "No server is like that.")));
  showPages("server-pages", servers, (page) => { state.serverPage = page; });
  showLatency(latency);
}

function showLatency(latency) {
  if (!latency) return put("latency", el("p", { class: "empty" }, "Nothing was timed yet."));
  const { counts, bounds_ns: bounds, run } = latency;
  const all = counts.reduce((sum, count) => sum + count, 0);
  const row = (name, values) => el("tr", {}, el("th", { scope: "row" }, name), values.map((value, at) => cell(["p50", "p90", "p99", "p99.9", "Frames"][at], value, "n")));
  const percentiles = el("table", {}, el("thead", {}, el("tr", {}, el("th", {}, ""), ["p50", "p90", "p99", "p99.9", "Frames"].map((name) => el("th", { class: "n" }, name)))),
    el("tbody", {}, row("Last minute", [latency.p50_ns, latency.p90_ns, latency.p99_ns, latency.p999_ns].map((ns) => below(ns, all > 0)).concat(whole.format(all))),
      row("Since the start", [run.p50, run.p90, run.p99, run.p999].map(time).concat(whole.format(run.count)))));
  if (!all) return put("latency", percentiles);
  const used = counts.map((count, at) => (count ? at : -1)).filter((at) => at >= 0);
  const [from, to] = [Math.max(0, used[0] - 1), Math.min(counts.length - 1, used.at(-1) + 1)];
  const [width, height, left, top, bottom] = [400, 130, 40, 10, 106];
  const most = Math.max(...counts);
  const step = (width - left - 28) / (to - from + 1);
  const columns = counts.slice(from, to + 1).map((count, at) => {
    const tall = ((bottom - top) * count) / most;
    const name = from + at < bounds.length ? `< ${time(bounds[from + at])}` : "> 1 s";
    const x = left + at * step;
    return [svg("rect", { class: "column", x: (x + 1).toFixed(1), y: (bottom - tall).toFixed(1), width: (step - 2).toFixed(1), height: tall.toFixed(1) },
      svg("title", {}, `${name}: ${plural(count, "frame")}, ${percent(count / all)}`)),
    svg("text", { x: (x + step / 2).toFixed(1), y: at % Math.ceil(((to - from + 1) * 58) / (width - left)) ? -20 : height - 8, "text-anchor": "middle" }, name)];
  });
  put("latency", el("figure", {}, el("figcaption", {}, `Frames of the last minute, by latency; the highest column is ${percent(most / all)}`),
    svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Histogram of the latency" },
      svg("path", { class: "grid", d: `M${left} ${top}H${width - 6}M${left} ${bottom}H${width - 6}` }),
      svg("text", { x: left - 5, y: top + 4, "text-anchor": "end" }, compact.format(most)), svg("text", { x: left - 5, y: bottom + 2, "text-anchor": "end" }, "0"), columns)),
  percentiles);
}

// Of the last look, which all who show it share. It is taken only while somebody does.
function showTalkers(heaviest) {
  if (!heaviest) return;
  const { talkers, age_s: age, error } = heaviest;
  const part = !talkers ? "" : talkers.one_in === 1 ? "all" : `one in ${whole.format(talkers.one_in)}`;
  const missed = talkers?.missed ? `, ${whole.format(talkers.missed)} missed` : "";
  put("talkers-caption", error ? [grade("warn", error), ". "] : "", talkers
    ? `Of ${plural(talkers.looked_at, "frame")} sampled in ${(talkers.for_ms / 1000).toFixed(1)} s (${part}${missed}), ${duration(age)} ago. Sources may be forged.`
    : error ? "" : "Looking …");
  const seconds = (talkers?.for_ms ?? 1000) / 1000;
  const rows = (talkers?.sources ?? []).map((source) => el("tr", { "data-key": `${source.source} ${source.service}` },
    cell("Source", source.source, "name"), cell("Service", source.service ?? el("span", { class: "dim" }, "none")),
    cell("Share", percent(source.frames / Math.max(talkers.frames, 1)), "n"), cell("Frames/s", rate(source.frames / seconds), "n"),
    cell("Dropped", percent(source.dropped / Math.max(source.frames, 1)), "n"),
    cell("Bit/s", rate((8 * source.bytes) / seconds), "n"), cell("SYN/s", rate(source.syns / seconds), "n")));
  put("talkers", rows.length || !talkers ? rows : el("tr", {}, el("td", { colspan: 7, class: "empty wide" }, "Nobody was seen.")));
}

const KINDS = { people: ["order", "reload"], servers: ["server", "neighbour", "check"], host: ["start", "link", "announce", "check"] };

function showEvents() {
  const kinds = KINDS[byId("kind").value];
  const meant = state.events.concat(state.earlier).filter((event) => !kinds || kinds.includes(event.kind));
  const items = [];
  let day = "";
  for (const event of meant.slice(0, state.shown)) {
    const at = moment(event.at);
    if (dayOf(at) !== day) {
      day = dayOf(at);
      items.push(el("li", { class: "day" }, day));
    }
    const more = event.more_services ? ` (and in ${plural(event.more_services, "service")} more)` : "";
    items.push(el("li", {}, el("time", { datetime: at.toISOString(), title: at.toISOString() }, clock(at)),
      grade(event.grade, event.kind), el("span", { class: "text" }, event.text + more)));
  }
  put("events", items.length ? items : el("li", { class: "day" }, "Nothing has happened yet."));
  byId("older").hidden = meant.length <= state.shown;
}

// --- asking

async function ask(path, values) {
  const query = Object.entries(values ?? {}).filter(([, value]) => value !== "").map(([key, value]) => `${key}=${encodeURIComponent(value)}`).join("&");
  const answer = await fetch(`/web/${path}${query ? `?${query}` : ""}`, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (answer.status === 404) return null;
  const document_ = await answer.json();
  if (!answer.ok) throw new Error(document_.error ?? `status ${answer.status}`);
  return document_;
}

const wanted = (prefix, page) => ({ find: byId(`${prefix}find`).value.trim(), trouble: byId(`${prefix}trouble`).checked ? 1 : "", page });

function noteProcess(now) {
  const process = `${now.started} ${now.head.pid}`;
  if (state.process !== null && state.process !== process) {
    state.restartedAt = now.started;
    state.earlier = state.events.concat(state.earlier).slice(0, KEPT_EVENTS);
    state.events = [];
    state.last = -1;
  }
  state.process = process;
}

async function look() {
  const open = state.open;
  const [now, services, detail, heaviest] = await Promise.all([
    ask("now"), ask("services", wanted("", state.page)), open === null ? null : ask("service", { name: open, ...wanted("server-", state.serverPage) }),
    byId("talkers-section").open ? ask("talkers") : null]);
  noteProcess(now);
  if (now.last_event !== state.last) {
    const told = await ask("events", { after: Math.max(0, state.last) });
    state.last = told.last;
    // One that happened in more services meanwhile comes again.
    const key = (event) => `${event.at} ${event.text}`;
    const again = new Set(told.events.map(key));
    state.events = told.events.concat(state.events.filter((event) => !again.has(key(event)))).slice(0, KEPT_EVENTS);
    showEvents();
  }
  state.answeredAt = Date.now();
  state.failedSince = null;
  showHead(now);
  showTiles(now);
  showCharts(now);
  showDrops(now);
  showServices(services);
  showTalkers(heaviest);
  if (open === state.open) {
    state.missing = detail ? null : open;
    showService(detail);
  }
  return now;
}

let timer = null;
let turn = 0;
async function refresh() {
  clearTimeout(timer);
  const mine = ++turn;
  let now = state.now ?? null;
  try {
    now = await look();
  } catch (error) {
    state.failedSince ??= Date.now();
    state.error = error.name === "TimeoutError" ? `none within ${PATIENCE_MS / 1000} s` : error instanceof TypeError ? "the process does not run, or cannot be reached" : error.message;
  }
  state.now = now;
  showLive();
  showNotices(now);
  if (mine === turn && !document.hidden) timer = setTimeout(refresh, EVERY_MS);
}

function open() {
  const name = new URLSearchParams(location.hash.slice(1)).get("service");
  if (name !== state.open) {
    state.open = name;
    state.serverPage = 1;
    byId("service").hidden = true;
  }
  refresh().then(() => { if (name) byId("service").scrollIntoView(); });
}

for (const id of ["find", "trouble"]) byId(id).addEventListener("input", () => { state.page = 1; refresh(); });
for (const id of ["server-find", "server-trouble"]) byId(id).addEventListener("input", () => { state.serverPage = 1; refresh(); });
for (const id of ["filter", "server-filter"]) byId(id).addEventListener("submit", (event) => event.preventDefault());
byId("close").addEventListener("click", (event) => { event.preventDefault(); history.replaceState(null, "", location.pathname); open(); });
byId("kind").addEventListener("input", () => { state.shown = SHOWN_EVENTS; showEvents(); });
byId("talkers-section").addEventListener("toggle", refresh);
byId("older").addEventListener("click", () => { state.shown += OLDER_EVENTS; showEvents(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
addEventListener("hashchange", open);
open();
