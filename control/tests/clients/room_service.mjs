// `livekit-server-sdk` drives the RoomService (as JSON), with right and wrong grants, over a room with a Python guest.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { createInterface } from 'node:readline';
import { AccessToken, DataPacket_Kind, RoomServiceClient } from 'livekit-server-sdk';

const url = process.env.LIVEKIT_URL ?? 'ws://127.0.0.1:7880';
const host = url.replace('ws', 'http');
const [key, secret] = [process.env.LIVEKIT_API_KEY ?? 'devkey', process.env.LIVEKIT_API_SECRET ?? 'secret'];
const name = `node-${randomBytes(4).toString('hex')}`;
const service = new RoomServiceClient(host, key, secret);

/** The call fails with the status. */
async function refused(call, status) {
  const error = await call.then(() => assert.fail(`granted, though ${status} was wanted`), (e) => e);
  if (error instanceof assert.AssertionError) throw error;
  assert.equal(error.status, status, `${error}`);
}

/** Calls a method with a token of exactly these grants, as the SDK would send it. */
async function callWith(grants, method, body, signedWith = secret) {
  const token = new AccessToken(key, signedWith);
  token.addGrant(grants);
  const response = await fetch(`${host}/twirp/livekit.RoomService/${method}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${await token.toJwt()}` },
    body: JSON.stringify(body),
  });
  await response.text();
  return response.status;
}

/** Starts the guest, and waits for what it reports. */
class Guest {
  constructor(identity) {
    const script = new URL('./guest.py', import.meta.url).pathname;
    const python = new URL('./.venv/bin/python', import.meta.url).pathname;
    this.process = spawn(python, [script, name, identity], { stdio: ['ignore', 'pipe', 'inherit'] });
    this.lines = [];
    this.waiting = [];
    createInterface({ input: this.process.stdout }).on('line', (line) => {
      console.log(`  guest ${identity}: ${line}`);
      this.lines.push(line);
      this.waiting.forEach((check) => check());
    });
  }
  reports(line) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`the guest never reported ${line}`)), 20_000);
      const check = () => this.lines.includes(line) && (clearTimeout(timer), resolve());
      this.waiting.push(check);
      check();
    });
  }
}

/** Waits for the participant's track: it is there for others once its offer is answered, which nobody tells the guest. */
async function untilPublished(identity) {
  for (let patience = 100; patience > 0; patience -= 1) {
    const [track] = (await service.getParticipant(name, identity)).tracks;
    if (track) return track;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`${identity} publishes nothing`);
}

const room = await service.createRoom({ name, emptyTimeout: 60, maxParticipants: 4, metadata: 'm' });
assert.equal(room.name, name);
assert.match(room.sid, /^RM_/);
assert.equal(room.metadata, 'm');
assert.equal(room.emptyTimeout, 60);
assert.equal((await service.createRoom({ name })).sid, room.sid);
assert.deepEqual((await service.listRooms([name, 'none'])).map((r) => r.sid), [room.sid]);
assert.ok((await service.listRooms()).some((r) => r.name === name));
assert.deepEqual(await service.listParticipants(name), []);

const guest = new Guest('gwen');
try {
  await guest.reports('joined');
  const [gwen] = await service.listParticipants(name);
  assert.equal(gwen.identity, 'gwen');
  assert.equal(gwen.metadata, 'a guest');
  const track = await untilPublished('gwen');
  assert.match(track.sid, /^TR_/);
  assert.equal(track.muted, false);
  await service.sendData(name, new TextEncoder().encode('hello'), DataPacket_Kind.RELIABLE, { topic: 'node' });
  await guest.reports('data node hello');
  assert.equal((await service.mutePublishedTrack(name, 'gwen', track.sid, true)).muted, true);
  await guest.reports('muted');
  await refused(service.mutePublishedTrack(name, 'gwen', track.sid, false), 412);
  await refused(service.getParticipant(name, 'zoe'), 404);
  await refused(service.removeParticipant(name, 'zoe'), 404);
  await service.removeParticipant(name, 'gwen');
  await guest.reports('disconnected PARTICIPANT_REMOVED');

  assert.equal(await callWith({ roomList: true }, 'ListRooms', {}), 200);
  assert.equal(await callWith({ roomList: true }, 'CreateRoom', { name: 'x' }), 401);
  assert.equal(await callWith({ roomCreate: true }, 'ListRooms', {}), 401);
  assert.equal(await callWith({ roomAdmin: true, room: 'another' }, 'ListParticipants', { room: name }), 401);
  assert.equal(await callWith({ roomAdmin: true, room: name }, 'ListParticipants', { room: name }), 200);
  assert.equal(await callWith({ roomAdmin: true, room: name }, 'DeleteRoom', { room: name }), 401);
  assert.equal(await callWith({ roomList: true }, 'ListRooms', {}, 'another secret of quite the same length'), 401);

  await service.deleteRoom(name);
  assert.deepEqual(await service.listRooms([name]), []);
  await refused(service.deleteRoom(name), 404);
  console.log('passed');
} finally {
  guest.process.kill('SIGKILL');
}
