"use strict";
// A click on a header's button (or Enter, or Space) sorts up, then down, then back to the order of the page.
// Cells with a number sort by it, others by their text; empty ones stay last.
const NEXT = { none: "ascending", ascending: "descending", descending: "none" };
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const original = [...body.rows];
  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      const order = NEXT[header.getAttribute("aria-sort")];
      headers.forEach((other) => other.setAttribute("aria-sort", "none"));
      header.setAttribute("aria-sort", order);
      body.append(...(order === "none" ? original : sorted(original, column, order === "ascending" ? 1 : -1)));
    });
  });
}

function sorted(rows, column, sign) {
  const told = rows.map((row) => {
    const cell = row.cells[column];
    const number = "key" in cell.dataset ? Number(cell.dataset.key) : null;
    return { row, number, text: cell.textContent };
  });
  const empty = (one) => one.number === null ? one.text === "" : false;
  told.sort((a, b) => {
    if (empty(a) || empty(b)) return Number(empty(a)) - Number(empty(b));
    if (a.number === null || b.number === null) return sign * a.text.localeCompare(b.text, "en", { numeric: true });
    return sign * (a.number - b.number);
  });
  return told.map((one) => one.row);
}
