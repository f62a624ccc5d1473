// The list of escalations, newest first, and the viewer of one.

const KEPT = 100;

export class EscalationList {
  constructor() {
    this.items = new Map();
    this.list = document.getElementById("escalations");
    this.viewer = document.getElementById("viewer");
    this.viewer.addEventListener("click", (event) => {
      if (event.target === this.viewer) this.viewer.close();
    });
  }

  /** Everything the server remembers, the oldest first. */
  reset(items) {
    this.items.clear();
    this.list.replaceChildren();
    for (const item of items) this.add(item, false);
    this.count();
  }

  /** One was raised. */
  add(item, isNew = true) {
    if (this.items.has(item.id)) return;
    const element = document.getElementById("escalation-item").content.firstElementChild.cloneNode(true);
    this.items.set(item.id, { item, element });
    element.dataset.severity = item.severity;
    element.classList.toggle("new", isNew);
    element.querySelector(".summary").textContent = (item.drill ? "Drill: " : "") + (item.summary || item.label);
    element.querySelector(".facts").textContent = `${item.camera} · ${clock(item.captured_at)} · ${item.rule}`;
    const picture = element.querySelector("img");
    if (item.pictures) {
      picture.src = pictureOf(item);
      picture.alt = `Picture of ${item.camera} at ${clock(item.captured_at)}`;
    } else {
      picture.hidden = true;
    }
    element.querySelector("button").addEventListener("click", () => this.open(item));
    this.list.prepend(element);
    this.markStored(item);
    this.trim();
    this.count();
  }

  /** A sink has one. */
  onStored(id, location) {
    const held = this.items.get(id);
    if (!held) return;
    held.item.stored = location;
    this.markStored(held.item);
  }

  markStored(item) {
    const mark = this.items.get(item.id).element.querySelector(".stored");
    mark.dataset.stored = item.stored !== null;
    mark.textContent = item.stored === null ? "on its way" : `✓ ${item.stored}`;
  }

  trim() {
    while (this.items.size > KEPT) {
      const [id, { element }] = this.items.entries().next().value;
      element.remove();
      this.items.delete(id);
    }
  }

  count() {
    document.getElementById("no-escalations").hidden = this.items.size > 0;
    document.getElementById("escalation-count").textContent = this.items.size ? `(${this.items.size})` : "";
  }

  open(item) {
    document.getElementById("viewer-title").textContent = item.summary || item.label;
    const picture = document.getElementById("viewer-picture");
    picture.hidden = !item.pictures;
    if (item.pictures) {
      picture.src = pictureOf(item);
      picture.alt = `Picture of ${item.camera} at ${clock(item.captured_at)}`;
    }
    const facts = {
      Camera: item.camera,
      Captured: new Date(item.captured_at).toLocaleString(),
      Rule: `${item.rule} (${item.severity})`,
      Score: `${item.label} ${Math.round(item.score * 100)}%`,
      Stored: item.stored ?? "on its way, no receipt yet",
      Id: item.id,
    };
    const list = document.getElementById("viewer-facts");
    list.replaceChildren();
    for (const [term, text] of Object.entries(facts)) {
      list.append(make("dt", term), make("dd", text));
    }
    this.viewer.showModal();
  }
}

export function make(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

function pictureOf(item) {
  return `api/escalations/${encodeURIComponent(item.id)}/evidence.jpg`;
}

function clock(moment) {
  return new Date(moment).toLocaleTimeString();
}
