// libdatachannel as publisher or viewer: a WebRTC stack in C++ with its own ICE, which leaves RTP to the program.
import { AddTrackRequest, DataPacket, DataPacket_Kind, ParticipantInfo_State, SessionDescription, SignalTarget,
  TrackSource, TrackType, TrickleRequest, UserPacket } from '@livekit/protocol';
import datachannel from 'node-datachannel';
import { frames, isRtcp, Packetizer, Vp8Counter } from './rtp.mjs';
import { SignalClient } from './signal_client.mjs';
import { main, pause } from './stack.mjs';

const VP8 = 96;
const OPUS = 111;
const CLOCK_VIDEO_MS = 1000 / 30;
const CLOCK_AUDIO_MS = 20;
const KEY_FRAME_EVERY_MS = 500;

class Libdatachannel {
  // It cannot restart ICE, which the server's offer on `/rtc` begins after a resume.
  resumes;
  otherLeft = false;
  detail = { version: datachannel.getLibraryVersion() };
  #video = new Vp8Counter();
  #packets = 0;
  #published = new Map();
  #tracks = [];
  #offered = Promise.resolve();
  #remotes = new Map();

  constructor(options) {
    this.resumes = options.mode === 'v1';
    this.mode = options.mode;
    this.signal = new SignalClient(options, (kind, message) => this.#onResponse(kind, message));
    this.publisher = this.#connection('publisher', SignalTarget.PUBLISHER);
    if (options.mode === 'v0') this.subscriber = this.#connection('subscriber', SignalTarget.SUBSCRIBER);
  }

  frames() { return this.#video.whole; }
  packets() { return this.#packets; }

  async join(role) {
    await this.signal.join();
    this.channel = this.#adopt(this.publisher.createDataChannel('_reliable'));
    this.lossy = this.#adopt(this.publisher.createDataChannel('_lossy', { maxRetransmits: 0 }));
    if (role === 'view') {
      if (this.mode === 'v1') for (const kind of ['audio', 'video']) this.#receive(kind);
      await this.#offer();
    }
  }

  async publish() {
    for (const [kind, cid, ssrc] of [['video', 'camera', 1001], ['audio', 'microphone', 2002]]) {
      const isVideo = kind === 'video';
      const published = new Promise((resolve) => { this.#published.set(cid, resolve); });
      this.signal.send('addTrack', new AddTrackRequest({
        cid, name: cid, type: isVideo ? TrackType.VIDEO : TrackType.AUDIO,
        source: isVideo ? TrackSource.CAMERA : TrackSource.MICROPHONE, width: isVideo ? 320 : 0, height: isVideo ? 180 : 0,
      }));
      await published;
      const media = this.#media(kind, cid, 'SendOnly');
      media.addSSRC(ssrc, 'libdatachannel', 'stream', cid);
      this.#send(kind, this.publisher.addTrack(media), ssrc);
    }
    await this.#offer();
  }

  async send(topic, payload) {
    if (!this.channel.isOpen()) return;
    const value = new UserPacket({ topic, payload });
    const packet = new DataPacket({ kind: DataPacket_Kind.RELIABLE, value: { case: 'user', value } });
    this.channel.sendMessageBinary(Buffer.from(packet.toBinary()));
  }

  resume() { return this.signal.resume(); }

  async leave() {
    this.left = true;
    this.signal.leave();
    this.publisher.close();
    this.subscriber?.close();
  }

  #connection(name, target) {
    const connection = new datachannel.PeerConnection(name, {
      iceServers: [], bindAddress: '127.0.0.1', disableAutoNegotiation: true,
      // The server's first offer has no media yet; without this there would never be keys for it.
      forceMediaTransport: true,
    });
    connection.onLocalCandidate((line, sdpMid) => {
      const candidateInit = JSON.stringify({ candidate: line.replace(/^a=/, ''), sdpMid, sdpMLineIndex: 0 });
      this.signal.send('trickle', new TrickleRequest({ candidateInit, target }));
    });
    connection.onDataChannel((channel) => this.#adopt(channel));
    connection.onTrack((track) => this.#watch(track));
    connection.onStateChange((state) => { this.detail[name] = state; });
    this.#remotes.set(target, { connection, described: false, candidates: [] });
    return connection;
  }

  #media(kind, mid, direction) {
    const media = new datachannel[kind === 'video' ? 'Video' : 'Audio'](mid, direction);
    if (kind === 'video') media.addVP8Codec(VP8);
    else media.addOpusCodec(OPUS);
    return media;
  }

  #receive(kind) {
    this.#watch(this.publisher.addTrack(this.#media(kind, `${kind}-${this.#tracks.length}`, 'RecvOnly')));
  }

  #watch(track) {
    // Kept, or it would be collected with its callback.
    this.#tracks.push(track);
    track.setMediaHandler(new datachannel.RtcpReceivingSession());
    let asked = 0;
    track.onMessage((packet) => {
      if (isRtcp(packet)) return;
      if (track.type() !== 'video') {
        this.#packets += 1;
        return;
      }
      this.#video.add(packet);
      if (!this.#video.started && performance.now() > asked + KEY_FRAME_EVERY_MS) {
        asked = performance.now();
        track.requestKeyframe();
      }
    });
  }

  #send(kind, track, ssrc) {
    this.#tracks.push(track);
    const isVideo = kind === 'video';
    const film = frames(isVideo ? 'numbered.ivf' : 'tone.ivf');
    const packetizer = new Packetizer(ssrc, isVideo ? VP8 : OPUS);
    track.onOpen(async () => {
      const begin = performance.now();
      for (let number = 0; !this.left; number += 1) {
        const frame = film[number % film.length];
        for (const packet of isVideo ? packetizer.vp8(frame) : packetizer.opus(frame)) track.sendMessageBinary(packet);
        await pause(Math.max(0, begin + (number + 1) * (isVideo ? CLOCK_VIDEO_MS : CLOCK_AUDIO_MS) - performance.now()));
      }
    });
  }

  #adopt(channel) {
    this.#tracks.push(channel);
    channel.onMessage((bytes) => {
      const { value } = DataPacket.fromBinary(bytes);
      if (value.case === 'user') this.exchange.received(value.value.topic, value.value.payload);
    });
    return channel;
  }

  /** One offer at a time. */
  #offer() {
    this.#offered = this.#offered.then(() => new Promise((resolve) => {
      this.answered = resolve;
      this.publisher.setLocalDescription('offer');
      this.signal.send('offer', new SessionDescription({ type: 'offer', sdp: this.publisher.localDescription().sdp }));
    }));
    return this.#offered;
  }

  #describe(target, sdp, type) {
    const remote = this.#remotes.get(target);
    remote.connection.setRemoteDescription(sdp, type);
    remote.described = true;
    for (const [candidate, mid] of remote.candidates.splice(0)) remote.connection.addRemoteCandidate(candidate, mid);
  }

  #onResponse(kind, message) {
    if (kind === 'answer') {
      this.#describe(SignalTarget.PUBLISHER, message.sdp, 'answer');
      this.answered();
    } else if (kind === 'offer') {
      this.#describe(SignalTarget.SUBSCRIBER, message.sdp, 'offer');
      this.subscriber.setLocalDescription('answer');
      const { sdp } = this.subscriber.localDescription();
      this.signal.send('answer', new SessionDescription({ type: 'answer', sdp, id: message.id }));
    } else if (kind === 'trickle') {
      const { candidate, sdpMid } = JSON.parse(message.candidateInit || '{}');
      const remote = this.#remotes.get(message.target);
      if (!candidate || !remote) return;
      if (remote.described) remote.connection.addRemoteCandidate(candidate, sdpMid);
      else remote.candidates.push([candidate, sdpMid]);
    } else if (kind === 'mediaSectionsRequirement') {
      for (let count = message.numAudios; count > 0; count -= 1) this.#receive('audio');
      for (let count = message.numVideos; count > 0; count -= 1) this.#receive('video');
      this.#offer();
    } else if (kind === 'trackPublished') {
      this.#published.get(message.cid)();
    } else if (kind === 'update') {
      this.otherLeft ||= message.participants.some((who) => who.sid !== this.signal.sid
        && who.state === ParticipantInfo_State.DISCONNECTED);
    } else if (kind === 'leave') {
      this.detail.leave = message.toJsonString();
    }
  }
}

if (process.env.DATACHANNEL_LOG) datachannel.initLogger(process.env.DATACHANNEL_LOG);
await main((options) => new Libdatachannel(options));
