// The oldest `livekit-server-sdk` that still installs makes a token and drives the RoomService.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import sdk from 'livekit-server-sdk-1.0';

const url = process.env.LIVEKIT_URL ?? 'ws://127.0.0.1:7880';
const [key, secret] = [process.env.LIVEKIT_API_KEY ?? 'devkey', process.env.LIVEKIT_API_SECRET ?? 'secret'];
const http = url.replace('ws', 'http');
const name = `old-node-${randomBytes(4).toString('hex')}`;
const service = new sdk.RoomServiceClient(http, key, secret);

const room = await service.createRoom({ name, emptyTimeout: 60, maxParticipants: 5, metadata: 'first' });
assert.equal(room.name, name);
assert.match(room.sid, /^RM_/);
assert.equal(room.maxParticipants, 5);
assert.ok((await service.listRooms()).some((one) => one.name === name));
assert.equal((await service.updateRoomMetadata(name, 'second')).metadata, 'second');
assert.deepEqual(await service.listParticipants(name), []);

const token = new sdk.AccessToken(key, secret, { identity: 'old' });
token.addGrant({ roomJoin: true, room: name });
const valid = await fetch(`${http}/rtc/validate?access_token=${await token.toJwt()}`);
assert.equal(await valid.text(), 'success');

await service.deleteRoom(name);
assert.ok(!(await service.listRooms()).some((one) => one.name === name));
console.log('passed');
