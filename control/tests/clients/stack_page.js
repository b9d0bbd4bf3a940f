// What runs in the page of `stack_browser.mjs`: livekit-client of any version from 1.0 on.
import * as LK from 'livekit-client';

const BITS = 16;
const [WIDTH, HEIGHT] = [320, 180];
const PITCH_HZ = 440;

let room;
let camera;
const tracks = [];
const heard = { data: [], left: false, reconnected: 0, log: [] };

/** A picture whose blocks show a number, as `media.py` reads it: black is 0, white is 1, grey is neither. */
function film() {
  const canvas = Object.assign(document.createElement('canvas'), { width: WIDTH, height: HEIGHT });
  document.body.appendChild(canvas);
  const context = canvas.getContext('2d');
  let number = 0;
  const draw = () => {
    number = (number + 1) % (1 << BITS);
    context.fillStyle = '#606060';
    context.fillRect(0, 0, WIDTH, HEIGHT);
    for (let bit = 0; bit < BITS; bit += 1) {
      context.fillStyle = number >> bit & 1 ? '#ffffff' : '#000000';
      context.fillRect(bit * WIDTH / BITS, 0, WIDTH / BITS, HEIGHT / 4);
    }
  };
  draw();
  setInterval(draw, 1000 / 30);
  return canvas.captureStream(30).getVideoTracks()[0];
}

/** A steady tone; where there is no sound device to make one, the browser's fake microphone. */
async function tone() {
  const context = new AudioContext({ sampleRate: 48_000 });
  const source = new OscillatorNode(context, { frequency: PITCH_HZ });
  const destination = new MediaStreamAudioDestinationNode(context, { channelCount: 1 });
  source.connect(new GainNode(context, { gain: 0.4 })).connect(destination);
  source.start();
  const started = new Promise((resolve) => { context.addEventListener('statechange', resolve, { once: true }); });
  await Promise.race([context.state === 'running' || started, new Promise((resolve) => { setTimeout(resolve, 1000); })]);
  if (context.state === 'running') return destination.stream.getAudioTracks()[0];
  const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  return (await navigator.mediaDevices.getUserMedia({ audio: plain })).getAudioTracks()[0];
}

/** The sum of a number in the statistics of what is received. */
async function received(kind, name) {
  let sum = 0;
  for (const track of tracks.filter((one) => one.kind === kind)) {
    const stats = [...(await track.receiver.getStats()).values()];
    for (const report of stats.filter((one) => one.type === 'inbound-rtp')) sum += report[name] ?? 0;
  }
  return sum;
}

window.client = {
  version: () => LK.version,

  async join(url, token, options) {
    room = new LK.Room(options);
    const { RoomEvent: events } = LK;
    room.on(events.DataReceived, (bytes, _who, _kind, topic) => heard.data.push([topic ?? '', new TextDecoder().decode(bytes)]));
    room.on(events.ParticipantDisconnected, () => { heard.left = true; });
    for (const event of new Set([events.Reconnected, events.SignalReconnected])) {
      if (event) room.on(event, () => { heard.reconnected += 1; });
    }
    room.on(events.Disconnected, (reason) => heard.log.push(`disconnected ${reason ?? ''}`));
    room.on(events.TrackSubscribed, (track) => {
      tracks.push(track);
      document.body.appendChild(track.attach());
    });
    await room.connect(url, token);
    return room.localParticipant.sid;
  },

  async publish() {
    camera = await room.localParticipant.publishTrack(film(), { name: 'camera', source: 'camera', simulcast: false, videoCodec: 'vp8' });
    await room.localParticipant.publishTrack(await tone(), { name: 'microphone', source: 'microphone', dtx: false, red: false });
  },

  /** Versions before there were topics put it in front of the text. */
  async send(topic, text) {
    const bytes = (words) => new TextEncoder().encode(words);
    if (LK.version.startsWith('1.0')) await room.localParticipant.publishData(bytes(`${topic}\n${text}`), LK.DataPacket_Kind.RELIABLE);
    else if (LK.version.startsWith('1.')) await room.localParticipant.publishData(bytes(text), LK.DataPacket_Kind.RELIABLE, { topic });
    else await room.localParticipant.publishData(bytes(text), { reliable: true, topic });
  },

  sid: () => room.localParticipant.sid,
  frames: () => received('video', 'framesDecoded'),
  packets: () => received('audio', 'packetsReceived'),

  /** Of each video track that is received, how many frames were decoded. */
  framesByTrack: async () => Promise.all(tracks.filter((one) => one.kind === 'video').map(async (track) => {
    const stats = [...(await track.receiver.getStats()).values()];
    return stats.filter((one) => one.type === 'inbound-rtp').reduce((sum, one) => sum + (one.framesDecoded ?? 0), 0);
  })),

  /** What has happened since the last call. */
  heard() {
    return { ...heard, data: heard.data.splice(0), log: heard.log.splice(0) };
  },

  async leave() {
    await room.disconnect();
  },
};
