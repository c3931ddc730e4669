// What tests ask of a rendered page; each function returns faults in words, none where all is well.
const seen = (element) =>
  element.checkVisibility({ opacityProperty: true, visibilityProperty: true })
  && !element.closest(".visually-hidden, .sr-only, [aria-hidden=true]");
const told = (element) => {
  const text = (element.innerText || element.getAttribute("alt") || "").trim().slice(0, 40);
  return `${element.tagName.toLowerCase()}.${[...element.classList].join(".")} "${text}"`;
};

// --- colours

const channels = (colour) => {
  const numbers = colour.match(/-?[\d.]+(?:e-?\d+)?/g).map(Number);
  const scale = colour.startsWith("rgb") ? 255 : 1;
  if (!/^(rgba?|color\(srgb)/.test(colour)) throw new Error(`what colour is ${colour}?`);
  return [...numbers.slice(0, 3).map((part) => part / scale), numbers[3] ?? 1];
};
const over = (above, below) => {
  const alpha = above[3];
  return [0, 1, 2].map((at) => alpha * above[at] + (1 - alpha) * below[at]).concat(1);
};
const ground = (element) => {
  const layers = [];
  for (let at = element; at; at = at.parentElement) {
    const style = getComputedStyle(at);
    if (style.backgroundImage !== "none") return null; // a picture: nobody can compute it here
    layers.push(channels(style.backgroundColor));
    if (layers.at(-1)[3] === 1) break;
  }
  return layers.reduceRight((below, above) => over(above, below), [1, 1, 1, 1]);
};
const luminance = (colour) => {
  const [red, green, blue] = colour.map(
    (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const contrast = (one, other) => {
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
};

// Texts whose contrast is under 4.5, or 3 if they are large (WCAG 2.2, 1.4.3).
const faintTexts = () => {
  const faults = new Set();
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || element.closest("svg, :disabled, .disabled") || !seen(element)) continue;
    const below = ground(element);
    if (below === null) continue;
    const style = getComputedStyle(element);
    let opacity = 1;
    for (let at = element; at; at = at.parentElement) opacity *= getComputedStyle(at).opacity;
    const [red, green, blue, alpha] = channels(style.color);
    const found = contrast(over([red, green, blue, alpha * opacity], below), below);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (found < (large ? 3 : 4.5)) faults.add(`${found.toFixed(2)}: ${told(element)}`);
  }
  return [...faults];
};

// --- tables

const scrolls = (element) => /auto|scroll/.test(getComputedStyle(element).overflowX);
const cutting = (table) => {
  const { right } = table.getBoundingClientRect();
  for (let box = table.parentElement; box && box !== document.body; box = box.parentElement) {
    const clips = getComputedStyle(box).overflowX !== "visible";
    if (clips && right + box.scrollLeft > box.getBoundingClientRect().right + 1) return box;
  }
  return null;
};
const covered = (cell) => {
  cell.scrollIntoView({ block: "center", inline: "nearest", behavior: "instant" });
  const { left, right, top, bottom } = cell.getBoundingClientRect();
  const found = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
  return !cell.contains(found);
};

// Columns that nobody can see, and row labels that leave their row when it is scrolled.
const hiddenColumns = (paper) => {
  const faults = [];
  for (const table of document.querySelectorAll("table")) {
    const box = seen(table) && cutting(table);
    if (!box) continue;
    if (paper || !scrolls(box)) {
      faults.push(`cut: ${told(table)}`);
      continue;
    }
    box.scrollLeft = box.scrollWidth;
    const edge = box.getBoundingClientRect();
    const rows = [...table.rows].filter((row) => row.cells.length);
    const last = Math.max(...rows.map((row) => row.lastElementChild.getBoundingClientRect().right));
    if (last > edge.right + 1) faults.push(`beyond its box: ${told(table)}`);
    const body = rows.filter((row) => row.closest("tbody"));
    for (const row of [body[0], body[Math.floor(body.length / 2)], body.at(-1)]) {
      for (const cell of row?.querySelectorAll("th") ?? []) {
        const label = cell.querySelector(":scope > span") ?? cell; // of a cell across the table
        const { left } = label.getBoundingClientRect();
        if (left < edge.left - 1) faults.push(`label out of sight: ${told(label)}`);
        else if (covered(label)) faults.push(`label covered: ${told(label)}`);
      }
    }
    box.scrollLeft = 0;
  }
  return [...new Set(faults)];
};

// Tables with two labels in a row, a row of empty heads, or a value that is not a number.
const untidyTables = () =>
  [...document.querySelectorAll("table.dataframe")].filter((table) => {
    const heads = [...(table.tHead?.rows ?? [])].map((row) => [...row.cells].slice(1));
    const empty = heads.some((cells) => cells.every((cell) => !cell.textContent.trim()));
    const labels = [...table.tBodies[0].rows].map((row) => row.querySelectorAll("th").length);
    return empty || Math.max(...labels) > 1 || /\b(NaN|NaT)\b/.test(table.textContent);
  }).map(told);

// --- words for what is drawn, and the order of headings

const wordlessImages = () =>
  [...document.querySelectorAll("main img")]
    .filter(({ alt }) => !/\w+ \w+/.test(alt) || /[0-9a-f]{20}|\.(png|svg)$|^</.test(alt))
    .map((image) => `${image.getAttribute("src")}: "${image.alt}"`);

const disorderedHeadings = () => {
  const found = [...document.querySelectorAll("main :is(h1, h2, h3, h4, h5, h6)")].filter(seen);
  const levels = found.map((heading) => Number(heading.tagName[1]));
  const jumps = found.filter((_, at) => levels[at] > (levels[at - 1] ?? 0) + 1);
  const faults = jumps.map((heading) => `out of order: ${told(heading)}`);
  if (levels.filter((level) => level === 1).length !== 1) faults.push(`h1: ${levels.join(" ")}`);
  return faults;
};

const unsetFormulas = () =>
  [...document.querySelectorAll(".math")]
    .filter((math) => !math.querySelector("mjx-container svg")
      || math.querySelector("[data-mml-node=merror]"))
    .map(told);

// What a keyboard reaches without a sign of it.
const unseenFocus = () => {
  const look = (element) => {
    const style = getComputedStyle(element);
    const line = style.outlineStyle === "none" ? "" : style.outlineWidth + style.outlineColor;
    return [line, style.boxShadow, style.borderColor, style.backgroundColor].join(";");
  };
  const faults = new Set();
  const all = document.querySelectorAll("a[href], button, input, select, summary, [tabindex='0']");
  for (const element of [...all].filter((found) => seen(found) && !found.disabled)) {
    document.activeElement.blur();
    const before = look(element);
    element.focus({ preventScroll: true, focusVisible: true });
    if (document.activeElement === element && look(element) === before) faults.add(told(element));
  }
  return [...faults];
};
