// `livekit-client` in headless Chromium: one page publishes the fake camera and microphone, another one plays them.
//
// browser.mjs SCENARIO v0|v1, where SCENARIO is codecs, session, late or restart, which takes kill or terminate as well.
// Runs alone too: LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET name a running server.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { createInterface } from 'node:readline';
import { AccessToken } from 'livekit-server-sdk';
import { launch, pause, say, servePage, until } from './chromium.mjs';

const url = process.env.LIVEKIT_URL ?? 'ws://127.0.0.1:7880';
const [key, secret] = [process.env.LIVEKIT_API_KEY ?? 'devkey', process.env.LIVEKIT_API_SECRET ?? 'secret'];
const [scenario, model, ending] = process.argv.slice(2);
const roomName = `browser-${scenario}-${randomBytes(4).toString('hex')}`;
const pageUrl = await servePage('./page.js');
const browser = await launch();

/** A page whose participant has joined. */
async function member(identity) {
  const context = await browser.newContext({ permissions: ['camera', 'microphone'] });
  const page = await context.newPage();
  page.on('pageerror', (error) => say(`${identity}: ${error}`));
  page.on('console', (line) => ['warning', 'error'].includes(line.type()) && say(`${identity}: ${line.text()}`));
  await page.goto(pageUrl);
  const token = new AccessToken(key, secret, { identity, name: identity });
  token.addGrant({ roomJoin: true, room: roomName });
  const options = { adaptiveStream: true, dynacast: true, singlePeerConnection: model === 'v1' };
  const sid = await page.evaluate(([u, t, o]) => window.join(u, t, o), [url, await token.toJwt(), options]);
  say(`${identity} joined as ${sid}`);
  return page;
}

/**
 * The page decodes what the publisher sends: for two seconds nearly as many frames as leave in the layer that it is
 * shown. Returns how it is received.
 */
async function plays(page, publisher, sid, why, withinS = 20) {
  const look = async () => {
    const now = await page.evaluate((s) => window.received(s), sid);
    const sent = await publisher.evaluate((s) => window.sent(s), sid);
    return now && { ...now, sent: sent.framesOf[now.height] ?? sent.frames };
  };
  return until(async (last) => {
    const first = await look();
    await pause(2000);
    const now = await look();
    last([first, now]);
    if (!first?.frames || first.height !== now.height) return undefined;
    const [played, sent] = [now.frames - first.frames, now.sent - first.sent];
    return sent >= 10 && played >= 0.8 * sent && now;
  }, why, withinS);
}

/** Frames that the page decodes within a second. */
async function framesOfASecond(page, sid) {
  const first = await page.evaluate((s) => window.received(s), sid);
  await pause(1000);
  return (await page.evaluate((s) => window.received(s), sid)).frames - first.frames;
}

const publish = (page, codec, preset) => page.evaluate(([c, p]) => window.publishCamera(c, p), [codec, preset]);
const heard = (page, event) => page.evaluate((e) => window.happened.includes(e), event);
const forget = (page) => page.evaluate(() => { window.happened = []; });
const cameraSid = (page) => page.evaluate(() => [...window.room.remoteParticipants.values()]
  .flatMap((one) => [...one.videoTrackPublications.keys()])[0]);

/** Each codec that this Chromium offers, published in turn, is played. */
async function codecs() {
  const [alice, bob] = [await member('alice'), await member('bob')];
  const offered = await alice.evaluate(() => RTCRtpSender.getCapabilities('video').codecs.map((one) => one.mimeType));
  for (const codec of ['vp8', 'h264', 'vp9', 'av1']) {
    const mime = `video/${codec.toUpperCase()}`;
    assert.ok(offered.includes(mime), `Chromium offers ${offered}, not ${mime}`);
    const sid = await publish(alice, codec, 'h360');
    const got = await plays(bob, alice, sid, `${codec} is decoded`);
    const sent = await alice.evaluate((s) => window.sent(s), sid);
    assert.equal(sent.codec, mime);
    assert.equal(got.codec, mime);
    say(`${codec}: ${JSON.stringify(sent)} -> ${JSON.stringify(got)}`);
    await alice.evaluate(() => window.unpublishCamera());
    await until(() => bob.evaluate((s) => ![...window.room.remoteParticipants.values()]
      .some((one) => one.trackPublications.has(s)), sid), `bob sees that ${codec} is unpublished`);
  }
}

/**
 * Who comes late is shown the present, not the past that it started with, and costs the publisher few key frames: the
 * server asks for one where the last is too long ago to start with, twice a second until it comes, and passes on what
 * browsers ask for, which is more where they are short of time.
 */
async function late() {
  const [alice, bob] = [await member('alice'), await member('bob')];
  const sid = await publish(alice, 'vp8', 'h360');
  await plays(bob, alice, sid, 'the camera is decoded');
  await pause(1500);
  const before = await alice.evaluate((s) => window.asked(s), sid);
  const asks = async (page) => (await page.evaluate((s) => window.received(s), sid)).asks;
  const asksBefore = await asks(bob);
  const carol = await member('carol');
  const first = performance.now();
  await plays(carol, alice, sid, 'the late viewer decodes the camera');
  const waited = (performance.now() - first) / 1000;
  say(`20 frames after ${waited.toFixed(1)} s`);
  await pause(3000);
  const [early, then] = [await bob.evaluate((s) => window.received(s), sid), await carol.evaluate((s) => window.received(s), sid)];
  await pause(3000);
  const [early2, now] = [await bob.evaluate((s) => window.received(s), sid), await carol.evaluate((s) => window.received(s), sid)];
  const behind = (a, b) => (b.buffered - a.buffered) / (b.emitted - a.emitted);
  say(`buffered ${behind(early, early2).toFixed(3)} s for bob, ${behind(then, now).toFixed(3)} s for carol; ${JSON.stringify(now)}`);
  assert.ok(behind(then, now) < behind(early, early2) + 0.3, 'the late viewer lags behind the other one');
  assert.ok(now.frames - then.frames > 30, 'frames go on');
  const asked = await alice.evaluate((s) => window.asked(s), sid) - before;
  const byBrowsers = await asks(bob) - asksBefore + await asks(carol);
  const most = 1 + byBrowsers + Math.ceil(2 * waited);
  say(`${asked} key frames asked for, ${byBrowsers} by browsers`);
  assert.ok(asked <= most, `one late viewer cost the publisher ${asked} key frames, ${most} at most are due`);
}

