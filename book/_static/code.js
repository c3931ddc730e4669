/* One switch for all folded code of a page, kept for the next one; on paper nothing is folded. */
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
    show(kept() === "open");
  }

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("article details:not([open])")];
    for (const part of closed) part.open = true;
  });
  addEventListener("afterprint", () => {
    for (const part of closed) part.open = false;
  });
});
