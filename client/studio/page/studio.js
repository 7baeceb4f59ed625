// The studio: every change of a field asks for a twin; the newest question wins.
import { ask, element } from "/shared/ask.js";

const at = (id) => document.getElementById(id);
const MOST_OPTIONS = 600; // records in the list at a time
let about, seed = 0, running, pause, shown;

start().catch(tell);

async function start() {
  about = await (await ask("about")).json();
  at("about").textContent =
    `Run ${about.run}, networks of ${about.networks_of}, ${about.sampling_rate} Hz. ` +
    "What would this patient's ECG look like with a disease?";
  at("basis").textContent = about.basis;
  fillSources();
  fillDiseases();
  at("layout").append(...about.layouts.map((name) => element("option", {}, name)));
  at("form").addEventListener("submit", (event) => { event.preventDefault(); seed += 1; make(0); });
  at("form").addEventListener("input", changed);
  at("wfdb").addEventListener("click", () => download("wfdb", "zip").catch(tell));
  at("dicom").addEventListener("click", () => download("dicom", "dcm").catch(tell));
  at("svg").addEventListener("click", () => {
    const drawn = new XMLSerializer().serializeToString(at("paper").querySelector("svg"));
    save(new Blob([`<?xml version="1.0" encoding="utf-8"?>\n${drawn}\n`], { type: "image/svg+xml" }), `${shown.stem}.svg`);
  });
  chooseSource();
}

function fillSources() {
  const names = { ...Object.fromEntries(Object.entries(about.sources).map(([key, { name }]) => [key, name])), upload: "upload" };
  Object.entries(names).forEach(([key, name], place) => {
    const choice = element("input", { type: "radio", name: "source", value: key });
    choice.checked = place === 0;
    at("sources").append(element("label", {}, choice, name));
  });
}

function fillDiseases() {
  for (const { group, requests } of about.diseases) {
    const options = requests.map(({ code, name, seen }) =>
      element("option", { value: code }, `${code}: ${name}${seen ? "" : " (not seen by this federation)"}`));
    at("disease").append(element("optgroup", { label: group }, ...options));
  }
  at("also").append(element("option", { value: "" }, "nothing else"));
  for (const group of [...at("disease").children].slice(1)) at("also").append(group.cloneNode(true));
}

function source() {
  return document.querySelector("input[name=source]:checked").value;
}

function chooseSource() {
  const upload = source() === "upload";
  at("listed").hidden = upload;
  at("uploaded").hidden = !upload;
  if (upload) { at("age").value = ""; at("sex").value = "unknown"; } else { at("search").value = ""; list(); }
  make(0);
}

// Fill the list of records with those that hold every word of the search.
function list() {
  const words = at("search").value.toLowerCase().split(/\s+/);
  const records = about.sources[source()].records;
  const fits = records.filter(({ label }) => words.every((word) => label.toLowerCase().includes(word)));
  const group = (label, chosen) => chosen.length
    ? [element("optgroup", { label }, ...chosen.map(({ key, label }) => element("option", { value: key }, label)))] : [];
  const first = fits.slice(0, MOST_OPTIONS), before = at("record").value;
  const known = records.some(({ healthy }) => healthy); // a folder of files tells no diagnosis
  at("record").replaceChildren(
    ...group("normal ECGs", first.filter(({ healthy }) => healthy)),
    ...group(known ? "others" : "ECGs", first.filter(({ healthy }) => !healthy)));
  if (first.some(({ key }) => key === before)) at("record").value = before;
  at("found").textContent = fits.length > first.length
    ? `the first ${first.length} of ${fits.length}: search for more` : `${fits.length} of ${records.length} records`;
  takePerson();
}

function takePerson() {
  const person = about.sources[source()].records.find(({ key }) => key === at("record").value);
  at("age").value = person?.age ?? "";
  at("sex").value = person?.sex ?? "unknown";
}

function changed(event) {
  const field = event.target;
  if (field.name === "source") return chooseSource();
  if (field.id === "search") {
    const before = at("record").value;
    list();
    if (at("record").value === before) return undefined;
  }
  if (field.id === "record") takePerson();
  if (field.id === "strength") at("dose").textContent = Number(field.value).toFixed(2);
  return make(250);
}