/** Simulcast camera and microphone: bitrate grows, layers follow the element, mute, resume, leave. */
async function session() {
  const [alice, bob] = [await member('alice'), await member('bob')];
  const sid = await publish(alice, 'vp8', 'h720');
  // Unprocessed: noise suppression takes the fake microphone's beeps away once it has heard some of them.
  const mic = await alice.evaluate(async () => (await window.room.localParticipant.setMicrophoneEnabled(true,
    { noiseSuppression: false, echoCancellation: false, autoGainControl: false })).trackSid);
  const got = await plays(bob, alice, sid, 'the camera is decoded');
  assert.equal(got.codec, 'video/VP8');
  // libwebrtc starts at 300 kbit/s and goes up only as far as the server's transport-wide feedback lets it.
  const grown = await until(async (last) => {
    const now = await alice.evaluate((s) => window.sent(s), sid);
    last(now);
    return now.available > 1_000_000 && now.target > 1_000_000 && now.layers === 'fhq' && now;
  }, "the publisher's bitrate grows, and all three layers are sent", 30);
  say(`publisher: ${JSON.stringify(grown)}`);
  assert.equal(grown.protocol, 'udp', 'UDP works here, so TCP is not needed');
  await bob.evaluate(() => Object.assign(document.querySelector('video').style, { width: '1280px', height: '720px' }));
  await until(() => heard(alice, 'LocalTrackSubscribed'), 'the publisher hears of its subscriber');
  await until(async (last) => {
    const now = await bob.evaluate((s) => window.received(s), sid);
    last(now);
    return now.width === 1280;
  }, 'the highest layer arrives for an element of its size', 30);
  await until(async (last) => {
    const now = await bob.evaluate((s) => window.received(s), mic);
    last(now);
    return now?.samples > 48_000 && now.energy > 0;
  }, 'the microphone is heard');
  await until(() => bob.evaluate(() => window.room.activeSpeakers.some((one) => one.identity === 'alice')),
    'the beeps of the fake microphone make alice an active speaker');

  await alice.evaluate(async () => { await window.camera.mute(); });
  await until(() => heard(bob, 'TrackMuted'), 'bob sees the mute');
  await until(async (last) => {
    const frames = await framesOfASecond(bob, sid);
    last(frames);
    return frames === 0;
  }, 'no frame comes while the camera is muted');
  await alice.evaluate(async () => { await window.camera.unmute(); });
  await until(() => heard(bob, 'TrackUnmuted'), 'bob sees the end of the mute');
  await plays(bob, alice, sid, 'frames come again after unmute');

  for (const [name, page] of [['bob', bob], ['alice', alice]]) {
    await forget(page);
    const before = await page.evaluate(() => window.room.localParticipant.sid);
    await page.evaluate(() => { window.room.simulateScenario('signal-reconnect'); });
    await until(() => heard(page, 'SignalReconnected').then(async (yes) => yes || heard(page, 'Reconnected')),
      `${name} resumes`);
    assert.equal(await page.evaluate(() => window.room.localParticipant.sid), before);
    await plays(bob, alice, sid, `frames arrive after the resume of ${name}`);
  }
  assert.equal(await heard(bob, 'ParticipantDisconnected'), false, 'nobody left');

  await alice.evaluate(() => window.room.localParticipant.publishData(new TextEncoder().encode('hi'), { reliable: true }));
  await until(() => heard(bob, 'DataReceived'), 'data arrives');
  await alice.evaluate(() => window.room.disconnect());
  await until(() => heard(bob, 'ParticipantDisconnected'), 'the leave is seen', 5);
  await bob.evaluate(() => window.room.disconnect());
}

/** The server ends, killed or told to, and is started again: both pages come back by themselves. */
async function restart() {
  const [alice, bob] = [await member('alice'), await member('bob')];
  await plays(bob, alice, await publish(alice, 'vp8', 'h360'), 'the camera is decoded');
  await forget(alice);
  await forget(bob);
  await askKeeper(ending);
  await until(() => heard(bob, 'SignalReconnecting').then(async (yes) => yes || heard(bob, 'Reconnecting')), 'bob notices');
  await askKeeper('start');
  for (const page of [alice, bob]) await until(() => heard(page, 'Reconnected'), 'it comes back', 60);
  const sid = await until(() => cameraSid(bob), 'the camera is published again', 30);
  await plays(bob, alice, sid, 'frames arrive after the restart', 30);
}

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Has the test that runs this script do something to the server. */
async function askKeeper(command) {
  say(`asks: ${command} the server`);
  console.log(`@server ${command}`);
  assert.equal((await answers.next()).value, 'done');
}

let status = 0;
try {
  await { codecs, session, late, restart }[scenario]();
  say('passed');
} catch (error) {
  say(`failed: ${error.stack ?? error}`);
  status = 1;
}
await browser.close();
process.exit(status);
