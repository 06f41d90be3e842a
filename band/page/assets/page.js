"use strict";
// Draws the charts, and lets table, brushes and filters follow each other. Text goes into the page by textContent alone.
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const once = (make) => { let value; return () => (value === undefined ? (value = make()) : value); };
  const data = read("data");
  const curves = once(() => read("curves"));
  const details = once(() => read("details"));
  const INK = "#1b1f24", QUIET = "#575d66", RULE = "#e4e7ea";
  const PAGE_ROWS = 100;
  const rows = data.rows, columns = data.columns;
  const colourOf = (row) => data.series[data.series_of[row]].colour;
  const state = { words: "", filters: data.axes.map(() => []), sort: 0, isDown: false, limit: PAGE_ROWS };
  let kept = rows.map((_, row) => row), isKept = new Set(kept), isFiltered = false;

  function element(name, attributes, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined).map((c) => (c instanceof Node ? c : String(c))));
    return made;
  }
  const words = (value) => (value === null || value === undefined ? "–" : String(value));
  const short = (value) => (typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(4)).toString() : words(value));

  // What is kept ------------------------------------------------------------------------------------------------------

  function passes(row, axis, intervals) {
    if (!intervals.length) return true;
    let value = rows[row][axis.column];
    if (axis.type === "category") value = axis.values.indexOf(value);
    if (value === null || value === undefined || value === -1) return false;
    return intervals.some(([low, high]) => value >= low && value <= high);
  }
  const texts = once(() => rows.map((row) => row.map(words).join(" ").toLowerCase()));

  function refilter() {
    const asked = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    kept = [];
    for (let row = 0; row < rows.length; row++) {
      if (asked.length && !asked.every((word) => texts()[row].includes(word))) continue;
      if (data.axes.every((axis, n) => passes(row, axis, state.filters[n]))) kept.push(row);
    }
    isFiltered = kept.length < rows.length;
    isKept = new Set(kept);
    state.limit = PAGE_ROWS;
    drawTable();
    for (const chart of charts) chart.follow?.();
  }
  let isAsked = false;
  function refilterSoon() {
    if (isAsked) return;
    isAsked = true;
    requestAnimationFrame(() => { isAsked = false; refilter(); });
  }
  const opacity = (row, normal) => (!isFiltered || isKept.has(row) ? normal : 0.05);

  // The table of runs --------------------------------------------------------------------------------------------------

  const box = document.getElementById("runs-box"), count = document.getElementById("count"), more = document.getElementById("more");
  const isNumber = columns.map((_, c) => rows.every((row) => row[c] === null || typeof row[c] === "number"));
  const body = element("tbody"), heads = columns.map((column, c) =>
    element("th", { scope: "col", class: `${isNumber[c] ? "number" : ""} ${column.group}`, "aria-sort": "none" },
      element("button", { type: "button", onclick: () => sortBy(c) }, column.label)));

  function sortBy(column) {
    state.isDown = state.sort === column ? !state.isDown : isNumber[column];
    state.sort = column;
    drawTable();
  }
  function sorted() {
    const c = state.sort, sign = state.isDown ? -1 : 1;
    const known = kept.filter((row) => rows[row][c] !== null), unknown = kept.filter((row) => rows[row][c] === null);
    const compare = isNumber[c] ? (a, b) => rows[a][c] - rows[b][c]
      : (a, b) => String(rows[a][c]).localeCompare(String(rows[b][c]), undefined, { numeric: true });
    return [...known.sort((a, b) => sign * compare(a, b) || a - b), ...unknown];
  }
  function cell(row, c) {
    const value = rows[row][c];
    if (c === 0) return element("th", { scope: "row" }, runLink(row));
    return element("td", { class: isNumber[c] ? "number" : null }, columns[c].group === "score" ? fixed(value, columns[c].key) : short(value));
  }
  const clipped = (word, most) => (String(word).length > most ? `${String(word).slice(0, most - 1)}…` : String(word));
  const fixed = (value, key) => (typeof value === "number" ? value.toFixed(/bits|bps/.test(key) ? 4 : 3) : words(value));
  function runLink(row) {
    return element("a", { href: data.links[row], "data-run": rows[row][0], "data-row": row }, rows[row][0]);
  }
  function drawTable() {
    if (!box) return;
    const order = sorted().slice(0, state.limit);
    body.replaceChildren(...order.map((row) => element("tr", null, ...columns.map((_, c) => cell(row, c)))));
    heads.forEach((head, c) => head.setAttribute("aria-sort", c === state.sort ? (state.isDown ? "descending" : "ascending") : "none"));
    const part = order.length < kept.length ? `, the first ${order.length} in the table` : "";
    count.textContent = `${kept.length} of ${rows.length} runs${part}, sorted by ${columns[state.sort].label}, ${state.isDown ? "descending" : "ascending"}.`;
    more.hidden = order.length >= kept.length;
  }
  box.append(element("table", null, element("caption", null, "All published runs; a heading sorts, a name opens its run"),
    element("thead", null, element("tr", null, ...heads)), body));
  more.addEventListener("click", () => { state.limit += 5 * PAGE_ROWS; drawTable(); });

  // Filters ------------------------------------------------------------------------------------------------------------

  const search = document.getElementById("search");
  search.addEventListener("input", () => { state.words = search.value; refilterSoon(); });
  document.getElementById("clear").addEventListener("click", () => {
    search.value = state.words = "";
    data.axes.forEach((_, n) => setFilter(n, []));
    refilter();
  });
  const inputs = data.axes.map((axis, n) => {
    const legend = element("legend", null, axis.label);
    if (axis.type === "category") {
      const select = element("select", { "aria-label": axis.label, onchange: () => {
        setFilter(n, select.value === "" ? [] : [[Number(select.value), Number(select.value)]]); refilter();
      } }, element("option", { value: "" }, "any"), ...axis.data.map((word, k) => element("option", { value: k }, word)));
      document.getElementById("ranges").append(element("fieldset", null, legend, select));
      return { show: ([first]) => { select.value = first && first[0] === first[1] ? String(first[0]) : ""; } };
    }
    const ends = ["from", "to"].map(() => element("input", { type: "number", step: "any", onchange: () => {
      const [low, high] = ends.map((end) => (end.value === "" ? null : Number(end.value)));
      const [least, most] = extent(axis.column);
      setFilter(n, low === null && high === null ? [] : [[low ?? least, high ?? most]]);
      refilter();
    } }));
    document.getElementById("ranges").append(element("fieldset", null, legend,
      element("label", null, "from", ends[0]), element("label", null, "to", ends[1])));
    return { show: ([first]) => ends.forEach((end, k) => { end.value = first ? Number(first[k].toPrecision(4)) : ""; }) };
  });
  function extent(column) {
    const found = rows.map((row) => row[column]).filter((value) => typeof value === "number");
    return [Math.min(...found), Math.max(...found)];
  }
  let parallel = null;
  function setFilter(n, intervals) {
    state.filters[n] = intervals;
    inputs[n].show(intervals);
    parallel?.dispatchAction({ type: "axisAreaSelect", parallelAxisId: `axis${n}`, intervals });
  }

  // Pieces of charts ---------------------------------------------------------------------------------------------------

  const charts = [];
  function settled(lists) {  // limits of an axis that leave the fall of the first epochs out
    const found = lists.flatMap((values) => values.slice(Math.ceil(values.length / 6))).filter((v) => v !== null).sort((a, b) => a - b);
    if (!found.length) return {};
    const [low, high] = [found[Math.floor(0.005 * found.length)], found[Math.ceil(0.995 * (found.length - 1))]];
    const margin = 0.05 * (high - low) || 1;
    return { min: Number((low - margin).toPrecision(4)), max: Number((high + margin).toPrecision(4)) };
  }
  const axisText = { color: QUIET, fontSize: 12 };
  const valueAxis = (name, more) => ({
    type: "value", scale: true, name, nameLocation: "middle", nameGap: 28, nameTextStyle: { color: INK, fontSize: 12 },
    axisLabel: { ...axisText, hideOverlap: true, formatter: (value) => short(value) }, axisLine: { show: true, onZero: false, lineStyle: { color: "#8a9099" } },
    splitLine: { lineStyle: { color: RULE } }, ...more,
  });
  // An axis of bits per spike spans 0.01 at least: what is as good as equal shall not look far apart.
  const missing = (low, high) => Math.max(0, 0.01 - (high - low)) / 2;
  const rounded = (value) => Number(value.toFixed(4));
  const bits = (label) => (/bits|bps/.test(label) ? {
    min: ({ min, max }) => (max - min < 0.01 ? rounded(min - missing(min, max)) : undefined),
    max: ({ min, max }) => (max - min < 0.01 ? rounded(max + missing(min, max)) : undefined),
  } : {});
  const upright = (name, more) => valueAxis(name, { nameGap: 46, nameTextStyle: { color: INK, fontSize: 12, width: 250, overflow: "truncate" }, ...more });
  function tip(title, ...lines) {
    return element("div", { class: "tip" }, element("b", null, title), ...lines.flatMap((line) => [line, element("br")]));
  }
  const tooltip = (formatter) => ({ trigger: "item", confine: true, formatter, transitionDuration: 0 });
  const base = (more) => ({ animation: false, textStyle: { fontFamily: "system-ui, Arial, sans-serif" }, grid: { left: 62, right: 18, top: 14, bottom: 46 }, ...more });
  function about(row) {
    return columns.filter((c) => c.group === "parameter").map((c) => `${c.label} ${short(rows[row][columns.indexOf(c)])}`).join(", ");
  }
  const runTip = (row, ...lines) => tip(rows[row][0], `${data.series[data.series_of[row]].name}${about(row) ? `: ${about(row)}` : ""}`, ...lines);
  function legend(figure) {
    const isPaired = figure.querySelector(".forest") !== null;  // then LFADS is what the others are compared with
    const items = data.series.filter((one) => !isPaired || one.name !== "LFADS").map((one) => element("li", null, element("span", { style: `background:${one.colour}`, "aria-hidden": "true" }), one.name));
    figure.prepend(element("ul", { class: "legend", "aria-label": "Colours" }, ...items));
  }

  // Charts, by kind: each returns an option, and what to do when other runs are kept --------------------------------------

  const kinds = {
    forest(n, host) {
      const panel = data.forest[n], found = panel.rows.map((row, y) => ({ row, y })).filter(({ row }) => row);
      const colour = (row) => (data.series.find((one) => one.name === row.model) || data.series[0]).colour;
      const said = (row) => tip(row.label, `BAND − LFADS ${short(row.mean)}`, `${row.what} ${short(row.low)} … ${short(row.high)}`, row.count);
      host.style.height = `${90 + 26 * panel.labels.length}px`;
      return { option: base({
        grid: { left: 150, right: 18, top: 30, bottom: 46 },
        title: { text: panel.label, left: 0, top: 0, textStyle: { fontSize: 13, fontWeight: 600, color: INK } },
        tooltip: tooltip((p) => (p.data.row ? said(p.data.row) : runTip(p.data.value[2], `BAND − LFADS ${short(p.data.value[0])}`))),
        xAxis: valueAxis("BAND − LFADS, test", { min: ({ min, max }) => (min > 0 ? 0 : bits(panel.label).min?.({ min, max })),
          max: ({ min, max }) => (max < 0 ? 0 : bits(panel.label).max?.({ min, max })) }),
        yAxis: { type: "category", inverse: true, data: panel.labels, axisTick: { show: false }, axisLine: { show: false },
          axisLabel: { color: INK, fontSize: 12, width: 138, overflow: "break", interval: 0 } },
        series: [
          { type: "lines", coordinateSystem: "cartesian2d", polyline: true, silent: true, symbol: "none",
            data: found.map(({ row, y }) => ({ coords: [[row.low, y], [row.high, y]], lineStyle: { color: colour(row), width: row.what.startsWith("95") ? 4 : 1.5, opacity: 1 } })),
            markLine: { silent: true, symbol: "none", label: { show: false }, data: [{ xAxis: 0 }], lineStyle: { color: QUIET, type: "dashed" } } },
          { type: "scatter", symbolSize: 5, data: found.flatMap(({ row, y }) => row.points.map(([x, run]) => ({ value: [x, y, run], itemStyle: { color: colour(row), opacity: 0.55 } }))), symbolOffset: [0, 8] },
          { type: "scatter", symbolSize: 10, data: found.map(({ row, y }) => ({ value: [row.mean, y], row, itemStyle: { color: colour(row) } })) },
        ],
      }), runOf: (p) => p.data.value && p.data.value[2] };
    },
    effect(n) {
      const panel = data.effects[n], x = columns[panel.x], y = columns[panel.y];
      const place = (value) => (panel.type === "category" ? panel.values.indexOf(value) : value);
      const points = (s) => rows.map((row, r) => [place(row[panel.x]), row[panel.y], r]).filter(([, v, r]) => data.series_of[r] === s && v !== null);
      const means = (s) => panel.values.map((_, k) => {
        const own = points(s).filter(([v]) => v === k).map(([, v]) => v);
        return own.length ? [k, own.reduce((a, b) => a + b, 0) / own.length] : [k, null];
      });
      const axis = panel.type === "category"
        ? { ...valueAxis(x.label), type: "category", data: panel.data, splitLine: { show: false } } : valueAxis(x.label, { type: panel.type });
      const series = () => data.series.flatMap((one, s) => [
        { id: `p${s}`, type: "scatter", symbolSize: 6, data: points(s).map((value) => ({ value, itemStyle: { color: one.colour, opacity: opacity(value[2], 0.5) } })) },
        ...(panel.type === "category" ? [{ id: `m${s}`, type: "line", silent: true, symbolSize: 8, symbol: "circle", connectNulls: true, color: one.colour, lineStyle: { width: 2 }, data: means(s) }] : []),
      ]);
      return { option: base({ tooltip: tooltip((p) => runTip(p.value[2], `${y.label} ${short(p.value[1])}`)), xAxis: axis, yAxis: upright(`${y.label}, test`, bits(y.label)), series: series() }),
        runOf: (p) => p.seriesType === "scatter" && p.value[2], follow: (chart) => chart.setOption({ series: series() }) };
    },
    parallel(n, host) {
      const isNarrow = host.clientWidth < 640;
      if (isNarrow) host.style.height = `${70 + 58 * data.axes.length}px`;
      const values = (row) => data.axes.map((axis) => (axis.type === "category" ? axis.data[axis.values.indexOf(rows[row][axis.column])] ?? null : rows[row][axis.column]));
      const lines = () => rows.map((_, row) => ({ value: values(row), row, lineStyle: { color: colourOf(row), opacity: opacity(row, Math.min(0.7, Math.max(0.2, 60 / rows.length))) } }));
      const option = base({
        grid: undefined,
        tooltip: tooltip((p) => runTip(p.data.row, ...data.axes.map((axis) => `${axis.label} ${short(rows[p.data.row][axis.column])}`))),
        parallel: { left: isNarrow ? 16 : 64, right: isNarrow ? 30 : 60, top: isNarrow ? 40 : 64, bottom: 24, layout: isNarrow ? "vertical" : "horizontal",
          parallelAxisDefault: { axisLine: { lineStyle: { color: "#8a9099" } }, axisTick: { lineStyle: { color: "#8a9099" } },
            areaSelectStyle: { width: 18, borderColor: "#00507d", borderWidth: 1, color: "rgba(0,114,178,0.25)", opacity: 1 } } },
        parallelAxis: data.axes.map((axis, dim) => ({
          ...(axis.type === "value" ? bits(axis.label) : {}), id: `axis${dim}`, dim, type: axis.type, scale: true, data: axis.data, boundaryGap: false, name: isNarrow ? axis.label : axis.label.replace(", ", ",\n"),
          nameLocation: isNarrow ? "start" : "end", nameGap: isNarrow ? -2 : 14,
          nameTextStyle: isNarrow ? { align: "left", verticalAlign: "bottom", padding: [1, 3, 1, 0], backgroundColor: "rgba(255,255,255,0.85)", color: INK, fontSize: 12 }
            : { color: INK, fontSize: 12, lineHeight: 15 },
          axisLabel: { ...axisText, backgroundColor: "rgba(255,255,255,0.75)", padding: [1, 2], hideOverlap: true,
            formatter: (value) => (axis.type === "category" ? clipped(value, 14) : short(value)) },
        })),
        series: [{ type: "parallel", inactiveOpacity: 0.03, activeOpacity: 0.8, lineStyle: { width: 1.2 }, data: lines(), emphasis: { lineStyle: { width: 3, opacity: 1 } } }],
      });
      return { option, runOf: (p) => p.data && p.data.row, follow: (chart) => chart.setOption({ series: [{ data: lines() }] }),
        made: (chart) => {
          parallel = chart;
          chart.on("axisareaselected", (event) => {
            const found = event.axesInfo ? event.axesInfo[0] : event;
            const axis = Number(String(found.parallelAxisId).replace("axis", ""));
            state.filters[axis] = found.intervals || [];
            inputs[axis].show(state.filters[axis]);
            refilterSoon();
          });
          state.filters.forEach((intervals, k) => { if (intervals.length) setFilter(k, intervals); });
        } };
    },
    curves(n, host) {
      const { epochs, runs, labels } = curves();
      const found = runs.map((run, row) => ({ row, epochs: epochs[run[0]], values: run[n + 1] })).filter((one) => one.values.some((v) => v !== null));
      if (!found.length) return null;
      const limits = settled(found.map((one) => one.values)), last = Math.max(...found.map((one) => one.epochs[one.epochs.length - 1] || 0));
      const width = found.length > 200 ? 0.6 : 1.2, normal = Math.min(0.85, Math.max(0.25, 40 / found.length));
      const lines = () => found.map(({ row, epochs: x, values }) => ({
        row, coords: x.map((epoch, k) => [epoch, values[k]]).filter(([, v]) => v !== null),
        lineStyle: { color: colourOf(row), width, opacity: opacity(row, normal) } }));
      return { option: base({
        tooltip: tooltip((p) => runTip(p.data.row, `${labels[n]}: last ${short(p.data.coords[p.data.coords.length - 1][1])}`)),
        xAxis: valueAxis("epoch", { min: 0, max: last }),
        yAxis: upright(labels[n], { ...limits, axisLabel: { ...axisText, showMinLabel: false, showMaxLabel: false, formatter: (v) => short(v) } }),
        series: [{ type: "lines", coordinateSystem: "cartesian2d", polyline: true, clip: true, data: lines(), emphasis: { lineStyle: { width: 3, opacity: 1 } } }],
      }), runOf: (p) => p.data.row, follow: (chart) => chart.setOption({ series: [{ data: lines() }] }) };
    },
    scatter(n) {
      const panel = data.scatter.panels[n], at = (row) => [rows[row][panel.x], rows[row][panel.y], row];
      const isThere = (row) => rows[row][panel.x] !== null && rows[row][panel.y] !== null;
      const normal = Math.max(0.3, Math.min(0.9, 100 / rows.length));
      const pairs = () => data.scatter.joined.filter(([a, b]) => isThere(a) && isThere(b)).map(([a, b]) => ({
        coords: [at(a).slice(0, 2), at(b).slice(0, 2)], lineStyle: { color: "#8a9099", width: 1, opacity: Math.min(opacity(a, normal), opacity(b, normal)) * 0.6 } }));
      const series = () => [
        { id: "pairs", type: "lines", coordinateSystem: "cartesian2d", polyline: true, silent: true, data: pairs() },
        ...data.series.map((one, s) => ({ id: `s${s}`, type: "scatter", symbolSize: 8, emphasis: { scale: 1.5 },
          data: rows.map((_, row) => row).filter((row) => data.series_of[row] === s && isThere(row))
            .map((row) => ({ value: at(row), itemStyle: { color: one.colour, opacity: opacity(row, normal) } })) })),
      ];
      return { option: base({ tooltip: tooltip((p) => runTip(p.value[2], `bits/spike ${short(p.value[0])}`, `${columns[panel.y].label} ${short(p.value[1])}`)),
        xAxis: valueAxis("bits/spike, test", bits("bits/spike")), yAxis: upright(`${columns[panel.y].label}, test`), series: series() }),
        runOf: (p) => p.value && p.value[2], follow: (chart) => chart.setOption({ series: series() }) };
    },
    ablation(n) {
      const panel = data.ablation[n];
      const lines = () => panel.runs.map(([row, a, b]) => ({ row, both: [a, b], coords: [[0, a], [1, b]], lineStyle: { color: colourOf(row), width: 1.4, opacity: opacity(row, Math.min(0.85, Math.max(0.15, 40 / panel.runs.length))) } }));
      const all = panel.runs.flatMap(([, a, b]) => [a, b]), low = Math.min(...all), high = Math.max(...all);
      const margin = (0.06 * (high - low) || 0.1) + (/bits|bps/.test(panel.label) ? missing(low, high) : 0);
      return { option: base({
        tooltip: tooltip((p) => runTip(p.data.row, `${panel.label}: ${short(p.data.both[0])}, inputs off ${short(p.data.both[1])}`)),
        xAxis: { ...valueAxis(""), type: "category", data: ["intact", "inputs off"], splitLine: { show: false }, axisLabel: { color: INK, fontSize: 12 } },
        yAxis: upright(`${panel.label}, test`, { min: rounded(low - margin), max: rounded(high + margin), axisLabel: { ...axisText, showMinLabel: false, showMaxLabel: false, formatter: (v) => short(v) } }),
        series: [{ type: "lines", coordinateSystem: "cartesian2d", polyline: true, data: lines(), emphasis: { lineStyle: { width: 3, opacity: 1 } } }],
      }), runOf: (p) => p.data.row, follow: (chart) => chart.setOption({ series: [{ data: lines() }] }) };
    },
    lineage(n) {
      const one = data.lineage[n], members = one.members, isBest = new Set(one.best);
      const there = members.map((m, k) => k).filter((k) => members[k].score !== null);
      const at = (k) => [members[k].generation, members[k].score];
      const lines = there.filter((k) => members[k].parent !== null && members[members[k].parent].score !== null).map((k) => {
        const leads = isBest.has(k) && isBest.has(members[k].parent);
        return { coords: [at(members[k].parent), at(k)], lineStyle: { color: leads ? "#0072B2" : "#8a9099", width: leads ? 3 : 0.8, opacity: leads ? 1 : 0.6 } };
      });
      return { option: base({
        grid: { left: 62, right: 18, top: 32, bottom: 46 },
        title: { text: one.label, left: 0, top: 0, textStyle: { fontSize: 13, fontWeight: 600, color: INK, width: 300, overflow: "truncate" } },
        tooltip: tooltip((p) => { const m = members[p.data.value[2]]; return tip(`generation ${m.generation}, member ${m.member}`, `score ${short(m.score)}`, ...m.words); }),
        xAxis: valueAxis("generation", { minInterval: 1, scale: false }), yAxis: upright("score"),
        series: [{ type: "lines", coordinateSystem: "cartesian2d", polyline: true, silent: true, data: lines },
          { type: "scatter", symbolSize: 6, data: there.map((k) => ({ value: [...at(k), k], itemStyle: { color: isBest.has(k) ? "#0072B2" : INK } })) }],
      }), runOf: () => one.run };
    },
    cost(n) {
      const attempts = data.cost.map((one, k) => ({ ...one, k })), runOf = (p) => (p.data.one ? p.data.one.run : null);
      const said = (p) => tip(p.data.one.label, `${short(p.data.one.minutes)} min, ${p.data.one.runs} runs published`, `asked ${short(p.data.one.asked)} GiB, used ${short(p.data.one.used)} GiB`);
      if (n === 0) {
        attempts.sort((a, b) => b.minutes - a.minutes);
        return { option: base({ tooltip: tooltip(said), xAxis: { ...valueAxis("attempts, longest first"), type: "category", data: attempts.map((_, k) => k + 1), splitLine: { show: false } },
          yAxis: upright("minutes", { scale: false }), series: [{ type: "bar", barMaxWidth: 24, itemStyle: { color: "#0072B2" }, data: attempts.map((one) => ({ value: one.minutes, one })) }] }), runOf };
      }
      const both = attempts.filter((one) => one.asked && one.used);
      if (!both.length) return null;
      const most = Number((1.1 * Math.max(...both.map((one) => Math.max(one.asked, one.used)))).toPrecision(2));
      return { option: base({ tooltip: tooltip(said), xAxis: valueAxis("memory asked (GiB)", { min: 0, max: most }), yAxis: upright("memory used at most (GiB)", { min: 0, max: most }),
        series: [{ type: "lines", coordinateSystem: "cartesian2d", polyline: true, silent: true, data: [{ coords: [[0, 0], [most, most]], lineStyle: { color: "#8a9099", type: "dashed", opacity: 1 } }] },
          { type: "scatter", symbolSize: 9, itemStyle: { color: "#0072B2" }, data: both.map((one) => ({ value: [one.asked, one.used], one })) }] }), runOf };
    },
  };

  function draw(host) {
    const made = kinds[host.dataset.kind](Number(host.dataset.index), host);
    if (!made) { host.remove(); return; }
    const chart = echarts.init(host, null, { renderer: "canvas" });
    chart.setOption(made.option);
    chart.on("click", (event) => { const row = made.runOf?.(event); if (typeof row === "number") openRun(row); });
    made.made?.(chart);
    charts.push({ host, chart, follow: made.follow && (() => made.follow(chart)) });
    sizes.observe(host);
  }
  const sizes = new ResizeObserver((entries) => entries.forEach((entry) => {
    const found = echarts.getInstanceByDom(entry.target);
    if (found && entry.contentRect.width) found.resize();
  }));
  const seen = new IntersectionObserver((entries) => entries.forEach((entry) => {
    if (!entry.isIntersecting) return;
    seen.unobserve(entry.target);
    draw(entry.target);
  }), { rootMargin: "250px" });

  // One run ------------------------------------------------------------------------------------------------------------

  const dialog = document.getElementById("run");
  function openRun(row) {
    const found = details(), own = columns.map((column, c) => [column, rows[row][c]]).filter(([column]) => column.group === "parameter" || column.key === "model");
    const splits = ["test", "valid", "train"];
    const scores = found.names.map((name, k) => [name, ...splits.map((split) => found[split][row][k])]).filter(([, ...values]) => values.some((value) => value !== null));
    const training = Object.entries(found.training[row]).filter(([, value]) => value !== null);
    const pairs = (list) => element("dl", null, ...list.flatMap(([term, value]) => [element("dt", null, term), element("dd", null, short(value))]));
    const table = element("table", null, element("caption", null, "Scores"), element("thead", null, element("tr", null, element("th", { scope: "col" }, "score"), ...splits.map((split) => element("th", { scope: "col", class: "number" }, split)))),
      element("tbody", null, ...scores.map(([name, ...values]) => element("tr", null, element("th", { scope: "row" }, name), ...values.map((value) => element("td", { class: "number" }, short(value)))))));
    dialog.replaceChildren(
      element("button", { type: "button", class: "close", onclick: () => dialog.close() }, "Close"),
      element("h2", { id: "run-title" }, rows[row][0]),
      element("p", null, element("a", { href: data.links[row] }, "Folder of this run"), ": result.json, metrics.csv, outputs.h5, model.pt"),
      pairs(own.map(([column, value]) => [column.label, value])),
      element("div", { class: "panels" }, ...small(row)),
      element("div", { class: "box", tabindex: "0", role: "region", "aria-label": "Scores of this run" }, table),
      element("h3", null, "How training ended"), pairs(training));
    history.replaceState(null, "", `#run=${encodeURIComponent(rows[row][0])}`);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    dialog.querySelectorAll(".chart").forEach((host) => {
      const chart = echarts.init(host), n = Number(host.dataset.index), { epochs, runs, labels } = curves();
      chart.setOption(base({ tooltip: { trigger: "axis", confine: true, valueFormatter: short }, grid: { left: 56, right: 12, top: 30, bottom: 40 },
        title: { text: labels[n], left: 0, top: 0, textStyle: { fontSize: 12, fontWeight: 600, color: INK } },
        xAxis: valueAxis("epoch", { nameGap: 24 }), yAxis: valueAxis("", { ...settled([runs[row][n + 1]]), axisLabel: { ...axisText, showMinLabel: false, showMaxLabel: false, formatter: (v) => short(v) } }),
        series: [{ type: "line", showSymbol: false, color: colourOf(row), data: epochs[runs[row][0]].map((epoch, k) => [epoch, runs[row][n + 1][k]]) }] }));
    });
  }
  function small(row) {
    const { runs, labels } = curves();
    return labels.map((label, n) => [label, n]).filter(([, n]) => runs[row][n + 1].some((value) => value !== null))
      .map(([label, n]) => element("div", { class: "chart", role: "img", "aria-label": `${label} of this run`, "data-index": n }));
  }
  dialog.addEventListener("close", () => {
    dialog.querySelectorAll(".chart").forEach((host) => echarts.getInstanceByDom(host)?.dispose());
    dialog.replaceChildren();
    history.replaceState(null, "", location.pathname + location.search);
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  const byName = once(() => new Map(rows.map((row, n) => [row[0], n]).reverse()));
  document.addEventListener("click", (event) => {
    const found = event.target.closest?.("a[data-run]");
    if (!found || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const row = found.dataset.row === undefined ? byName().get(found.dataset.run) : Number(found.dataset.row);
    if (row === undefined) return;
    event.preventDefault();
    openRun(row);
  });

  drawTable();
  document.querySelectorAll("figure").forEach((figure) => { if (figure.querySelector(".panels:not(.lineage):not(.cost)")) legend(figure); });
  document.querySelectorAll("main .chart").forEach((host) => seen.observe(host));
  if (location.hash.startsWith("#run=")) {
    const row = byName().get(decodeURIComponent(location.hash.slice(5)));
    if (row !== undefined) openRun(row);
  }
  document.documentElement.dataset.ready = "yes";
})();
