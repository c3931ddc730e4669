/* Figures of points answer to a pointer: the first that comes into view loads what draws them. */
document.addEventListener("DOMContentLoaded", () => {
  const beside = document.querySelector("script[src*='charts.js']").src;
  let loaded;
  const library = () => loaded ??= new Promise((resolve, reject) => {
    const script = Object.assign(document.createElement("script"), {
      src: new URL("vega.js", beside).href, onload: resolve, onerror: reject,
    });
    document.head.append(script);
  });

  const draw = async (figure) => {
    const image = figure.querySelector("img");
    const place = Object.assign(document.createElement("div"), { className: "chart" });
    const spec = JSON.parse(figure.querySelector("script").textContent);
    await library();
    await vegaEmbed(place, { ...spec, background: null, description: image.alt },
      { actions: false, renderer: "svg", tooltip: { theme: "custom" } });
    image.after(place); // which hides the image, but not on paper
  };
  const hero = document.querySelector("svg.hero");
  hero?.addEventListener("pointerover", ({ target }) => {
    const named = (point) => point.querySelector("title")?.textContent.split(":")[0];
    const name = named(target);
    const told = hero.querySelector(".told");
    if (!name || told.textContent === target.textContent) return;
    told.textContent = target.textContent;
    for (const point of hero.querySelectorAll("circle.measure")) {
      if (point.classList.toggle("same", named(point) === name)) hero.append(point); // on top
    }
  });

  const coming = new IntersectionObserver((changes) => {
    for (const { isIntersecting, target } of changes) {
      if (isIntersecting) {
        coming.unobserve(target);
        draw(target);
      }
    }
  }, { rootMargin: "300px" });
  for (const spec of document.querySelectorAll("figure.numbered > script")) {
    coming.observe(spec.parentElement);
  }
});
