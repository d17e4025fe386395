// A table or a diagram that is wider than its place scrolls sideways in a box of its own (custom.css). Where it does,
// the box says so, keeps a table's first column in sight, and the keyboard reaches it.
document.addEventListener("DOMContentLoaded", () => {
  const boxes = document.querySelectorAll(".bd-article .pst-scrollable-table-container:has(> table, > img)");
  // Names in a table break where a word of them ends.
  for (const name of document.querySelectorAll(".bd-article td code .pre:not(:has(*))"))
    name.innerHTML = name.innerHTML.replace(/[._(](?=\w)/g, "$&<wbr>");
  const atEnd = (box) => box.classList.toggle("at-end", box.scrollLeft + box.clientWidth > box.scrollWidth - 4);
  const look = (box, number) => {
    const wide = box.scrollWidth > box.clientWidth + 1;
    const name = box.querySelector("tbody tr > :first-child");
    box.classList.toggle("scrolls", wide);
    box.classList.toggle("names", wide && name !== null && name.offsetWidth < 0.45 * box.clientWidth);
    for (const attribute of ["role", "tabindex", "aria-label"]) box.removeAttribute(attribute);
    if (!wide) return;
    const heading = box.closest("section")?.querySelector("h1, h2, h3, h4")?.firstChild?.textContent ?? "";
    box.setAttribute("role", "region");
    box.setAttribute("tabindex", "0");
    const kind = box.querySelector("img") ? "Diagram" : "Table";
    box.setAttribute("aria-label", `${kind}, box ${number + 1} of this page, scrolls sideways: ${heading}`);
    atEnd(box);
  };
  const watch = new ResizeObserver((seen) => seen.forEach(({ target }) => look(target, [...boxes].indexOf(target))));
  boxes.forEach((box) => {
    watch.observe(box);
    box.addEventListener("scroll", () => atEnd(box), { passive: true });
  });
});
