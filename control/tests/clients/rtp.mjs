// RTP by hand for stacks that leave it to the program: frames of an IVF file as packets, and whole frames out of packets.
import { readFileSync } from 'node:fs';

const PAYLOAD_MAX = 1100;
const HEADER = 12;

/** The frames of an IVF file. */
export function frames(file) {
  const bytes = readFileSync(new URL(file, import.meta.url));
  const all = [];
  for (let at = 32; at < bytes.length;) {
    const length = bytes.readUInt32LE(at);
    all.push(bytes.subarray(at + 12, at + 12 + length));
    at += 12 + length;
  }
  return all;
}

/** One outgoing stream (RFC 3550): numbers and times of its packets. */
export class Packetizer {
  sequence = 1;
  timestamp = 1;
  picture = 1;

  constructor(ssrc, payloadType) {
    Object.assign(this, { ssrc, payloadType });
  }

  /** A frame of Opus (RFC 7587). */
  opus(frame) {
    const packet = this.#packet(frame, true);
    this.timestamp += 960;
    return [packet];
  }

  /** A frame of VP8 (RFC 7741), with the picture id that receivers expect. */
  vp8(frame) {
    const packets = [];
    for (let at = 0; at < frame.length; at += PAYLOAD_MAX) {
      const descriptor = Buffer.from([at === 0 ? 0x90 : 0x80, 0x80, 0x80 | this.picture >> 8, this.picture & 0xff]);
      const payload = Buffer.concat([descriptor, frame.subarray(at, at + PAYLOAD_MAX)]);
      packets.push(this.#packet(payload, at + PAYLOAD_MAX >= frame.length));
    }
    this.picture = (this.picture + 1) & 0x7fff;
    this.timestamp += 3000;
    return packets;
  }

  #packet(payload, marker) {
    const packet = Buffer.alloc(HEADER + payload.length);
    packet[0] = 0x80;
    packet[1] = (marker ? 0x80 : 0) | this.payloadType;
    packet.writeUInt16BE(this.sequence & 0xffff, 2);
    packet.writeUInt32BE(this.timestamp >>> 0, 4);
    packet.writeUInt32BE(this.ssrc, 8);
    payload.copy(packet, HEADER);
    this.sequence += 1;
    return packet;
  }
}

export const isRtcp = (packet) => packet[1] >= 192 && packet[1] <= 223;

/** The payload of an RTP packet, without padding. */
function payloadOf(packet) {
  let at = HEADER + 4 * (packet[0] & 0x0f);
  if (packet[0] & 0x10) at += 4 + 4 * packet.readUInt16BE(at + 2);
  const end = packet.length - (packet[0] & 0x20 ? packet[packet.length - 1] : 0);
  return packet.subarray(at, end);
}

/** Counts frames of VP8 whose packets all came, from a key frame on. After a gap it waits for the next key frame. */
export class Vp8Counter {
  whole = 0;
  keyFrames = 0;
  /** Whether a key frame was seen since the last gap. */
  started = false;
  #next;
  #inFrame = false;

  add(packet) {
    const payload = payloadOf(packet);
    const sequence = packet.readUInt16BE(2);
    if (this.#next !== undefined && sequence !== this.#next) this.started = this.#inFrame = false;
    this.#next = (sequence + 1) & 0xffff;
    if (payload.length === 0) return;
    let at = 1;
    if (payload[0] & 0x80) {
      const extension = payload[at++];
      if (extension & 0x80) at += payload[at] & 0x80 ? 2 : 1;
      if (extension & 0x40) at += 1;
      if (extension & 0x30) at += 1;
    }
    const begins = (payload[0] & 0x17) === 0x10;
    if (begins) {
      const key = (payload[at] & 1) === 0;
      this.keyFrames += key;
      this.started ||= key;
      this.#inFrame = true;
    }
    if (packet[1] & 0x80 && this.#inFrame) {
      this.whole += this.started;
      this.#inFrame = false;
    }
  }
}
