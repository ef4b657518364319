"use strict";
(() => {
  const all = (selector, within = document) => Array.from(within.querySelectorAll(selector));
  const one = (selector, within = document) => within.querySelector(selector);

  // Light and dark. Storage may be forbidden where the page is a file.
  const themes = ["", "light", "dark"];
  const stored = { get: () => localStorage.getItem("theme") || "", set: (theme) => localStorage.setItem("theme", theme) };
  const careful = (what, ...args) => { try { return what(...args); } catch { return ""; } };
  const button = one("#theme");
  const apply = (theme) => {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    button.textContent = "Theme: " + (theme || "as the system");
  };
  let theme = themes.includes(careful(stored.get)) ? careful(stored.get) : "";
  apply(theme);
  button.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    apply(theme);
    careful(stored.set, theme);
  });

  // Choices: of everything in a group, what has the key is shown.
  for (const select of all("select[data-shows]")) {
    const show = () => {
      for (const part of all(`[data-group="${select.dataset.shows}"]`)) {
        part.classList.toggle("shown", part.dataset.key === select.value);
      }
    };
    select.addEventListener("change", show);
    // A browser that goes back keeps the choice, but not what it showed.
    show();
  }

  // Sorting: by the number of a cell, or by its text where the column has none; what is missing comes last.
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.sort === undefined ? null : Number(cell.dataset.sort);
  };
  const sort = (header) => {
    const table = header.closest("table");
    const column = header.cellIndex;
    const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of all("th[aria-sort]", table)) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    const body = table.tBodies[0];
    const name = (row) => row.cells[column].textContent.trim();
    const rows = Array.from(body.rows).map((row) => ({ row, key: key(row, column), name: name(row) }));
    const isText = column === 0;
    rows.sort((a, b) => {
      if (isText) return direction * a.name.localeCompare(b.name, "en", { numeric: true });
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
      return direction * (a.key - b.key);
    });
    body.append(...rows.map((entry) => entry.row));
  };
  for (const header of all("th[aria-sort]")) one("button", header).addEventListener("click", () => sort(header));

  // Filters: rows of a table, or tables of a group, by their text.
  const filter = (input) => {
    const target = document.getElementById(input.dataset.filters);
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const part of all(target.tBodies ? "tbody > tr" : ".filterable, .sortable tbody > tr", target)) {
      const caption = part.tagName === "TABLE" ? part.caption : target.tBodies ? part : part.cells[0];
      const text = caption.textContent.toLowerCase();
      const fits = words.every((word) => text.includes(word));
      part.classList.toggle("filtered", !fits);
      count += fits;
    }
    const output = one(`output[data-count="${input.dataset.filters}"]`);
    if (output) output.textContent = count === 1 ? "1 recipe" : `${count} recipes`;
  };
  for (const input of all("input[data-filters]")) {
    input.addEventListener("input", () => filter(input));
    if (input.value) filter(input);
  }

  // A link to a row that a filter hides shows it again.
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target || !target.classList.contains("filtered")) return;
    for (const input of all("input[data-filters]")) {
      if (target.closest(`[id="${input.dataset.filters}"]`)) {
        input.value = "";
        filter(input);
      }
    }
    target.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  reveal();

  // Where the pointer is, in a plot's own pixels.
  const within = (svg, event) => {
    const box = svg.getBoundingClientRect();
    const scale = Number(svg.dataset.width) / box.width;
    return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale, scale };
  };

  // Marks: the nearest to the pointer is read out, so that small ones can be hit with a finger.
  for (const svg of all("svg.scatter")) {
    const readout = one(".readout", svg.parentElement);
    const marks = all("a.mark", svg).map((mark) => {
      const box = mark.lastElementChild;
      const points = box.getAttribute("points");
      const first = points && points.split(" ").map((pair) => pair.split(",").map(Number));
      const middle = (i) => first.reduce((sum, pair) => sum + pair[i], 0) / first.length;
      const at = points ? [middle(0), middle(1)] : [Number(box.getAttribute("cx")), Number(box.getAttribute("cy"))];
      return { mark, at, title: mark.firstElementChild.textContent };
    });
    let chosen = null;
    const choose = (entry) => {
      if (chosen === entry) return;
      if (chosen) chosen.mark.classList.remove("chosen");
      chosen = entry;
      entry.mark.classList.add("chosen");
      readout.classList.add("has");
      const link = document.createElement("a");
      link.href = entry.mark.getAttribute("href");
      link.textContent = "its row";
      readout.replaceChildren(entry.title + ". ", link);
    };
    const nearest = (event) => {
      const { x, y, scale } = within(svg, event);
      const distance = (entry) => Math.hypot(entry.at[0] - x, entry.at[1] - y);
      const best = marks.reduce((a, b) => (a && distance(a) <= distance(b) ? a : b), null);
      return best && distance(best) < 24 * scale ? best : null;
    };
    let isTouch = false;
    svg.addEventListener("pointerdown", (event) => { isTouch = event.pointerType !== "mouse"; });
    svg.addEventListener("pointermove", (event) => {
      const entry = event.pointerType === "mouse" && nearest(event);
      if (entry) choose(entry);
    });
    svg.addEventListener("click", (event) => {
      // A key's click comes from nowhere and follows the link, as a mouse's does.
      if (event.detail === 0) return;
      const entry = nearest(event);
      if (!entry) return;
      choose(entry);
      if (isTouch) event.preventDefault();
    });
    svg.addEventListener("focusin", (event) => {
      const entry = !isTouch && marks.find((entry) => entry.mark === event.target);
      if (entry) choose(entry);
    });
  }

  // Fields of heat maps.
  for (const svg of all("svg.heads")) {
    const figure = svg.closest("figure");
    const { errors, field } = JSON.parse(one("script", figure).textContent);
    const [left, top, width, height] = field;
    const readout = one(".readout", figure);
    const heads = Math.max(...errors.map((layer) => layer.length));
    const read = (event) => {
      const { x, y } = within(svg, event);
      const head = Math.floor(((x - left) / width) * heads);
      const layer = Math.floor(((y - top) / height) * errors.length);
      const error = errors[layer] && errors[layer][head];
      if (error === undefined) return;
      readout.classList.add("has");
      readout.textContent = `Layer ${layer}, head ${head}: ${error}`;
    };
    svg.addEventListener("pointermove", read);
    svg.addEventListener("click", read);
  }

  // Commands.
  for (const copy of all("button.copy")) {
    copy.addEventListener("click", async () => {
      const code = one("code", copy.parentElement);
      let isCopied = true;
      try {
        await navigator.clipboard.writeText(code.textContent);
      } catch {
        getSelection().selectAllChildren(code);
        isCopied = document.execCommand("copy");
      }
      copy.textContent = isCopied ? "Copied" : "Selected";
    });
  }
})();
