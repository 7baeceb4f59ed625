// A table that is wider than the screen is scrolled with the arrow keys too.
for (const box of document.querySelectorAll(".scroll")) {
  if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
}

// The gallery's filter. Without this script every twin is shown.
(() => {
  const form = document.querySelector("form.filter");
  if (!form) return;
  form.hidden = false;
  const cards = [...document.querySelectorAll("figure.twin")];
  const filter = () => {
    for (const card of cards) {
      card.hidden = ["disease", "site"].some((name) => form[name].value && form[name].value !== card.dataset[name]);
    }
    form.shown.value = `${cards.filter((card) => !card.hidden).length} of ${cards.length} shown`;
  };
  form.addEventListener("input", filter);
  filter(); // a browser keeps what was chosen when the page is loaded again
})();
