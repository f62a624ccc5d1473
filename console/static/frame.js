// A picture as it comes on the bus: a JPEG with its metadata as JSON in a comment segment (see broker/frames.py).

const COMMENT = 0xfe;
const START_OF_SCAN = 0xda;
const words = new TextDecoder();

/** The metadata of a frame; null when there is none. `buffer` is the whole JPEG. */
export function readMeta(buffer) {
  const view = new DataView(buffer);
  let at = 2;
  while (at + 4 <= view.byteLength && view.getUint8(at) === 0xff) {
    const marker = view.getUint8(at + 1);
    const length = view.getUint16(at + 2);
    if (marker === COMMENT) {
      return JSON.parse(words.decode(new Uint8Array(buffer, at + 4, length - 2)));
    }
    if (marker === START_OF_SCAN || length < 2) return null;
    at += 2 + length;
  }
  return null;
}

/** What tells a frame from every other of its camera: its number, and its time, since numbers start over. */
export function frameKey(seq, capturedAt) {
  return `${seq}@${Date.parse(capturedAt)}`;
}
