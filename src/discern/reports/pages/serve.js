"use strict";
const byId = (id) => document.getElementById(id);
for (const place of document.querySelectorAll(".origin")) place.textContent = location.origin;

const made = (name, text) => {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  return element;
};
const percent = (share) => `${(100 * share).toFixed(1)} %`;

function entry(file, found) {
  const section = made("section"), picture = made("img"), words = made("div");
  section.className = "answer";
  picture.alt = "";
  picture.src = URL.createObjectURL(file);
  words.append(made("p", `${file.name}: ${found.error ?? found.label}`));
  for (const { label, probability } of found.top ?? []) {
    const row = made("div"), bar = made("meter");
    bar.value = probability;
    bar.setAttribute("aria-label", label);
    row.append(made("span", label), bar, made("span", percent(probability)));
    words.append(row);
  }
  section.append(picture, words);
  return section;
}

async function classify(files) {
  if (!files.length) return;
  const form = new FormData();
  for (const file of files) form.append("file", file);
  byId("state").textContent = "…";
  try {
    const answer = await fetch("predict", { method: "POST", body: form });
    const found = await answer.json();
    byId("state").textContent = found.error ?? "";
    byId("answers").replaceChildren(
      ...(found.predictions ?? []).map((each, number) => entry(files[number], each)));
  } catch {
    byId("state").textContent = "The service does not answer.";
  }
}

byId("files").addEventListener("change", (event) => classify([...event.target.files]));
const drop = byId("drop");
for (const name of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop") classify([...event.dataTransfer.files]);
  });
}
