/* The table of every score: sorts and filters the rows that book/every-score.md includes. */
(() => {
  const kept = JSON.parse(document.getElementById("every-score-data").textContent);
  const rows = kept.data.map((row) =>
    Object.fromEntries(row.map((value, at) => [kept.columns[at], value])));
  const number = (value) => value.toFixed(2).replace("-", "\u2212");
  const range = (low, high) => `<span class="interval">${number(low)} to ${number(high)}</span>`;

  // A link to a definition, or a number; what is missing is a dash, and the last when sorted.
  const link = (name) => `<a href="${kept.links[name]}">${readersName(name)}</a>`;
  const named = (title, key) => ({
    title, data: key, render: { display: link, _: (name) => name },
  });
  const measured = (title, key, shown) => ({
    title, data: null, type: "num", className: "dt-right", orderSequence: ["desc", "asc"],
    render: {
      display: (row) => (row[key] === null ? "\u2013" : shown(row)),
      sort: (row) => (row[key] === null ? -Infinity : row[key]),
      _: (row) => row[key],
    },
  });
  const columns = [
    { ...named("Measure", "measure"), cellType: "th" },
    { title: "Kind", data: "kind" },
    { title: "Family", data: "family" },
    named("Score", "score"),
    measured("Value", "value", (row) => number(row.value)),
    measured("95 % interval", "low", (row) => range(row.low, row.high)),
    measured("By chance", "null_95", (row) => range(row.null_05, row.null_95)),
    measured("Adjusted p", "p_adjusted", (row) => row.p_adjusted.toPrecision(2)),
    measured("Over the settings", "gain",
      (row) => `${number(row.gain)} (${range(row.gain_low, row.gain_high)})`),
    measured("Networks", "models", (row) => row.models),
    measured("Reliability", "reliability", (row) => number(row.reliability)),
    { title: "Note", data: "note", render: (note) => note ?? "" },
    { title: "known", data: "value", visible: false,
      render: (value) => (value === null ? "no" : "yes") },
  ];
  const place = { kind: 1, family: 2, score: 3, note: 11, known: 12 };

  const table = new DataTable("#every-score", {
    columns, data: rows, deferRender: true, autoWidth: false,
    order: [[4, "desc"]], pageLength: 25, lengthMenu: [10, 25, 100],
    layout: { topStart: "search", topEnd: "info", bottomStart: "pageLength", bottomEnd: "paging" },
    language: { search: "Find", lengthMenu: "_MENU_ rows a page", info: "_TOTAL_ rows",
      infoEmpty: "No row", infoFiltered: "of _MAX_", zeroRecords: "No such row" },
  });

  const form = document.querySelector(".every-score form");
  for (const select of form) {
    if (select.options.length === 1) {
      for (const value of new Set(rows.map((row) => row[select.name]))) {
        select.add(new Option(readersName(value), value));
      }
    }
  }
  const filter = () => {
    for (const select of form) {
      table.column(place[select.name]).search(select.value, { exact: select.value !== "" });
    }
    table.column(place.note).visible(form.known.value !== "yes"); // which has none
    table.draw();
  };
  // A strip of a definition asks for its measure, by all scores.
  const asked = new URLSearchParams(location.search).get("find");
  if (asked) table.search(asked);
  else form.score.value = "kendall_tau";
  form.addEventListener("change", filter);
  filter();
})();
