/* Tables of pandas as a reader wants them: one column of row labels, so that it can stay in sight
   while numbers scroll; no row of empty heads; a dash where there is no value. */
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.dataframe")) {
    if (!table.tBodies[0]?.rows.length) {
      table.replaceWith("There are no such rows for the networks of this page.");
      continue;
    }
    oneColumnOfLabels(table);
    noEmptyRowOfHeads(table);
    wholeNumbers(table);
    headsInWords(table);
    toldApart(table);
    for (const cell of table.querySelectorAll("td")) {
      if (/^(NaN|None|NaT)$/.test(cell.textContent.trim())) cell.textContent = "\u2013";
    }
    // Long names break at their underscores before a column leaves the page.
    for (const head of table.querySelectorAll("th, td")) breakable(head);
  }
  const sizes = new ResizeObserver((changes) => changes.forEach(({ target }) => reachable(target)));
  document.querySelectorAll(".numbered .output.text_html").forEach((box) => sizes.observe(box));

  // A box that scrolls can be scrolled by the keyboard, and a long one shows all its rows at once;
  // a wide one is set small, and says so if that does not do.
  function reachable(box) {
    const isWide = () => box.scrollWidth > box.clientWidth + 1;
    if (isWide()) box.classList.add("dense");
    const wide = isWide();
    const caption = box.closest(".numbered").querySelector(".caption");
    // Not for the sake of a few rows.
    const few = box.scrollHeight < 1.3 * box.clientHeight && !caption.querySelector("button");
    if (few) box.classList.add("whole");
    const tall = box.scrollHeight > box.clientHeight + 1;
    const name = box.closest(".numbered").id.replace("-", " ");
    caption.classList.toggle("scrolls", wide);
    if (tall || wide) {
      Object.assign(box, { tabIndex: 0, role: "region", ariaLabel: `Rows of ${name}` });
    } else {
      ["tabindex", "role", "aria-label"].forEach((attribute) => box.removeAttribute(attribute));
    }
    if (tall && !caption.querySelector("button")) {
      const rows = box.querySelectorAll("tbody tr:not(:has(.group))").length;
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
    const rows = [...table.tBodies[0].rows].map((row) => [...row.querySelectorAll("td")]);
    const columns = (rows[0] ?? []).map((_, at) => rows.map((row) => row[at]).filter(Boolean));
    for (const cells of [...rows, ...columns]) {
      const texts = cells.map((cell) => cell.textContent.trim());
      const whole = texts.every((text) => /^-?\d+(\.0+)?$/.test(text));
      if (whole && texts.some((text) => Math.abs(text) >= 2)) {
        cells.forEach((cell, at) => { cell.textContent = texts[at].replace(/\.0+$/, ""); });
      }
    }
  }

  /* Columns are named as in the CSV file beside the table; on the page, in words. */
  function headsInWords(table) {
    if (!table.tHead) return;
    const texts = document.createTreeWalker(table.tHead, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replaceAll("_", " ");
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
      const better = rivals * (/\b(r2|tau|cmi)\s*$/i.test(name) - /\b(mae|error)\s*$/.test(name));
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

  function breakable(cell) {
    const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
    const found = [];
    while (texts.nextNode()) if (texts.currentNode.data.includes("_")) found.push(texts.currentNode);
    for (const text of found) {
      const parts = text.data.split(/(?<=_)/);
      text.replaceWith(...parts.flatMap((part) => [part, document.createElement("wbr")]));
    }
  }
});
