// The gallery's filter. Without this script every twin is shown.
(() => {
  const form = document.querySelector("form.filter");
  if (!form) return;
  form.hidden = false;
  form.addEventListener("input", () => {
    for (const card of document.querySelectorAll("figure.twin")) {
      card.hidden = ["disease", "site"].some((name) => form[name].value && form[name].value !== card.dataset[name]);
    }
  });
})();