// A superclass and NORM are asked for alone; statements can be joined.
function disease() {
  const alone = about.diseases[0].requests.some(({ code }) => code === at("disease").value);
  at("also").disabled = alone;
  return alone || !at("also").value ? at("disease").value : `${at("disease").value}+${at("also").value}`;
}

async function question() {
  const from = source();
  const asked = {
    source: from, disease: disease(), strength: Number(at("strength").value), sex: at("sex").value,
    age: number("age"), seed, layout: at("layout").value,
  };
  if (from !== "upload") return { ...asked, record: at("record").value };
  const files = [...at("upload").files];
  if (!files.length) return null;
  const bytes = files.reduce((sum, { size }) => sum + size, 0);
  if (bytes > about.most_bytes) {
    throw new Error(`${(bytes / 1e6).toFixed(1)} MB were chosen, ${about.most_bytes / 1e6} MB are the most: one ECG of 10 s is smaller than that`);
  }
  const told = {
    sampling_rate: number("rate"), unit: at("unit").value, leads: at("leads").value, start: number("start"),
  };
  return { ...asked, ...told, files: await Promise.all(files.map(async (file) => ({ name: file.name, data: await base64(file) }))) };
}

function number(id) {
  return at(id).value === "" ? null : Number(at(id).value);
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error(`${file.name} cannot be read: choose it again`));
    reader.readAsDataURL(file);
  });
}

function make(wait) {
  clearTimeout(pause);
  running?.abort();
  const mine = (running = new AbortController());
  pause = setTimeout(async () => {
    at("shown").setAttribute("aria-busy", "true");
    try {
      const asked = await question();
      if (!asked) { at("shown").hidden = true; at("state").textContent = "Choose a file."; at("error").hidden = true; buttons(false); return; }
      at("state").textContent = "Making the twin …";
      const answer = await (await ask("twin", asked, mine.signal)).json();
      if (mine === running) show(answer);
    } catch (error) {
      if (error.name !== "AbortError" && mine === running) tell(error);
    } finally {
      if (mine === running) at("shown").removeAttribute("aria-busy");
    }
  }, wait);
}

function show(answer) {
  shown = answer;
  at("error").hidden = true;
  at("shown").hidden = false;
  at("title").textContent = `${answer.name} with ${answer.disease}`;
  at("words").textContent = answer.words;
  at("notes").replaceChildren(...answer.notes.map((note) => element("li", {}, note)));
  at("paper").innerHTML = answer.paper; // drawn by this server, its words escaped by the XML writer
  at("beats").innerHTML = answer.beats;
  at("readings").tBodies[0].replaceChildren(...answer.readings.map(row));
  at("state").textContent = `Twin ${seed + 1} of ${answer.name} with ${answer.disease}. Pictures and files call it ` +
    `${answer.called}: the name of a file can be a patient's.`;
  buttons(true);
}

function row({ class: name, name: meaning, before, after, threshold, asked }) {
  const bar = (kind, value) => {
    const filled = element("span", { class: kind, style: `width:${100 * value}%` });
    const line = threshold === null ? [] : [element("i", { style: `left:${100 * threshold}%` })];
    return element("span", { class: "bar", "aria-hidden": "true" }, filled, ...line);
  };
  const words = (value) => value.toFixed(2) + (threshold !== null && value >= threshold ? "*" : "");
  const head = element("th", { scope: "row", class: asked ? "asked" : "" }, name, element("span", { class: "meaning" }, meaning));
  return element("tr", {}, head, element("td", { class: "n" }, words(before)), element("td", { class: "n" }, words(after)),
    element("td", { class: "bars" }, bar("reference", before), bar("twin", after)));
}

function tell(error) {
  at("error").textContent = error.message;
  at("error").hidden = false;
  at("shown").hidden = true;
  at("error").scrollIntoView({ block: "nearest" }); // on a phone it stands below the fields
  at("state").textContent = "";
  buttons(false);
}

function buttons(ready) {
  for (const id of ["wfdb", "dicom", "svg"]) at(id).disabled = !ready;
}

async function download(format, suffix) {
  const asked = await question();
  save(await (await ask("files", { ...asked, format })).blob(), `${shown.stem}.${suffix}`);
}

function save(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
