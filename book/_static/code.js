/* One switch for all folded code of a page, kept for the next one; definitions are folded after their
   formula; on paper nothing is folded. */
document.addEventListener("DOMContentLoaded", () => {
  const main = document.querySelector("article");
  const folded = [...(main?.querySelectorAll("div.cell > details.hide") ?? [])];
  const heading = main?.querySelector("h1");
  if (folded.length && heading) {
    const kept = (value) => {
      try {
        if (value) localStorage.setItem("gengap-code", value);
        return localStorage.getItem("gengap-code");
      } catch {
        return null; // a browser that keeps nothing for pages opened as files
      }
    };
    const button = Object.assign(document.createElement("button"), {
      type: "button", className: "code-switch",
    });
    const show = (open) => {
      for (const part of folded) part.open = open;
      button.setAttribute("aria-pressed", open);
      button.textContent = open ? "Fold all code" : `Show all code (${folded.length} cells)`;
    };
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-pressed") !== "true";
      show(open);
      kept(open ? "open" : "folded");
    });
    heading.after(button);
    main.classList.add("code-switched"); // cells that show nothing but code are then out of sight
    show(kept() === "open");
  }

  for (const text of main?.querySelectorAll("dl.py.function > dd") ?? []) {
    const parts = [...text.children];
    const rest = parts.slice(1 + Math.max(0, parts.findIndex((part) => part.matches("div.math"))));
    if (rest.length) {
      const more = Object.assign(document.createElement("details"), { className: "more" });
      more.append(document.createElement("summary"), ...rest);
      more.firstChild.textContent = "Source, and what else is to know";
      text.append(more);
    }
  }
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  target?.parentElement.querySelectorAll("details.more").forEach((more) => { more.open = true; });

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("article details:not([open])")];
    for (const part of closed) part.open = true;
  });
  addEventListener("afterprint", () => {
    for (const part of closed) part.open = false;
  });
});
