// What runs in the browser's pages: livekit-client, and readers of `getStats` for its room's tracks.
import * as LK from 'livekit-client';

window.LK = LK;
window.happened = [];

/** Joins, and plays every video track in an element of 640x360. */
window.join = async (url, token, options) => {
  const room = new LK.Room(options);
  window.room = room;
  for (const event of ['Reconnecting', 'SignalReconnecting', 'Reconnected', 'SignalReconnected', 'Disconnected',
    'TrackMuted', 'TrackUnmuted', 'TrackSubscribed', 'TrackUnsubscribed', 'ParticipantConnected',
    'ParticipantDisconnected', 'LocalTrackSubscribed', 'DataReceived']) {
    room.on(LK.RoomEvent[event], () => window.happened.push(event));
  }
  room.on(LK.RoomEvent.TrackSubscribed, (track) => {
    const element = track.attach();
    // In the corner: a picture outside of the window is one that adaptive stream stops.
    Object.assign(element.style, { position: 'fixed', top: 0, left: 0, width: '640px', height: '360px' });
    document.querySelectorAll(track.kind).forEach((old) => old.remove());
    document.body.appendChild(element);
  });
  await room.connect(url, token);
  return room.localParticipant.sid;
};

/** Publishes a camera with the codec, and returns its sid. */
window.publishCamera = async (videoCodec, preset) => {
  const [track] = await LK.createLocalTracks({ video: { resolution: LK.VideoPresets[preset].resolution } });
  const publication = await window.room.localParticipant.publishTrack(track, { videoCodec, simulcast: true });
  window.camera = publication;
  return publication.trackSid;
};

window.unpublishCamera = () => window.room.localParticipant.unpublishTrack(window.camera.track);

/** Every report of the type in the statistics of the track with the sid, published or subscribed. */
const reports = async (sid, type) => {
  const people = [window.room.localParticipant, ...window.room.remoteParticipants.values()];
  const track = people.map((one) => one.trackPublications.get(sid)?.track).find(Boolean);
  if (!track) return [];
  const endpoint = track.sender ?? track.receiver;
  const stats = await endpoint?.getStats();
  const all = [...(stats?.values() ?? [])];
  return all.filter((report) => report.type === type).map((report) => ({
    ...report,
    codec: all.find((other) => other.id === report.codecId)?.mimeType,
  }));
};

window.received = async (sid) => {
  const [inbound] = await reports(sid, 'inbound-rtp');
  return inbound && {
    frames: inbound.framesDecoded ?? 0, codec: inbound.codec, width: inbound.frameWidth ?? 0,
    height: inbound.frameHeight ?? 0, samples: inbound.totalSamplesReceived ?? 0, energy: inbound.totalAudioEnergy ?? 0,
    lost: inbound.packetsLost, freezes: inbound.freezeCount, keyframes: inbound.keyFramesDecoded,
    buffered: inbound.jitterBufferDelay, emitted: inbound.jitterBufferEmittedCount,
    asks: (inbound.pliCount ?? 0) + (inbound.firCount ?? 0),
  };
};

/** Key frames that the server asked for of the published track, all layers together: the encoder makes more on its own. */
window.asked = async (sid) => (await reports(sid, 'outbound-rtp'))
  .reduce((sum, layer) => sum + (layer.pliCount ?? 0) + (layer.firCount ?? 0), 0);

/** Pictures sent: of several spatial layers in one stream each is counted. */
const framesOf = (layer) => (layer.framesSent ?? 0) / Number(/^L(\d)/.exec(layer.scalabilityMode)?.[1] ?? 1);

window.sent = async (sid) => {
  const layers = await reports(sid, 'outbound-rtp');
  const [pair] = (await reports(sid, 'candidate-pair')).filter((one) => one.nominated && one.state === 'succeeded');
  const [remote] = (await reports(sid, 'remote-candidate')).filter((one) => one.id === pair?.remoteCandidateId);
  return {
    layers: layers.filter((one) => one.framesSent > 0).map((one) => one.rid ?? '').sort().join(''),
    codec: layers[0]?.codec, scalability: layers[0]?.scalabilityMode,
    target: layers.reduce((sum, one) => sum + (one.targetBitrate ?? 0), 0),
    available: pair?.availableOutgoingBitrate ?? 0,
    // Of the pair that media takes.
    protocol: remote?.protocol,
    framesOf: Object.fromEntries(layers.map((one) => [one.frameHeight ?? 0, framesOf(one)])),
    frames: Math.max(0, ...layers.map(framesOf)),
  };
};
