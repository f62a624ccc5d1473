// The page: one WebSocket to Vigil; JSON messages and pictures come in, nothing goes out.

import { CameraCard } from "./camera.js";
import { EscalationList, make } from "./escalations.js";
import { readMeta } from "./frame.js";

const RETRY_FIRST_MS = 500;
const RETRY_LAST_MS = 8000;
const ADVANCE_MS = 100;
const CAMERAS_MAX = 256;

const cameras = new Map();
const escalations = new EscalationList();
const banner = document.getElementById("banner");
let retries = 0;

function card(name) {
  let held = cameras.get(name);
  if (!held && cameras.size < CAMERAS_MAX) {
    held = new CameraCard(name);
    cameras.set(name, held);
    const names = [...cameras.keys()].sort();
    const next = cameras.get(names[names.indexOf(name) + 1]);
    document.getElementById("cameras").insertBefore(held.element, next?.element ?? null);
    document.getElementById("no-cameras").hidden = true;
  }
  return held;
}

const handlers = {
  mesh: onMesh,
  detections: ({ camera, message }) => card(camera)?.onDetections(message),
  motion_active: ({ camera, active }) => card(camera)?.onMotionActive(active),
  escalations: ({ items }) => escalations.reset(items),
  escalation: ({ item }) => escalations.add(item),
  stored: ({ id, location }) => escalations.onStored(id, location),
};

function onMesh(mesh) {
  document.getElementById("site").textContent = mesh.site;
  document.title = `Vigil · ${mesh.site}`;
  for (const figures of mesh.cameras) card(figures.name)?.onFigures(figures);
  link("broker-link", mesh.bus_connected ? "good" : "bad", mesh.bus_connected ? "Broker connected" : "Broker away");
  say(mesh.bus_connected ? "" : "The broker is away: what you see is old. It is looked for again all the time.");
  showRoles(mesh.roles);
  showCounters(mesh);
}

function showRoles(roles) {
  const items = roles.map((role) => {
    const item = make("li", role.role);
    item.dataset.state = { online: "good", offline: "bad" }[role.state] ?? "waiting";
    const memory = role.memory_bytes ? ` · ${Math.round(role.cpu_percent)}% CPU · ${Math.round(role.memory_bytes / 1e6)} MB` : "";
    item.append(make("small", `${role.node} · ${role.state}${role.state === "offline" ? "" : memory}`));
    return item;
  });
  document.getElementById("roles").replaceChildren(...items);
}

function showCounters(mesh) {
  const dropped = mesh.roles.flatMap((role) =>
    Object.entries(role.drops)
      .filter(([queue, count]) => count && queue !== "rejected")
      .map(([queue, count]) => `${role.role} ${queue} ${count}`),
  );
  const rejects = Object.values(mesh.rejects).reduce((sum, count) => sum + count, 0);
  document.getElementById("counters").textContent =
    `Dropped: ${dropped.join(", ") || "nothing"}. Messages that could not be read: ${rejects}. ` +
    `Scores that came too late: ${mesh.late_scores}.`;
}

async function onPicture(buffer) {
  const meta = readMeta(buffer);
  if (!meta) return;
  const bitmap = await createImageBitmap(new Blob([buffer], { type: "image/jpeg" })).catch(() => null);
  if (bitmap) card(meta.camera)?.onFrame(bitmap, meta);
}

function say(text) {
  banner.textContent = text;
  banner.hidden = text === "";
}

function link(id, state, text) {
  const chip = document.getElementById(id);
  chip.dataset.state = state;
  if (chip.textContent !== text) chip.textContent = text;
}

function connect() {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/live`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    retries = 0;
    link("page-link", "good", "Page live");
    say("");
  };
  socket.onmessage = ({ data }) => {
    if (typeof data !== "string") {
      onPicture(data);
      return;
    }
    const message = JSON.parse(data);
    handlers[message.kind]?.(message);
  };
  socket.onclose = () => {
    link("page-link", "bad", "Page disconnected");
    link("broker-link", "waiting", "Broker unknown");
    say("The connection to Vigil is lost: what you see is old. Trying again …");
    const bound = Math.min(RETRY_LAST_MS, RETRY_FIRST_MS * 2 ** retries++);
    setTimeout(connect, bound * (0.5 + Math.random() / 2));
  };
}

setInterval(() => {
  for (const held of cameras.values()) held.advance();
}, ADVANCE_MS);
connect();
