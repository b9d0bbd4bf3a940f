// What a program for one WebRTC stack does in JavaScript: the command line and the steps that README.md describes.
//
// A stack brings a client; whether it did well is decided here. A client has:
//   `resumes`           whether a lost signal connection can be taken up again
//   `join(role)`, `publish()`, `resume()`, `leave()`, `send(topic, bytes)`, each a promise
//   `frames()`, `packets()`   how much it has received, each a number or a promise
//   `otherLeft`         whether the other participant has left
//   `detail`            whatever else helps to understand the report
// and tells `exchange.received(topic, bytes)` of each data message.
import assert from 'node:assert/strict';
import { parseArgs } from 'node:util';

// What a viewer has to receive before a step counts.
const FRAMES_MIN = 30;
const PACKETS_MIN = 50;
// Between two messages that are repeated until they are answered.
const REPEAT_MS = 500;
const LEAVE_MS = 5000;

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Messages with the other participant: what was asked, what was answered. */
class Exchange {
  constructor(client, identity) {
    Object.assign(this, { client, identity, answered: false, asked: false, otherSettled: false, number: 0, stopped: false });
  }

  get done() { return this.answered && this.asked; }

  received(topic, bytes) {
    const text = Buffer.from(bytes).toString();
    const [, number] = text.match(/^\S+ (\d+)$/) ?? [];
    if (topic === 'ping' && number) {
      this.asked = true;
      this.#send('pong', bytes);
    } else if (topic === 'pong' && text === `${this.identity} ${number}` && number >= 1 && number <= this.number) {
      this.answered = true;
    } else if (topic === 'settled') {
      this.otherSettled = true;
    }
  }

  /** Sends a ping after another, until one is answered. */
  async ask() {
    for (; !this.answered && !this.stopped; await pause(REPEAT_MS)) {
      this.number += 1;
      await this.#send('ping', Buffer.from(`${this.identity} ${this.number}`));
    }
  }

  /** Says from now on that nothing is left to be witnessed. */
  async settle() {
    for (; !this.stopped; await pause(REPEAT_MS)) await this.#send('settled', Buffer.from(this.identity));
  }

  async #send(topic, bytes) {
    try {
      await this.client.send(topic, bytes);
    } catch (error) {
      // What was not sent is missed by the other participant, which says so; here it explains why.
      this.client.detail.sending ??= String(error);
    }
  }
}

/** Goes through the steps, and returns the report. */
async function play(client, exchange, role, seconds) {
  const report = { ok: false, publish: null, view: null, data: false, resume: client.resumes ? false : null, [role]: false };
  const deadline = performance.now() + seconds * 1000;
  let step = 'join';

  async function until(condition, what) {
    step = what;
    for (; !await condition(); await pause(20)) {
      assert.ok(performance.now() < deadline, `not within ${seconds} s`);
      assert.ok(!client.otherLeft || what === 'the other one leaves', 'the other one left before');
    }
  }
  async function bounded(what, promise, ms = deadline - performance.now()) {
    step = what;
    let timer;
    const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error('too late')), ms); });
    await Promise.race([promise, late]).finally(() => clearTimeout(timer));
  }
  async function media(what) {
    const [frames, packets] = [await client.frames() + FRAMES_MIN, await client.packets() + PACKETS_MIN];
    await until(async () => await client.frames() >= frames && await client.packets() >= packets, what);
  }
  async function resume() {
    if (!client.resumes) return;
    await bounded('resume', client.resume());
  }

  try {
    await bounded('join', client.join(role));
    if (role === 'publish') await bounded('publish', client.publish());
    exchange.ask();
    if (role === 'view') await media('media arrives');
    report[role] = true;
    await until(() => exchange.done, 'data goes both ways');
    report.data = true;
    if (role === 'view') {
      await resume();
      await media(client.resumes ? "media arrives after the viewer's resume" : 'media goes on');
      exchange.settle();
      await until(() => exchange.otherSettled, 'the publisher is settled');
      await media("media arrives after the publisher's resume");
      if (client.resumes) report.resume = true;
    } else {
      await until(() => exchange.otherSettled, 'the viewer is settled');
      await resume();
      if (client.resumes) report.resume = true;
      exchange.settle();
      await until(() => client.otherLeft, 'the other one leaves');
    }
  } catch (error) {
    console.log(error);
    client.detail.error = `${step}: ${error.message ?? error}`;
  }
  exchange.stopped = true;
  client.detail.frames = await Promise.resolve(client.frames()).catch(String);
  client.detail.packets = await Promise.resolve(client.packets()).catch(String);
  await bounded('leave', client.leave(), LEAVE_MS).catch((error) => { client.detail.leave = String(error); });
  report.ok = ![report.publish, report.view, report.data, report.resume].includes(false) && !client.detail.error;
  report.detail = client.detail;
  return report;
}

/** Runs a client as the command line says, and ends the process. `more` are options of the program's own. */
export async function main(newClient, more = {}) {
  const { positionals: [role], values } = parseArgs({
    allowPositionals: true,
    options: {
      url: { type: 'string' }, token: { type: 'string' }, mode: { type: 'string' },
      seconds: { type: 'string', default: '60' }, 'no-resume': { type: 'boolean', default: false }, ...more,
    },
  });
  assert.ok(['publish', 'view'].includes(role), 'the first argument is publish or view');
  assert.ok(['v0', 'v1'].includes(values.mode) && values.url && values.token, 'needed: --url, --token and --mode v0|v1');
  const { sub: identity } = JSON.parse(Buffer.from(values.token.split('.')[1], 'base64url'));
  const client = newClient(values);
  if (values['no-resume']) client.resumes = false;
  client.exchange = new Exchange(client, identity);
  const report = await play(client, client.exchange, role, Number(values.seconds));
  console.log(JSON.stringify(report));
  process.exit(report.ok ? 0 : 1);
}
