// `livekit-server-sdk` receives the webhooks of a server: every event of a room in order, signed, the first ones tried
// again after an answer of 503.
//
// WEBHOOK_PORT is where the server named by LIVEKIT_URL sends them. Runs alone as well, with such a server.
import assert from 'node:assert/strict';
import http from 'node:http';
import { spawn } from 'node:child_process';
import { RoomServiceClient, WebhookReceiver } from 'livekit-server-sdk';

const url = process.env.LIVEKIT_URL ?? 'ws://127.0.0.1:7880';
const [key, secret] = [process.env.LIVEKIT_API_KEY ?? 'devkey', process.env.LIVEKIT_API_SECRET ?? 'secret'];
const receiver = new WebhookReceiver(key, secret);
const [tries, events] = [[], []];
let refusals = 3;

const server = http.createServer(async (request, response) => {
  try {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks).toString();
    assert.equal(request.headers['content-type'], 'application/webhook+json');
    assert.ok(!request.headers.authorization.startsWith('Bearer'), 'the token is bare');
    const event = await receiver.receive(body, request.headers.authorization);
    await assert.rejects(receiver.receive(`${body} `, request.headers.authorization), 'the digest is of the exact body');
    tries.push(event.id);
    if (refusals > 0) {
      refusals -= 1;
      response.statusCode = 503;
    } else {
      console.log(`${event.event} ${event.room?.name} ${event.participant?.identity ?? ''} ${event.id}`);
      events.push(event);
    }
  } catch (error) {
    console.log(`refused: ${error.stack}`);
    response.statusCode = 401;
  }
  response.end();
});
await new Promise((resolve) => server.listen(Number(process.env.WEBHOOK_PORT), '127.0.0.1', resolve));

async function until(condition, what) {
  for (let patience = 300; !condition(); patience -= 1) {
    assert.ok(patience > 0, `${what}; came: ${events.map((event) => event.event)}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

const came = (name) => events.filter((event) => event.event === name);
const service = new RoomServiceClient(url.replace('ws', 'http'), key, secret);
const room = await service.createRoom({ name: 'hooked', emptyTimeout: 60, metadata: 'm' });
const guest = spawn(new URL('./.venv/bin/python', import.meta.url).pathname,
  [new URL('./guest.py', import.meta.url).pathname, 'hooked', 'gwen'], { stdio: ['ignore', 'inherit', 'inherit'] });
let status = 0;
try {
  await until(() => came('track_published').length > 0, 'the guest publishes');
  await service.deleteRoom('hooked');
  await until(() => came('room_finished').length > 0, 'the room ends');

  assert.deepEqual(events.map((event) => event.event), [
    'room_started', 'participant_joined', 'track_published', 'track_unpublished', 'participant_left', 'room_finished',
  ]);
  assert.ok(events.every((event) => event.room.sid === room.sid && event.room.name === 'hooked'));
  assert.ok(events.every((event) => /^EV_/.test(event.id) && event.createdAt > 0n));
  assert.equal(new Set(events.map((event) => event.id)).size, 6, 'each has an id of its own');
  assert.equal(tries.filter((id) => id === events[0].id).length, 4, 'the first was sent again under the same id');
  const [joined] = came('participant_joined');
  assert.equal(joined.participant.identity, 'gwen');
  assert.equal(joined.room.metadata, 'm');
  assert.equal(came('participant_left')[0].participant.sid, joined.participant.sid);
  assert.match(came('track_published')[0].track.sid, /^TR_/);
  console.log('passed');
} catch (error) {
  console.log(`failed: ${error.stack}`);
  status = 1;
}
guest.kill('SIGKILL');
process.exit(status);
