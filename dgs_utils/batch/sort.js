// Lets a click, or Enter, on the head of a column sort its table; a second one turns the order round. Needs no network.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const width = body && body.rows.length ? body.rows[0].cells.length : 0;
  const heads = [...(table.tHead ? table.tHead.rows : [])].reverse().find((row) => row.cells.length === width);
  if (!heads || body.querySelector("[rowspan]")) continue;
  [...heads.cells].forEach((head, column) => {
    const sort = () => {
      const turned = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of heads.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", turned === 1 ? "ascending" : "descending");
      const value = (row) => row.cells[column].textContent.trim().replace("−", "-");
      const number = (text) => (/^[-+]?\d/.test(text) ? parseFloat(text) : NaN);
      const order = (a, b) => {
        const [x, y] = [value(a), value(b)];
        const [m, n] = [number(x), number(y)];
        if (isNaN(m) !== isNaN(n)) return isNaN(m) ? 1 : -1; // what has no number comes last, either way
        return turned * (isNaN(m) ? x.localeCompare(y) : m - n);
      };
      body.append(...[...body.rows].sort(order));
    };
    head.tabIndex = 0;
    head.title = "sort";
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => event.key === "Enter" && sort());
  });
}
