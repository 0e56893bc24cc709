"use strict";
(() => {
  const cards = JSON.parse(document.getElementById("data").textContent).cards;
  const FIRST = {{ first_pictures }};
  const grid = document.getElementById("grid");
  const at = (id) => document.getElementById(id);
  cards.forEach((card, place) => { card.element = at("c" + place); card.place = place; card.name = card.element.querySelector("h3").textContent; });

  const fits = (card) => {
    if (at("f-model").value && card.m !== at("f-model").value) return false;
    const flip = at("f-flip").value;
    if (flip === "flip" && !card.f.length) return false;
    if (flip === "kept" && card.f.length) return false;
    if (flip && flip !== "flip" && flip !== "kept" && !card.f.includes(flip)) return false;
    const why = at("f-why");
    if (why && why.value && card.w !== why.value) return false;
    const limit = at("f-limit").valueAsNumber;
    return Number.isNaN(limit) || badness(card) > sign() * limit;
  };
  // Of CC and SIM the smaller is worse, of KLD the larger.
  const sign = () => (at("f-metric").value.startsWith("KLD") ? 1 : -1);
  const badness = (card) => {
    const value = card.v[at("f-metric").value];
    return value === undefined ? Infinity : sign() * value; // undefined: worse than any other
  };
  const byBadness = (one, other) => {
    const a = badness(one), b = badness(other);
    return a === b ? one.place - other.place : b > a ? 1 : -1;
  };

  const update = () => {
    const order = at("f-order").value;
    const sorted = [...cards].sort(order === "name" ? (a, b) => a.name.localeCompare(b.name) || a.place - b.place : byBadness);
    if (order === "best") sorted.reverse();
    let shown = 0;
    for (const card of sorted) {
      card.element.hidden = !fits(card);
      card.element.classList.toggle("more", shown >= FIRST);
      shown += !card.element.hidden;
      grid.append(card.element);
    }
    at("f-count").textContent = shown + " of " + cards.length;
    at("f-none").hidden = shown > 0;
  };
  for (const id of ["f-model", "f-flip", "f-why", "f-metric", "f-order"]) at(id)?.addEventListener("change", update);
  at("f-limit").addEventListener("input", update);

  at("f-view").addEventListener("change", (event) => {
    for (const input of grid.querySelectorAll("input[type=radio]")) if (input.dataset.k === event.target.value) input.checked = true;
  });
  const alpha = () => {
    document.documentElement.style.setProperty("--alpha", at("f-alpha").value / 100);
    at("f-alpha-out").textContent = at("f-alpha").value + " %";
  };
  at("f-alpha").addEventListener("input", alpha);
  alpha(); // a browser may have kept the fields of an earlier visit
  update();
})();
