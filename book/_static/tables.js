/* How readers name variables, families (as figures do) and what pandas computes; else their text. */
const READERS_NAMES = {
  ...window.familyNames, "25%": "lower quartile", "50%": "median", "75%": "upper quartile",
  adjusted_r2: "adjusted R\u00b2", bs: "batch size", cmi: "CMI", conv: "channels", convwidth: "channels",
  cooks_distance: "Cook's distance", dnn: "DNN", dropout_p: "dropout", False: "no",
  granulated_tau: "granulated tau", k_fold_r2: "R\u00b2 out of fold",
  kendall_tau: "Kendall's tau", leak_free: "leak-free", lgbm: "LightGBM", lr: "learning rate",
  mae: "mean absolute error", max: "largest", min: "least", models: "networks",
  nparams: "parameters", null_95: "95 % of null measures", null_mean: "null measures, mean",
  num_conv_blocks: "convolution blocks", num_dense_layers: "dense layers", p_value: "p",
  peak_mib: "MiB at most", q1: "lower quartile", q3: "upper quartile", r2: "R\u00b2",
  r2_hyperparameters: "R\u00b2 of the hyper-parameters", r2_with_measure: "R\u00b2 with the measure",
  spearman: "Spearman", std: "standard deviation", tau: "Kendall's tau", True: "yes",
  vc_dimension: "VC dimension", wd: "weight decay",
};
const FEW = 16; // rows of a table that is always whole
const ROLES = { TBODY: "rowgroup", TD: "cell", TH: "rowheader", THEAD: "rowgroup", TR: "row" };
const PEOPLE = /bouldin|davies|fisher|frobenius|gauss|hessian|jacobian|newton|rao/g;

function readersName(text) {
  const own = text.replace(/^hp_/, "").replace(/^(-?[\d.]+) to \1$/, "$1");
  if (Object.hasOwn(READERS_NAMES, own)) return READERS_NAMES[own];
  if (!/^[a-z][a-z0-9_ ]*(:? -?[\d.]+)?$/.test(own)) return own.replace(/\bR2\b/g, "R\u00b2");
  return own.replaceAll("_", " ").replace("low rank", "low-rank").replace("pac bayes", "PAC-Bayes")
    .replace(/^train /, "training ").replace(PEOPLE, (name) => name[0].toUpperCase() + name.slice(1));
}

