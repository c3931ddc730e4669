/* What assistive technology cannot read of the theme's and docutils' pages. */
document.addEventListener("DOMContentLoaded", () => {
  for (const summary of document.querySelectorAll("#pst-primary-sidebar summary")) {
    summary.ariaLabel = "Pages below this one";
  }
  const sidebar = document.querySelector("#pst-primary-sidebar");
  if (sidebar) Object.assign(sidebar, { role: "region", ariaLabel: "The book" });
  for (const part of document.querySelectorAll(".sig dl, .sig dd")) {
    // The lines of a long signature define nothing.
    const plain = Object.assign(document.createElement("div"), {
      className: `sig-${part.localName}`,
    });
    plain.append(...part.childNodes);
    part.replaceWith(plain);
  }
  for (const cited of document.querySelectorAll(".citation-list, .citation")) {
    cited.removeAttribute("role"); // a role that is out of use, in a list of more than items
  }
});
