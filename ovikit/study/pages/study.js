"use strict";
// One pair at a time. An answer counts when the server has said so: it writes before it answers, and the same answer
// sent again, because the line broke or the page was loaded anew, counts once.
const here = location.pathname.replace(/\/$/, "");
const dimensions = ["audio", "video", "sync", "overall"];
const choices = [["left", "Left"], ["right", "Right"], ["tie", "Equal"], ["both_bad", "Both bad"]];
const enough = 0.9; // of a clip, for an answer about it
const by = (query, within = document) => within.querySelector(query);
const sides = {};
let shown = null;
let marked = 0;
let sending = false;

for (const name of ["left", "right"]) {
  const figure = by(`figure[data-side="${name}"]`);
  const video = by("video", figure);
  const side = (sides[name] = { figure, video, heard: by(".heard", figure), seconds: 0, last: null });
  by(".play", figure).addEventListener("click", () => toggle(name));
  video.addEventListener("play", () => {
    const other = sides[name === "left" ? "right" : "left"];
    other.video.pause(); // one sound at a time
    figure.classList.add("playing");
    side.last = video.currentTime;
  });
  for (const event of ["pause", "ended"]) video.addEventListener(event, () => { tick(side); figure.classList.remove("playing"); });
  video.addEventListener("timeupdate", () => tick(side));
  video.addEventListener("seeking", () => { side.last = null; });
  video.addEventListener("error", () => {
    if (!video.getAttribute("src")) return;
    tell("A clip did not come. Trying again ...");
    setTimeout(() => { if (video.error) video.load(); }, 1500);
  });
  video.addEventListener("loadeddata", () => ready());
}

function tick(side) {
  const now = side.video.currentTime;
  if (side.last !== null && now > side.last) side.seconds += Math.min(now - side.last, 1);
  side.last = now;
  const length = side.video.duration || 0;
  const played = length > 0 && side.seconds >= enough * length;
  side.heard.textContent = played ? "played" : `${side.seconds.toFixed(1)} s`;
  side.heard.classList.toggle("enough", played);
  if (played !== side.played) { side.played = played; ready(); }
}

function toggle(name) {
  const { video } = sides[name];
  if (!video.paused) return video.pause();
  if (video.ended) video.currentTime = 0;
  video.play().catch(() => tell("Press play once with the mouse or a finger: the browser asks for it."));
}

for (const [row, dimension] of dimensions.entries()) {
  const field = by(`fieldset[data-dimension="${dimension}"]`);
  for (const [value, text] of choices) {
    const label = document.createElement("label");
    label.innerHTML = `<input type="radio" name="${dimension}" value="${value}"><span>${text}</span>`;
    by("input", label).addEventListener("change", () => { mark(Math.min(row + 1, dimensions.length - 1)); ready(); });
    field.append(label);
  }
  field.addEventListener("click", () => { if (!chosen(dimension)) mark(row); });
}

const chosen = (dimension) => by(`input[name="${dimension}"]:checked`)?.value;

function mark(row) {
  marked = row;
  for (const [k, dimension] of dimensions.entries()) by(`fieldset[data-dimension="${dimension}"]`).classList.toggle("marked", k === row);
}

function ready() {
  const lacking = dimensions.filter((one) => !chosen(one)).length;
  const unplayed = ["left", "right"].filter((one) => !sides[one].played);
  by("#answers .go").disabled = sending || lacking > 0 || unplayed.length > 0;
  if (unplayed.length) tell(unplayed.length === 2 ? "Play both clips first." : `Play the ${unplayed[0]} clip, too.`);
  else tell(lacking ? "Answer each of the four." : "");
}

const tell = (text) => { by("#told").textContent = text; };

function show(name) {
  for (const id of ["pair", "through", "broken"]) by(`#${id}`).hidden = id !== name;
}

async function load() {
  const answer = await fetch(`${here}/next`).catch(() => null);
  if (!answer) { setTimeout(load, 1500); return tell("There is no connection. Trying again ..."); }
  const told = await answer.json();
  if (!answer.ok) { by("#why").textContent = told.error; return show("broken"); }
  const total = told.through ?? told.total;
  const done = told.through ?? told.done;
  by(".bar i").style.width = `${total ? (100 * done) / total : 100}%`;
  by("#count").textContent = `${done} of ${total}`;
  if (told.through !== undefined) return show("through");
  shown = told;
  by("#prompt").textContent = told.prompt;
  for (const name of ["left", "right"]) {
    Object.assign(sides[name], { seconds: 0, last: null, played: false });
    sides[name].heard.textContent = "";
    sides[name].heard.classList.remove("enough");
    sides[name].video.src = told[name];
  }
  by("#answers").reset();
  mark(0);
  show("pair");
  ready();
  window.scrollTo(0, 0);
}

by("#answers").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (by("#answers .go").disabled) return;
  sending = true;
  ready();
  for (const side of Object.values(sides)) side.video.pause();
  const vote = JSON.stringify({
    place: shown.place,
    winners: Object.fromEntries(dimensions.map((one) => [one, chosen(one)])),
    seconds: { left: sides.left.seconds, right: sides.right.seconds },
  });
  for (;;) {
    const answer = await fetch(`${here}/vote`, { method: "POST", headers: { "Content-Type": "application/json" }, body: vote }).catch(() => null);
    if (answer?.ok) break;
    if (answer && answer.status < 500) { tell((await answer.json()).error); break; }
    tell("There is no connection. Your answer is kept here and sent again ...");
    await new Promise((later) => setTimeout(later, 1500));
  }
  sending = false;
  await load();
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || by("#pair").hidden) return;
  const keys = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", x: "both_bad" };
  if (event.key === "1" || event.key === "2") toggle(event.key === "1" ? "left" : "right");
  else if (event.key === "0") for (const side of Object.values(sides)) { side.video.pause(); side.video.currentTime = 0; }
  else if (event.key === "ArrowUp") mark(Math.max(0, marked - 1));
  else if (event.key === "Enter") by("#answers").requestSubmit();
  else if (event.key in keys) {
    const input = by(`input[name="${dimensions[marked]}"][value="${keys[event.key]}"]`);
    input.checked = true;
    input.dispatchEvent(new Event("change"));
  } else return;
  event.preventDefault();
});

load();
