// One camera's card: its picture with the boxes of that very picture, its state and its figures.

import { frameKey } from "./frame.js";

/** A picture waits this long for its scores; then it is shown without, and older boxes fade. */
const HOLD_MS = 600;
/** Below this score a box is a guess, which no rule counts by default: shown faint, without a label. */
const SURE = 0.5;
const UNSURE_ALPHA = 0.3;
/** Without scores for this long nobody scores this camera, and pictures are shown as they come. */
const SCORED_LATELY_MS = 5000;
/** Boxes of an earlier picture are gone after this much camera time. */
const FADE_MS = 1500;
/** A picture this old is marked as old. */
const OLD_MS = 15000;
const PENDING_MAX = 12;
const MOTION_COLOUR = "#ffa000";

/** A colour for a label, always the same one. */
function labelColour(label) {
  if (label === "person") return "#29b6f6";
  let hash = 0;
  for (const character of label) hash = (hash * 31 + character.codePointAt(0)) % 360;
  return `hsl(${hash} 85% 62%)`;
}

export class CameraCard {
  constructor(name) {
    this.name = name;
    this.pending = [];
    this.shown = null;
    this.scores = null;
    this.scoredAt = -Infinity;
    this.arrivedAt = null;
    this.figures = null;
    this.element = document.getElementById("camera-card").content.firstElementChild.cloneNode(true);
    this.canvas = this.element.querySelector("canvas");
    this.overlay = this.element.querySelector(".overlay");
    this.motionBadge = this.element.querySelector(".motion");
    this.element.querySelector("h3").textContent = name;
    this.canvas.setAttribute("aria-label", `Live picture of ${name}`);
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  /** A decoded picture came. */
  onFrame(bitmap, meta) {
    const frame = { bitmap, meta, key: frameKey(meta.seq, meta.captured_at), at: Date.parse(meta.captured_at) };
    frame.arrivedAt = this.arrivedAt = performance.now();
    this.pending.push(frame);
    while (this.pending.length > PENDING_MAX) this.pending.shift().bitmap.close();
    this.advance();
  }

  /** The scores of one picture came, before or after it. */
  onDetections(message) {
    this.scores = {
      key: frameKey(message.frame_seq, message.captured_at),
      at: Date.parse(message.captured_at),
      detections: message.detections,
    };
    this.scoredAt = performance.now();
    this.advance();
    this.draw();
  }

  onMotionActive(active) {
    this.motionBadge.dataset.on = active;
    this.motionBadge.textContent = active ? "Motion" : "Quiet";
  }

  /** The camera's figures, once a second. */
  onFigures(figures) {
    this.figures = figures;
    this.onMotionActive(figures.motion);
    this.element.querySelector(".model").textContent = `${watched(figures)}, ${scored(figures)}`;
    if (figures.privacy) this.forget();
    const shown = {
      fps_in: `${figures.fps_in.toFixed(1)} fps`,
      fps_scored: `${figures.fps_scored.toFixed(1)} fps`,
      latency_p50_ms: milliseconds(figures.latency_p50_ms),
      latency_p99_ms: milliseconds(figures.latency_p99_ms),
      unscored: String(Math.max(0, figures.frames - figures.scored)),
      escalations: String(figures.escalations),
    };
    for (const [figure, text] of Object.entries(shown)) {
      this.element.querySelector(`[data-figure="${figure}"]`).textContent = text;
    }
  }

  /** Show what is due; called often. */
  advance() {
    const now = performance.now();
    const hold = now - this.scoredAt < SCORED_LATELY_MS ? HOLD_MS : 0;
    let due = this.pending.findLastIndex((frame) => frame.key === this.scores?.key || now - frame.arrivedAt >= hold);
    if (due >= 0) {
      const frame = this.pending[due];
      for (const older of this.pending.splice(0, due + 1)) if (older !== frame) older.bitmap.close();
      this.show(frame);
    }
    this.say(now);
  }

  show(frame) {
    this.shown?.bitmap.close();
    this.shown = frame;
    this.element.querySelector(".taken").textContent = new Date(frame.at).toLocaleTimeString();
    this.element.querySelector(".picture").style.aspectRatio = `${frame.bitmap.width} / ${frame.bitmap.height}`;
    this.draw();
  }

  /** Show no picture that was there before privacy was switched on. */
  forget() {
    for (const frame of this.pending.splice(0)) frame.bitmap.close();
    this.shown?.bitmap.close();
    this.shown = this.scores = this.arrivedAt = null;
    this.element.querySelector(".taken").textContent = "";
    this.canvas.getContext("2d").clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  /** What stands over the picture when it is not live. */
  say(now) {
    const { state = "unknown", error = null, mode = "", privacy = false } = this.figures ?? {};
    const age = this.arrivedAt === null ? null : now - this.arrivedAt;
    let text = "";
    if (state === "error") text = `This camera cannot be read: ${error ?? "no reason given"}`;
    else if (mode === "off") text = "This camera is switched off.";
    else if (state === "offline") text = "This camera is offline.";
    else if (privacy) text = "Privacy is on: no picture leaves the camera's node.";
    else if (age === null) text = "Waiting for the first picture …";
    else if (age > OLD_MS) text = `No new picture for ${Math.round(age / 1000)} s.`;
    this.overlay.textContent = text;
    this.element.classList.toggle("old", text !== "");
  }

  draw() {
    const width = Math.round(this.canvas.clientWidth * devicePixelRatio);
    const height = Math.round(this.canvas.clientHeight * devicePixelRatio);
    if (!this.shown || !width || !height) return;
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    const pen = this.canvas.getContext("2d");
    pen.globalAlpha = 1;
    pen.setLineDash([]);
    pen.drawImage(this.shown.bitmap, 0, 0, width, height);
    pen.lineWidth = 1.5 * devicePixelRatio;
    pen.strokeStyle = MOTION_COLOUR;
    for (const box of this.shown.meta.motion) strokeBox(pen, box, width, height);
    this.drawScores(pen, width, height);
  }

  drawScores(pen, width, height) {
    if (!this.scores) return;
    const own = this.scores.key === this.shown.key;
    const age = Math.abs(this.shown.at - this.scores.at);
    pen.globalAlpha = own ? 1 : Math.max(0, 0.5 * (1 - age / FADE_MS));
    if (!pen.globalAlpha) return;
    pen.setLineDash(own ? [] : [6 * devicePixelRatio, 5 * devicePixelRatio]);
    pen.lineWidth = 2.5 * devicePixelRatio;
    const ranked = this.scores.detections.toSorted((one, other) => one.score - other.score);
    const whole = pen.globalAlpha;
    for (const { label, score, box } of ranked) {
      pen.globalAlpha = score < SURE ? whole * UNSURE_ALPHA : whole;
      pen.strokeStyle = labelColour(label);
      strokeBox(pen, box, width, height);
    }
    pen.globalAlpha = whole;
    for (const { label, score, box } of ranked) {
      if (score < SURE) continue;
      pen.fillStyle = labelColour(label);
      writeLabel(pen, label, `${Math.round(score * 100)}%`, box, width, height);
    }
    pen.globalAlpha = 1;
  }
}

/** How a camera is watched: its mode, and what is not as usual. */
function watched({ mode, privacy, recording }) {
  const words = [mode || "not heard of", privacy && "private"];
  if (recording !== "off") words.push(recording === "on" ? "recording" : "recording failed");
  return words.filter(Boolean).join(", ");
}

function scored({ model, detection, worker, orphan }) {
  if (!detection) return "not to be scored";
  if (orphan) return "no worker takes it";
  const by = worker ? ` on ${worker}` : "";
  return model ? `scored by ${model}${by}` : "not scored yet";
}

function strokeBox(pen, [x1, y1, x2, y2], width, height) {
  pen.strokeRect(x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height);
}

/** Label and score above a box; the score alone where the box is too narrow for both. */
function writeLabel(pen, label, score, box, width, height) {
  const size = 12 * devicePixelRatio;
  const room = (box[2] - box[0]) * width;
  pen.font = `600 ${size}px system-ui, sans-serif`;
  const both = `${label} ${score}`;
  const text = pen.measureText(both).width <= 2 * room ? both : score;
  const wide = pen.measureText(text).width + size * 0.7;
  const left = Math.min(Math.max(0, box[0] * width - pen.lineWidth / 2), width - wide);
  const top = Math.max(0, box[1] * height - size * 1.4);
  pen.fillRect(left, top, wide, size * 1.4);
  pen.fillStyle = "#06121a";
  pen.fillText(text, left + size * 0.35, top + size * 1.05);
}

function milliseconds(value) {
  return value === null ? "–" : `${Math.round(value)} ms`;
}
