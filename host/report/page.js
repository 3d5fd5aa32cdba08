// The page's behaviour: rows for the charts, themes, the layer table, a layer's own page, the scrubber, the sliders.
// What is said and drawn is decided in Python (sections/); nothing here computes a figure of its own but sums.
"use strict";
(() => {
  const RUN = JSON.parse(document.getElementById("run-data").textContent);
  const SPECS = JSON.parse(document.getElementById("chart-specs").textContent);
  const number = new Intl.NumberFormat("en");
  const percent = (x) => (100 * x).toFixed(1) + " %";
  const causes = Object.keys(RUN.causes);

  // --- data that charts share -----------------------------------------------------------------------------------------
  const cells = [];
  RUN.steps.forEach((step, s) => RUN.names.forEach((name, layer) => {
    if (RUN.mode[s][layer] < 0) return;  // no part in this step
    let worst = "none", most = 0;
    for (const cause of causes) {
      if (RUN.causes[cause][s][layer] > most) { most = RUN.causes[cause][s][layer]; worst = cause; }
    }
    cells.push({ step, layer, name, mode: RUN.modes[RUN.mode[s][layer]], forced: RUN.forced[s][layer] ? "forced" : "",
      cycles: RUN.cycles[s][layer], slots: RUN.slots[s][layer], cause: worst });
  }));
  const sum = (rows, layer) => rows.reduce((total, row) => total + row[layer], 0);
  const layers = RUN.names.map((name, layer) => {
    const cycles = sum(RUN.cycles, layer), priced = RUN.layers[layer];
    const working = causes.length ? sum(RUN.causes[causes[0]], layer) : 0;
    const row = { layer, name, op: RUN.ops[layer], cycles, occupancy: cycles ? working / cycles : 0 };
    if (priced && RUN.chip) {
      row.macs = priced.macs;
      row.bytes = priced.bytes;
      row.intensity = priced.macs / Math.max(priced.bytes, 1);
      row.macs_per_cycle = priced.macs / Math.max(cycles, 1);
      row.utilisation = priced.products / Math.max(RUN.chip.multipliers * cycles, 1);
    }
    return row;
  });
  const datasets = { cells, layers };

  // --- charts ---------------------------------------------------------------------------------------------------------
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let printing = false;
  function theme() {
    const night = dark.matches && !printing;
    const ink = night ? "#e6e9ec" : "#1d2329", soft = night ? "#9aa5af" : "#5c6670", line = night ? "#323a42" : "#e0e4e8";
    return { background: "transparent", font: "system-ui, sans-serif", view: { stroke: null },
      axis: { labelColor: soft, titleColor: soft, gridColor: line, domainColor: line, tickColor: line, titleFontWeight: 400, labelLimit: 220 },
      legend: { labelColor: ink, titleColor: soft, columns: window.innerWidth < 600 ? 2 : 6, symbolType: "square" }, text: { color: ink }, rule: { color: soft }, title: { color: ink } };
  }
  function used(spec, found = {}) {
    if (spec && typeof spec === "object") {
      if (spec.data && spec.data.name && datasets[spec.data.name]) found[spec.data.name] = datasets[spec.data.name];
      Object.values(spec).forEach((part) => used(part, found));
    }
    return found;
  }
  async function draw(place, spec) {
    const whole = { ...spec, datasets: { ...(spec.datasets || {}), ...used(spec) } };
    const shown = await vegaEmbed(place, whole, { renderer: "svg", config: theme(),
      actions: { export: true, source: false, compiled: false, editor: false } });
    shown.view.addEventListener("click", (_, item) => {
      if (item && item.datum && Number.isInteger(item.datum.layer)) openLayer(item.datum.layer);
    });
    place.dataset.drawn = "yes";
  }
  function places() { return [...document.querySelectorAll("[data-chart]")].filter((p) => SPECS[p.dataset.chart]); }
  function drawAll() { return Promise.all(places().map((place) => draw(place, SPECS[place.dataset.chart]))); }
  const chooser = document.getElementById("map-field");
  if (chooser) chooser.addEventListener("change", () => {
    const place = document.getElementById("map");
    place.dataset.chart = chooser.value;
    draw(place, SPECS[chooser.value]);
  });
  dark.addEventListener("change", drawAll);
  window.addEventListener("beforeprint", () => { printing = true; document.querySelectorAll("details").forEach((d) => { d.open = true; }); drawAll(); });
  window.addEventListener("afterprint", () => { printing = false; drawAll(); });

  // --- one layer ------------------------------------------------------------------------------------------------------
  const dialog = document.getElementById("layer"), body = document.getElementById("layer-body");
  function element(tag, text, parent) {
    const made = document.createElement(tag);
    made.textContent = text;
    if (parent) parent.append(made);
    return made;
  }
  function openLayer(layer) {
    const row = layers[layer];
    body.replaceChildren();
    element("h2", row.name, body).id = "layer-name";
    element("p", `layer ${layer}, ${row.op}: ${number.format(row.cycles)} cycles over the run, PEs at work in ${percent(row.occupancy)}`, body);
    const met = ["zero", "low", "full"].map((kind) => [kind, sum(RUN[kind], layer)]);
    const total = met.reduce((all, [, count]) => all + count, 0) || 1;
    element("p", "The encoder met " + met.map(([kind, count]) => `${percent(count / total)} ${kind}`).join(", ") + ".", body);
    if (row.macs !== undefined) element("p",
      `${number.format(row.macs)} MACs, ${number.format(row.bytes)} DRAM bytes: ${row.intensity.toFixed(1)} MACs a byte, ` +
      `${row.macs_per_cycle.toFixed(0)} MACs a cycle, multipliers used ${percent(row.utilisation)}`, body);
    const place = element("div", "", body);
    const rows = [], ran = RUN.steps.map((step, s) => `${RUN.modes[RUN.mode[s][layer]] ?? "absent"}${RUN.forced[s][layer] ? " (forced)" : ""}`);
    RUN.steps.forEach((step, s) => causes.forEach((cause) => rows.push({ step, cause, cycles: RUN.causes[cause][s][layer], mode: ran[s] })));
    draw(place, { ...SPECS.layer_causes, data: { values: rows } });
    const table = element("table", "", element("details", "", body));
    element("summary", "By step", table.parentElement);
    const head = element("tr", "", table);
    ["step", "mode", "cycles", "slots", ...causes].forEach((title) => element("th", title, head));
    RUN.steps.forEach((step, s) => {
      const line = element("tr", "", table);
      [step, ran[s], ...[RUN.cycles[s][layer], RUN.slots[s][layer], ...causes.map((c) => RUN.causes[c][s][layer])].map((n) => number.format(n))]
        .forEach((value) => element("td", value, line));
    });
    table.parentElement.classList.add("wide");
    element("p", "Its bytes, rows and slots:", body);
    element("pre", `ditto show run RUN --step 1 --layer ${row.name}`, body);
    history.replaceState(null, "", `#layer-${layer}`);
    if (!dialog.open) dialog.showModal();
  }
  dialog.addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));
  function fromAddress() {
    const match = location.hash.match(/^#layer-(\d+)$/);
    if (match && layers[Number(match[1])]) openLayer(Number(match[1]));
  }
  window.addEventListener("hashchange", fromAddress);

  // --- the table of layers --------------------------------------------------------------------------------------------
  const table = document.getElementById("layers");
  if (table) {
    const rows = [...table.tBodies[0].rows], search = document.getElementById("layer-search"), count = document.getElementById("layer-count");
    const value = (row, column) => {
      const cell = row.cells[column];
      return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
    };
    table.tHead.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const head = button.parentElement, down = head.getAttribute("aria-sort") !== "descending";
      table.querySelectorAll("th").forEach((th) => th.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      rows.sort((a, b) => {
        const x = value(a, head.cellIndex), y = value(b, head.cellIndex);
        return (typeof x === "number" ? x - y : x.localeCompare(y)) * (down ? -1 : 1);
      });
      table.tBodies[0].append(...rows);
    });
    search.addEventListener("input", () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row) => {
        const fits = words.every((word) => row.textContent.toLowerCase().includes(word));
        row.hidden = !fits;
        shown += fits;
      });
      count.textContent = `${shown} of ${rows.length} layers`;
    });
    table.tBodies[0].addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row) openLayer(Number(row.dataset.layer));
    });
    table.tBodies[0].addEventListener("keydown", (event) => {
      if (event.key === "Enter") openLayer(Number(event.target.closest("tr").dataset.layer));
    });
  }

  // --- pictures by step -----------------------------------------------------------------------------------------------
  const scrub = document.getElementById("scrub");
  if (scrub) {
    const frames = [...document.querySelectorAll("#frames img")], picture = document.getElementById("scrubbed"), label = document.getElementById("scrub-step");
    const show = () => { picture.src = frames[scrub.value].src; label.textContent = frames[scrub.value].dataset.step; };
    scrub.addEventListener("input", show);
    show();
  }

  // --- what if --------------------------------------------------------------------------------------------------------
  const whatIf = document.getElementById("what-if-data");
  if (whatIf) {
    const points = JSON.parse(whatIf.textContent), out = document.getElementById("what-if-result");
    const knobs = ["tiles", "bytes_per_cycle", "buffer_mb"].map((name) => {
      const input = document.getElementById(`knob-${name}`), values = [...new Set(points.map((p) => p[name]))].sort((a, b) => a - b);
      input.max = values.length - 1;
      input.value = Math.max(values.indexOf(Number(input.dataset.now)), 0);
      return { name, input, values, label: document.getElementById(`now-${name}`) };
    });
    const show = () => {
      const chosen = {};
      for (const knob of knobs) {
        chosen[knob.name] = knob.values[knob.input.value];
        knob.label.textContent = knob.name === "buffer_mb" && !chosen.buffer_mb ? "streaming" : number.format(chosen[knob.name]);
      }
      const here = points.filter((p) => knobs.every((k) => p[k.name] === chosen[k.name]));
      const itc = here.find((p) => p.design === "itc");
      out.replaceChildren();
      for (const point of here) {
        const line = element("tr", "", out);
        element("td", point.title, line);
        for (const text of [number.format(point.cycles), (1e3 * point.cycles / RUN.clock_hz).toFixed(3), itc ? (itc.cycles / point.cycles).toFixed(2) : "",
          (point.energy_pj / 1e9).toFixed(1), itc ? (point.energy_pj / itc.energy_pj).toFixed(2) : ""]) element("td", text, line).className = "n";
      }
    };
    knobs.forEach((knob) => knob.input.addEventListener("input", show));
    show();
  }

  drawAll().then(() => { fromAddress(); document.documentElement.dataset.ready = "yes"; });
})();
