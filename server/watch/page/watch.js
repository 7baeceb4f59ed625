// The live view: asks where the run stands, every second while it goes on.
import { ask, element } from "/shared/ask.js";

const at = (id) => document.getElementById(id);
let drawn = "";

follow();

async function follow() {
  let wait = 5_000;
  try {
    const status = await (await ask("status")).json();
    show(status);
    at("error").hidden = true;
    if (status.state === "running") wait = 1_000;
  } catch (error) {
    at("error").textContent = error.message;
    at("error").hidden = false;
  }
  setTimeout(follow, wait);
}

function show({ name, state, heading, rounds, done, budget, sites, curves, troubles }) {
  document.title = `${done}/${rounds} ${state} · ${name}`;
  at("name").textContent = name;
  const words = heading.join("\n");
  if (at("heading").dataset.words !== words) { // a screen reader is told only what is new
    at("heading").dataset.words = words;
    at("heading").replaceChildren(...heading.map((line) => element("p", {}, line)));
  }
  Object.assign(at("progress"), { max: rounds, value: done, hidden: false });
  at("budget").textContent = budget;
  at("sites").tBodies[0].replaceChildren(...sites.map(row));
  const fresh = JSON.stringify(curves);
  if (fresh !== drawn) {
    drawn = fresh;
    at("curves").replaceChildren(...Object.entries(curves).map(([words, svg]) => {
      const figure = element("figure", {}, element("figcaption", {}, words));
      figure.insertAdjacentHTML("beforeend", svg); // drawn by this server, its words escaped by the XML writer
      return figure;
    }));
  }
  at("no-curves").hidden = Object.keys(curves).length > 0;
  at("no-troubles").hidden = troubles.length > 0;
  at("troubles").replaceChildren(...troubles.map(({ time, round, site, status }) =>
    element("li", {}, [time, round && /^\d+$/.test(round) ? `round ${round}` : round, site, status].filter(Boolean).join(" · "))));
}

function row({ name, state, last, rounds, failures, bytes_down, bytes_up, seconds }) {
  const cell = (text, kind = "n") => element("td", { class: kind }, String(text));
  return element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, element("span", { class: `state ${state}` }, state)),
    cell(last, ""), cell(rounds), cell(failures, failures ? "n failed" : "n"), cell(bytes_down), cell(bytes_up), cell(seconds.toFixed(1)));
}