/* Tables of pandas as a reader wants them: one column of row labels, so that it can stay in sight
   while numbers scroll; no row of empty heads; a dash where there is no value. */
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.dataframe")) {
    if (!table.tBodies[0]?.rows.length) {
      table.replaceWith("There are no such rows for the networks of this page.");
      continue;
    }
    if (!table.closest(".tag_as-in-files")) inWords(table);
    oneColumnOfLabels(table);
    noEmptyRowOfHeads(table);
    wholeNumbers(table);
    headsInWords(table);
    toldApart(table);
    headsInCells(table);
    textsBeginLeft(table);
    intervalsUnbroken(table);
    sectionsLinked(table);
    for (const cell of table.querySelectorAll("td")) {
      if (/^(NaN|None|NaT)$/.test(cell.textContent.trim())) cell.textContent = "\u2013";
      if (/^-0\.0+$/.test(cell.textContent.trim())) cell.textContent = cell.textContent.replace("-", "");
    }
    const labels = [...table.querySelectorAll("tbody th:not(.group)")];
    table.classList.toggle("short", labels.every((label) => label.textContent.trim().length < 4));
    for (const head of table.querySelectorAll("th, td")) breakable(head);
  }
  for (const name of document.querySelectorAll("code .pre, dt.sig .pre")) {
    if (name.textContent.length > 20) breakable(name); // a short one has room for itself
  }
  const sizes = new ResizeObserver((changes) => changes.forEach(({ target }) => reachable(target)));
  document.querySelectorAll(".numbered .output.text_html").forEach((box) => sizes.observe(box));

  // A box that scrolls can be scrolled by the keyboard, and a long one shows all its rows at once;
  // a wide one is set small, and says so if that does not do.
  function reachable(box) {
    const isWide = () => box.scrollWidth > box.clientWidth + 1;
    const isVerdict = /\bverdict\b/.test(box.querySelector("thead")?.textContent);
    box.classList.toggle("verdicts", isVerdict);
    if (isWide() || isVerdict) box.classList.add("dense");
    const wide = isWide();
    const caption = box.closest(".numbered").querySelector(".caption");
    // Not for the sake of a few rows, and never of a verdict.
    const rows = box.querySelectorAll("tbody tr:not(:has(.group))").length;
    if (rows <= FEW || isVerdict) box.classList.add("whole");
    const tall = box.scrollHeight > box.clientHeight + 1;
    const name = box.closest(".numbered").id.replace("-", " ");
    caption.classList.toggle("scrolls", wide);
    if (tall || wide) {
      Object.assign(box, { tabIndex: 0, role: "region", ariaLabel: `Rows of ${name}` });
    } else {
      ["tabindex", "role", "aria-label"].forEach((attribute) => box.removeAttribute(attribute));
    }
    if (tall && !caption.querySelector("button")) {
      const button = Object.assign(document.createElement("button"), {
        type: "button", className: "all-rows", textContent: `All ${rows} rows`,
      });
      button.setAttribute("aria-pressed", false);
      button.addEventListener("click", () => {
        button.setAttribute("aria-pressed", box.classList.toggle("whole"));
      });
      caption.append(" ", button);
    }
  }

  /* Names of variables, of families and of what pandas computes, as a reader says them. */
  function inWords(table) {
    const texts = document.createTreeWalker(table, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const text = texts.currentNode;
      if (text.parentElement.matches("th, td")) text.data = readersName(text.data.trim());
    }
  }

  // Groups of rows under a title of their own; or, of one row each, their labels in one cell.
  function oneColumnOfLabels(table) {
    const rows = [...table.tBodies[0].rows];
    const levels = rows[0]?.querySelectorAll("th").length ?? 0;
    if (levels < 2) return;
    for (const row of table.tHead.rows) {
      const first = row.cells[0];
      while (first.colSpan < levels) {
        const next = row.cells[1];
        first.textContent = joined([first.textContent, next.textContent]);
        first.colSpan += next.colSpan;
        next.remove();
      }
      first.colSpan = 1;
    }
    const width = Math.max(...rows.map((row) => row.querySelectorAll("td").length)) + 1;
    const grouped = rows.some((row) => row.querySelectorAll("th").length < levels);
    const current = [];
    for (const row of rows) {
      const labels = [...row.querySelectorAll("th")];
      for (const label of labels) { // of a hyper-parameter that some networks lack
        label.textContent = label.textContent.trim().replace(/^(-?\d+)\.0$/, "$1");
      }
      const own = labels.pop();
      if (labels.length) {
        const texts = labels.map((label) => label.textContent.trim());
        current.splice(levels - 1 - labels.length, labels.length, ...texts);
        if (grouped) row.before(title(joined(current), width));
        else own.textContent = joined([...texts, own.textContent]);
      }
      labels.forEach((label) => label.remove());
    }
  }

  function title(text, width) {
    const row = document.createElement("tr");
    row.innerHTML = `<th class="group" colspan="${width}" scope="rowgroup"><span></span></th>`;
    row.querySelector("span").textContent = text;
    return row;
  }

  /* Counts that stand among fractions are written as such: rows and columns of whole numbers. */
  function wholeNumbers(table) {
    const rows = rowsOf(table);
    const columns = columnsOf(rows);
    for (const cells of [...rows.filter((row) => row.length > 1), ...columns]) {
      const texts = cells.map((cell) => cell.textContent.trim());
      const whole = texts.every((text) => /^(-?\d+(\.0+)?|NaN)$/.test(text));
      if (whole && texts.some((text) => Math.abs(text) >= 2)) {
        cells.forEach((cell, at) => { cell.textContent = texts[at].replace(/\.0+$/, ""); });
      }
    }
  }

  function rowsOf(table) {
    const rows = [...table.tBodies[0].rows].map((row) => [...row.querySelectorAll("td")]);
    return rows.filter((cells) => cells.length); // the others are titles of groups
  }

  function columnsOf(rows) {
    return (rows[0] ?? []).map((_, at) => rows.map((row) => row[at]).filter(Boolean));
  }

  /* Numbers end where their column ends; texts begin where it begins, and their head with them. */
  function textsBeginLeft(table) {
    const heads = [...(table.tHead?.rows ?? [])].at(-1)?.cells ?? [];
    columnsOf(rowsOf(table)).forEach((cells, at) => {
      const texts = cells.map((cell) => cell.textContent.trim());
      const lists = texts.some((text) => /^-?[\d.]+, /.test(text)); // values of a hyper-parameter
      if (!lists && texts.some((text) => /^[-\u2013]?[\d.]|^(-?inf|NaN)$/.test(text))) return;
      [heads[at + 1], ...cells].forEach((cell) => cell?.classList.add("of-text"));
    });
  }

  /* A number and its interval are two lines at most, each whole. */
  function intervalsUnbroken(table) {
    for (const cell of table.querySelectorAll("td")) {
      const [, number = "", interval] = cell.textContent.trim()
        .match(/^([-\d.]+ )?(\[[-\d., ]+\]|\([-\d.]+ to [-\d.]+\)|[-\d.]+ to [-\d.]+)$/) ?? [];
      if (!interval) continue;
      const whole = Object.assign(document.createElement("span"), { className: "interval" });
      whole.textContent = interval;
      cell.replaceChildren(number, whole);
    }
  }

  /* The section that a verdict rests on, or that a row is about, is a click away. */
  function sectionsLinked(table) {
    if (!/\bshown\b/.test(table.tHead?.textContent)) return;
    const sections = [...document.querySelectorAll("section[id] > :is(h2, h3)")];
    for (const cell of table.querySelectorAll("td.of-text")) {
      const text = cell.textContent.trim();
      const heading = sections.find(({ firstChild }) =>
        firstChild.textContent.replace(/^\d+\. /, "").startsWith(text));
      if (!heading) continue;
      const link = document.createElement("a");
      Object.assign(link, { href: `#${heading.parentElement.id}`, textContent: text });
      cell.replaceChildren(link);
    }
  }

  /* Columns are named as in the CSV file beside the table; on the page, in words. */
  function headsInWords(table) {
    if (!table.tHead) return;
    const texts = document.createTreeWalker(table.tHead, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replaceAll("_", " ");
  }

  /* On a phone a row with a verdict is a card, whose cells say what they are. */
  function headsInCells(table) {
    if (!/\bverdict\b/.test(table.tHead?.textContent)) return;
    const heads = [...[...table.tHead.rows].at(-1).cells].map((head) => head.textContent.trim());
    for (const row of table.tBodies[0].rows) {
      [...row.cells].forEach((cell, at) => { cell.dataset.head = heads[at]; });
    }
    // What it is, for browsers that take a card for no table.
    table.setAttribute("role", "table");
    for (const part of table.querySelectorAll("thead, tbody, tr, th, td")) {
      part.setAttribute("role", part.matches("thead th") ? "columnheader" : ROLES[part.tagName]);
    }
  }

  /* Published numbers have a shade of their own; where rows compete, the best score is bold. */
  function toldApart(table) {
    const names = [];
    for (const row of table.tHead?.rows ?? []) {
      let at = 0;
      for (const head of row.cells) {
        for (const end = at + head.colSpan; at < end; at++) {
          names[at] = `${names[at] ?? ""} ${head.textContent}`;
        }
      }
    }
    const groups = [[]];
    for (const row of table.tBodies[0].rows) {
      if (row.querySelector(".group")) groups.push([]);
      else groups.at(-1).push(row);
    }
    const rivals = /\b(measures?|predictors?)\b/.test(names[0]);
    names.forEach((name, at) => {
      const better = rivals * (/(\bR2|R\u00b2( out of fold)?|\btau|\bcmi)\s*$/i.test(name) - /\b(mae|error)\s*$/.test(name));
      for (const rows of groups) {
        const cells = rows.map((row) => row.cells[at]).filter((cell) => cell?.matches("td"));
        if (/\bpublished\b/.test(name)) cells.forEach((cell) => cell.classList.add("published"));
        const values = cells.map((cell) => better * parseFloat(cell.textContent));
        const best = Math.max(...values.filter(Number.isFinite));
        if (better && cells.length > 2) cells[values.indexOf(best)]?.classList.add("best");
      }
    });
  }

  function noEmptyRowOfHeads(table) {
    const heads = [...(table.tHead?.rows ?? [])];
    const [above, last] = heads.slice(-2);
    const [name, ...others] = last?.cells ?? [];
    if (heads.length > 1 && others.every((cell) => !cell.textContent.trim())) {
      above.cells[0].textContent = joined([name.textContent, above.cells[0].textContent], " / ");
      last.remove();
    }
    for (const empty of table.querySelectorAll("thead th:empty")) {
      empty.replaceWith(Object.assign(document.createElement("td"), { colSpan: empty.colSpan }));
    }
  }

  function joined(texts, by = ", ") {
    return texts.map((text) => text.trim()).filter(Boolean).join(by);
  }

  // Long names break at their underscores, and paths at their folders.
  function breakable(cell) {
    const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
    const found = [];
    while (texts.nextNode()) if (/[_/]/.test(texts.currentNode.data)) found.push(texts.currentNode);
    for (const text of found) {
      const parts = text.data.split(/(?<=[_/])/);
      text.replaceWith(...parts.flatMap((part) => [part, document.createElement("wbr")]));
    }
  }
});
