// A stream outlives a restart of its media server: the Python SDK publishes and watches, a page watches and chats, the
// server ends and is started again; all come back by themselves, and the stream is live, with the same viewers.
//
// product_restart.mjs kill|terminate builtin|external: how the server ends, and whether its rooms are in the product.
// Runs alone as well: PRODUCT_URL names a running product, PRODUCT_JWT_SECRET the secret of its users' tokens.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { createInterface } from 'node:readline';
import { launch, say, servePage, until } from './chromium.mjs';

const base = process.env.PRODUCT_URL ?? 'http://127.0.0.1:7880';
const secret = process.env.PRODUCT_JWT_SECRET;
const [ending, where] = process.argv.slice(2);
// A room server elsewhere is restarted without the product, whose chat goes on then.
const chatIsCut = where === 'builtin';

function bearer(claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ exp: Math.floor(Date.now() / 1000) + 3600, ...claims })}`;
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
}

const children = [];

/** Starts product_publish.py in a role, and keeps what it says. */
function python(...args) {
  const child = spawn('.venv/bin/python', ['product_publish.py', ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  children.push(child);
  const lines = [];
  createInterface({ input: child.stdout }).on('line', (line) => { lines.push(line); say(`${args.join(' ')}: ${line}`); });
  return lines;
}

const saying = (lines, text) => lines.filter((line) => line.includes(text));

async function stream(id) {
  return (await fetch(`${base}/api/live/${id}`)).json();
}

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

async function askKeeper(command) {
  say(`asks: ${command} the server`);
  console.log(`@server ${command}`);
  assert.equal((await answers.next()).value, 'done');
}

async function frames(page) {
  return (await page.evaluate(() => window.received())).frames;
}

async function restart() {
  const publisher = python('publisher');
  const line = await until(() => saying(publisher, 'publishes ')[0], 'the publisher is live', 60);
  const streamId = line.split('publishes ')[1].trim();
  const bob = python('viewer', streamId, 'bob');
  const page = await (await browser.newContext()).newPage();
  page.on('pageerror', (error) => say(`carol: ${error}`));
  page.on('console', (one) => ['warning', 'error'].includes(one.type()) && say(`carol: ${one.text()}`));
  await page.goto(await servePage('./product_page.js'));
  const { roomName } = await page.evaluate(([b, t, id]) => window.watchStream(b, t, id), [base, bearer({ sub: 'carol' }), streamId]);
  await page.evaluate(([h, r]) => window.openChat(h, r), [new URL(base).host, roomName]);
  await until(() => saying(bob, 'frames arrive').length, 'bob sees the camera', 60);
  await until(async () => await frames(page) > 20, 'carol sees the camera', 60);
  const before = await until(async (last) => {
    const now = await stream(streamId);
    last(now);
    return now.state === 'live' && now.viewers === 2 && now;
  }, 'the stream is live with two viewers', 60);

  await askKeeper(ending);
  await askKeeper('start');
  await until(() => saying(publisher, 'reconnected').length, 'the publisher is back', 90);
  await until(() => saying(bob, 'frames arrive').length > 1, 'bob sees the camera again', 90);
  await until(async (last) => {
    // The page counts the frames of the tracks that it has now.
    const now = await frames(page);
    last(now);
    return now > 20 && await page.evaluate(() => window.room.state === 'connected' && window.reconnected > 0);
  }, 'carol sees the camera again', 90);
  await until(async (last) => {
    const now = await stream(streamId);
    last(now);
    return now.state === 'live' && now.viewers === 2;
  }, 'the stream is live with both viewers', 90);
  const after = await stream(streamId);
  assert.deepEqual([after.startedAt, after.roomName, after.peakViewers, after.endedAt],
    [before.startedAt, before.roomName, 2, undefined]);
  await until(() => page.evaluate(() => window.socket.connected), 'the chat is connected', 60);
  await page.evaluate(() => window.say('still here'));
  await until(() => page.evaluate(() => window.happened.includes('chat still here')), 'the chat goes on');
  const happened = await page.evaluate(() => window.happened);
  assert.ok(!happened.includes('room disconnected'), happened.join());
  assert.ok(!happened.some((what) => what.startsWith('ended')), happened.join());
  assert.equal(happened.some((what) => what.startsWith('chat disconnected')), chatIsCut, happened.join());
}

const browser = await launch();
let status = 0;
try {
  await restart();
  say('passed');
} catch (error) {
  say(`failed: ${error.stack ?? error}`);
  status = 1;
}
children.forEach((child) => child.kill('SIGKILL'));
await browser.close();
process.exit(status);
