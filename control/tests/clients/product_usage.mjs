// The product's description, section Usage, in headless Chromium: start, watch, chat, react, block, stop.
//
// Runs alone as well: PRODUCT_URL names a running product in development mode, PRODUCT_JWT_SECRET the secret of its
// users' tokens.
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { launch, say, servePage, until } from './chromium.mjs';

const base = process.env.PRODUCT_URL ?? 'http://127.0.0.1:7880';
const secret = process.env.PRODUCT_JWT_SECRET;
const host = new URL(base).host;
/** A user's token, as the app's identity service signs it. */
function bearer(claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ exp: Math.floor(Date.now() / 1000) + 3600, ...claims })}`;
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
}

const pageUrl = await servePage('./product_page.js');
const browser = await launch();

async function device(name) {
  const context = await browser.newContext({ permissions: ['camera', 'microphone'] });
  const page = await context.newPage();
  page.on('pageerror', (error) => say(`${name}: ${error}`));
  page.on('console', (line) => ['warning', 'error'].includes(line.type()) && say(`${name}: ${line.text()}`));
  await page.goto(pageUrl);
  return page;
}

const happens = (page, what) => until(async (last) => {
  const all = await page.evaluate(() => window.happened);
  last(all);
  return all.includes(what);
}, what);

async function api(method, path, token, body) {
  const response = await fetch(`${base}/api${path}`, {
    method,
    headers: { ...(token && { Authorization: `Bearer ${token}` }), ...(body && { 'Content-Type': 'application/json' }) },
    body: body && JSON.stringify(body),
  });
  const text = await response.text();
  return { status: response.status, body: text ? JSON.parse(text) : null };
}

const stream = async (id) => (await api('GET', `/live/${id}`)).body;

async function usage() {
  const [ana, bob, eve] = [await device('ana'), await device('bob'), await device('eve')];
  const { streamId, roomName, url } = await ana.evaluate(([b, t]) => window.startStream(b, t), [base, bearer({ sub: 'ana', name: 'Ana' })]);
  say(`ana is live: ${streamId} in ${roomName} at ${url}`);
  assert.match(roomName, /^live_ana_\d+$/);
  await until(async (last) => { last(await stream(streamId)); return (await stream(streamId)).state === 'live'; }, 'the stream is live');

  const { body: { streams } } = await api('GET', '/live/active');
  assert.deepEqual(streams.map((one) => [one.streamId, one.title, one.isLive]), [[streamId, 'My Stream', true]]);
  assert.deepEqual([...streams[0].tags].sort(), ['live', 'pet']);
  assert.equal((await api('GET', `/live/${streamId}/watch`)).status, 401);

  for (const [name, page] of [['bob', bob], ['eve', eve]]) {
    const watched = await page.evaluate(([b, t, id]) => window.watchStream(b, t, id), [base, bearer({ sub: name }), streamId]);
    assert.deepEqual(watched, { roomName, title: 'My Stream' });
  }
  for (const page of [bob, eve]) {
    await until(async (last) => {
      const now = await page.evaluate(() => window.received());
      last(now);
      return now.frames > 20 && now.energy > 0;
    }, 'picture and sound arrive');
  }
  await until(async (last) => { last(await stream(streamId)); return (await stream(streamId)).viewers === 2; }, 'two viewers are counted');
  say('both watch');

  for (const page of [ana, bob, eve]) await page.evaluate(([h, r]) => window.openChat(h, r), [host, roomName]);
  await ana.evaluate(() => window.say('Hello!'));
  await happens(bob, 'chat Hello!');
  await happens(ana, 'chat Hello!');
  await bob.evaluate(() => window.say('Hi back'));
  await happens(ana, 'chat Hi back');
  await bob.evaluate(() => window.react('❤️'));
  await happens(ana, 'reaction ❤️');
  await ana.evaluate(() => window.react('🎉'));
  await happens(bob, 'reaction 🎉');
  say('chat and reactions go both ways');

  const blocked = await api('PUT', `/live/${streamId}/blocks/eve`, bearer({ sub: 'ana' }), {});
  assert.equal(blocked.status, 200);
  await happens(eve, 'room disconnected');
  assert.equal((await api('GET', `/live/${streamId}/watch`, bearer({ sub: 'eve' }))).body.code, 'blocked');
  await until(async () => (await stream(streamId)).viewers === 1, 'one viewer is left');
  say('eve is out');

  await ana.evaluate((id) => window.stopStream(id), streamId);
  await happens(bob, 'ended stopped');
  await happens(bob, 'chat disconnected: io server disconnect');
  await happens(bob, 'room disconnected');
  const ended = await stream(streamId);
  assert.deepEqual([ended.isLive, ended.endReason, ended.viewers, ended.peakViewers], [false, 'stopped', 0, 2]);
  assert.deepEqual((await api('GET', '/live/active')).body.streams, []);
  assert.equal((await api('GET', `/live/${streamId}/watch`, bearer({ sub: 'bob' }))).status, 410);
}

let status = 0;
try {
  await usage();
  say('passed');
} catch (error) {
  say(`failed: ${error.stack ?? error}`);
  status = 1;
}
await browser.close();
process.exit(status);
