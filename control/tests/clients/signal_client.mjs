// LiveKit's signalling for stacks that have no LiveKit SDK: a WebSocket of protobufs, on `/rtc` or `/rtc/v1`.
//
// What it means for peer connections is with whoever uses it.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import {
  ClientInfo, ConnectionSettings, DisconnectReason, JoinRequest, LeaveRequest, Ping, SignalRequest, SignalResponse,
  WrappedJoinRequest,
} from '@livekit/protocol';
import WebSocket from 'ws';

// The protocol version that these clients speak.
const PROTOCOL = 16;
const JOIN_MAX_MS = 10_000;

/** Sends requests, and hands every response to `onResponse(kind, message)` in order, one after the other. */
export class SignalClient {
  sid = '';
  #queue = Promise.resolve();

  constructor({ url, token, mode }, onResponse) {
    Object.assign(this, { url, token, mode, onResponse });
  }

  async join() {
    const { case: kind, value: join } = await this.#open(false);
    assert.equal(kind, 'join');
    this.sid = join.participant.sid;
    this.pinging = setInterval(() => this.send('pingReq', new Ping({ timestamp: 1n })), join.pingInterval * 1000);
    return join;
  }

  /** Drops the socket without a word, and takes the session up again on another one. */
  async resume() {
    this.socket.removeAllListeners('message');
    this.socket.terminate();
    assert.equal((await this.#open(true)).case, 'reconnect');
  }

  send(kind, value) {
    this.socket.send(new SignalRequest({ message: { case: kind, value } }).toBinary());
  }

  leave() {
    clearInterval(this.pinging);
    this.send('leave', new LeaveRequest({ reason: DisconnectReason.CLIENT_INITIATED }));
    this.socket.close();
  }

  async #open(reconnect) {
    const address = this.url + (this.mode === 'v1' ? this.#v1(reconnect) : this.#v0(reconnect));
    this.socket = new WebSocket(address, { headers: { authorization: `Bearer ${this.token}` } });
    // Nothing may be lost between the first message and the others.
    const first = new Promise((resolve) => {
      this.socket.on('message', (bytes) => {
        const { message } = SignalResponse.fromBinary(bytes);
        if (resolve) resolve(message);
        else if (message.case) this.#queue = this.#queue.then(() => this.onResponse(message.case, message.value));
        resolve = undefined;
      });
    });
    await once(this.socket, 'open', { signal: AbortSignal.timeout(JOIN_MAX_MS) });
    return first;
  }

  #v0(reconnect) {
    const query = { auto_subscribe: 1, protocol: PROTOCOL, version: '1.0.0', ...(reconnect && { reconnect: 1, sid: this.sid }) };
    return `/rtc?${new URLSearchParams(query)}`;
  }

  #v1(reconnect) {
    const request = new JoinRequest({
      clientInfo: new ClientInfo({ protocol: PROTOCOL, version: '1.0.0' }),
      connectionSettings: new ConnectionSettings({ autoSubscribe: true }),
      reconnect, participantSid: reconnect ? this.sid : '',
    });
    const wrapped = Buffer.from(new WrappedJoinRequest({ joinRequest: request.toBinary() }).toBinary()).toString('base64');
    return `/rtc/v1?join_request=${encodeURIComponent(wrapped.replaceAll('+', '-').replaceAll('/', '_'))}`;
  }
}
