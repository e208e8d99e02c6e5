"use strict";

// Tables: the name of a column is a button that sorts by it. What has no number goes last, whichever way.
function keyOf(row, column) {
  const cell = row.cells[column];
  if (!("value" in cell.dataset)) return cell.textContent;
  return cell.dataset.value === "" ? null : Number(cell.dataset.value.replace("inf", "Infinity"));
}

function compare(a, b) {
  return typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
}

function sortBy(table, column) {
  const heads = table.tHead.rows[0].cells;
  const way = heads[column].ariaSort === "ascending" ? "descending" : "ascending";
  for (const head of heads) head.removeAttribute("aria-sort");
  heads[column].setAttribute("aria-sort", way);
  const body = table.tBodies[0];
  const keyed = Array.from(body.rows, (row) => [keyOf(row, column), row]);
  const sign = way === "ascending" ? 1 : -1;
  keyed.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : a === b ? 0 : sign * compare(a, b)));
  body.append(...keyed.map(([, row]) => row));
}

function makeSortable(table) {
  Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sortBy(table, column));
    head.replaceChildren(button);
  });
}

function addFilter(table) {
  const field = document.createElement("input");
  field.type = "search";
  field.placeholder = "only rows with these words";
  field.setAttribute("aria-label", "only rows with these words");
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/);
    for (const row of table.tBodies[0].rows) {
      const text = Array.from(row.cells, (cell) => cell.textContent.toLowerCase()).join(" ");
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
  table.parentElement.before(field);
}

function addCopy(element) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(element.textContent);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(element); // a browser that denies it to files: the user copies by hand
    }
  });
  element.after(button);
}

// Figures: the library is packed in the page, and each figure is drawn when it comes near.
async function startLibrary() {
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

function draw(place) {
  if (place.dataset.drawn) return undefined;
  place.dataset.drawn = "begun";
  const { data, layout } = JSON.parse(document.getElementById(`${place.id}-data`).textContent);
  const image = { format: "svg", filename: place.dataset.file };
  // These buttons alone: one of the others would send the study to a server.
  const buttons = [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]];
  const options = { responsive: true, displaylogo: false, toImageButtonOptions: image, modeBarButtons: buttons };
  options.plotlyServerURL = "";
  return Plotly.newPlot(place, data, layout, options).then(() => {
    place.dataset.drawn = "done";
  });
}

async function drawAll(places) {
  try {
    await startLibrary();
  } catch (error) {
    for (const place of places) {
      place.classList.add("failed");
      place.textContent = `Figures need a browser of 2023 or later (${error.message}). The tables have all numbers.`;
    }
    return;
  }
  const observer = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
    { rootMargin: "800px" },
  );
  places.forEach((place) => observer.observe(place));
  addEventListener("beforeprint", () => places.forEach(draw));
}

for (const name of ["layers", "levels"]) {
  const table = document.getElementById(name);
  if (table) makeSortable(table);
  if (table && name === "levels") addFilter(table);
}
["paragraph", "command"].forEach((name) => addCopy(document.getElementById(name)));
drawAll(Array.from(document.querySelectorAll(".plot")));
