// The cards' data attributes and the URL's hash in; which cards are shown, and the hash that says so, out.
"use strict";
(() => {
  const form = document.getElementById("filters");
  const list = document.getElementById("cards");
  const plain = new Intl.NumberFormat("en");
  const fold = (text) => text.normalize("NFKC").toLowerCase().trim();
  const cards = Array.from(list.children, (node) => ({
    node,
    number: Number(node.dataset.number),
    category: node.dataset.categoryRight ?? "",
    rationale: node.dataset.rationaleRight ?? "",
    others: node.dataset.others ?? "",
    name: fold(node.dataset.category),
    truth: fold(node.dataset.truth),
    confidence: parseFloat(node.dataset.confidence),
    search: fold(node.dataset.search),
  }));
  const known = new Set(cards.flatMap((card) => [card.name, card.truth]).filter(Boolean));
  const orders = {
    "": (a, b) => a.number - b.number,
    sure: (a, b) => b.confidence - a.confidence || a.number - b.number,
    unsure: (a, b) => a.confidence - b.confidence || a.number - b.number,
    name: (a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : b.confidence - a.confidence),
  };
  const initial = { category: "", rationale: "", others: "", name: "", from: "0", to: "100", q: "", order: "" };
  let order = "";

  const valueOf = (name) => (form.elements[name] ? form.elements[name].value : initial[name]);

  const state = () => Object.fromEntries(Object.keys(initial).map((name) => [name, valueOf(name)]));

  const fits = (wanted) => {
    const name = fold(wanted.name);
    const words = fold(wanted.q).split(/\s+/).filter(Boolean);
    const named = known.has(name)
      ? (card) => card.name === name || card.truth === name
      : (card) => card.name.includes(name) || card.truth.includes(name);
    const from = Number(wanted.from);
    const to = Number(wanted.to);
    return (card) =>
      (!wanted.category || card.category === wanted.category) &&
      (!wanted.rationale || card.rationale === wanted.rationale) &&
      (!wanted.others || card.others === wanted.others) &&
      named(card) &&
      card.confidence >= from &&
      card.confidence <= to &&
      words.every((word) => card.search.includes(word));
  };

  const show = () => {
    const wanted = state();
    const fit = fits(wanted);
    let shown = 0;
    for (const card of cards) {
      card.node.hidden = !fit(card);
      shown += card.node.hidden ? 0 : 1;
    }
    if (wanted.order !== order) {
      order = wanted.order;
      list.append(...[...cards].sort(orders[order]).map((card) => card.node));
    }
    document.getElementById("count").value =
      `${plain.format(shown)} of ${plain.format(cards.length)} ${cards.length === 1 ? "picture" : "pictures"}`;
    document.getElementById("span").value = `${wanted.from}–${wanted.to}%`;
    const track = form.elements.from.parentElement.style;
    track.setProperty("--from", `${wanted.from}%`);
    track.setProperty("--beyond", `${100 - wanted.to}%`);
    document.getElementById("nothing").hidden = shown > 0;
  };

  const write = () => {
    const changed = Object.entries(state()).filter(([name, value]) => value !== initial[name]);
    const hash = new URLSearchParams(changed).toString();
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  };

  const read = () => {
    const asked = new URLSearchParams(location.hash.slice(1));
    for (const [name, value] of Object.entries(initial)) {
      const field = form.elements[name];
      if (!field) continue;
      field.value = asked.get(name) ?? value;
      if (field.value !== (asked.get(name) ?? value)) field.value = value;
    }
    show();
  };

  form.addEventListener("input", (event) => {
    // the two ends of the range push each other, so that they never cross
    const { from, to } = form.elements;
    if (Number(from.value) > Number(to.value)) {
      if (event.target === from) to.value = from.value;
      else from.value = to.value;
    }
    show();
    write();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { show(); write(); }));
  // `#gallery` and the like lead to a part of the page and are no state
  addEventListener("hashchange", () => { if (!location.hash || location.hash.includes("=")) read(); });
  for (const link of document.querySelectorAll("a.outcome, a.to-gallery")) {
    link.addEventListener("click", () => {
      const gallery = document.getElementById("gallery");
      gallery.scrollIntoView();
      gallery.focus({ preventScroll: true });
    });
  }
  read();
})();
