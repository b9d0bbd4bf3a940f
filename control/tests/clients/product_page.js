// What an app does, as the product's description shows it: livekit-client and socket.io-client, unmodified.
import { Room, RoomEvent, createLocalTracks } from 'livekit-client';
import { io } from 'socket.io-client';

window.happened = [];
window.reconnected = 0;

/** The app's API service. */
const request = (base, bearer) => async (path, { method, body }) => {
  const response = await fetch(`${base}/api${path}`, {
    method,
    headers: { Authorization: `Bearer ${bearer}`, ...(body && { 'Content-Type': 'application/json' }) },
    body: body && JSON.stringify(body),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${response.status} ${answer.code}`);
  return answer;
};

window.startStream = async (base, bearer) => {
  const api = { request: request(base, bearer) };
  window.api = api;
  const [audioTrack, videoTrack] = await createLocalTracks({ audio: true, video: { resolution: { width: 640, height: 360 } } });

  const { streamId, roomName, token, url } = await api.request('/live/start', {
    method: 'POST',
    body: { title: 'My Stream', tags: ['pet', 'live'] },
  });
  const room = new Room();
  window.room = room;
  room.on(RoomEvent.Disconnected, () => window.happened.push('room disconnected'));
  await room.connect(url, token);
  await room.localParticipant.publishTrack(videoTrack);
  await room.localParticipant.publishTrack(audioTrack);
  return { streamId, roomName, url };
};

window.stopStream = async (streamId) => {
  await window.api.request('/live/stop', {
    method: 'POST',
    body: { streamId },
  });
  await window.room.disconnect();
};

window.watchStream = async (base, bearer, streamId) => {
  const api = { request: request(base, bearer) };
  window.api = api;
  const { roomName, token, url, title } = await api.request(`/live/${streamId}/watch`, {
    method: 'GET',
  });
  const room = new Room();
  window.room = room;
  room.on(RoomEvent.Disconnected, () => window.happened.push('room disconnected'));
  room.on(RoomEvent.Reconnected, () => { window.reconnected += 1; });
  room.on(RoomEvent.TrackSubscribed, (track) => document.body.appendChild(track.attach()));
  await room.connect(url, token, { autoSubscribe: true });
  return { roomName, title };
};

window.openChat = (baseUrl, roomName) => {
  const socket = io(`http://${baseUrl}/live:${roomName}`, {
    transports: ['websocket'],
  });
  window.socket = socket;
  socket.on('chat:message', (msg) => window.happened.push(`chat ${msg.text}`));
  socket.on('reaction', (emoji) => window.happened.push(`reaction ${emoji}`));
  socket.on('stream:ended', ({ endReason }) => window.happened.push(`ended ${endReason}`));
  socket.on('moderation:blocked', () => window.happened.push('blocked'));
  socket.on('disconnect', (reason) => window.happened.push(`chat disconnected: ${reason}`));
  return new Promise((resolve, reject) => {
    socket.on('connect', () => resolve(true));
    socket.on('connect_error', (error) => reject(error));
  });
};

window.say = (text) => window.socket.emit('chat:message', { text });
window.react = (emoji) => window.socket.emit('reaction', emoji);

/** Frames decoded and sound heard, of everything that is subscribed. */
window.received = async () => {
  const sum = { frames: 0, energy: 0 };
  for (const participant of window.room.remoteParticipants.values()) {
    for (const publication of participant.trackPublications.values()) {
      const stats = await publication.track?.receiver?.getStats();
      for (const report of stats?.values() ?? []) {
        if (report.type !== 'inbound-rtp') continue;
        sum.frames += report.framesDecoded ?? 0;
        sum.energy += report.totalAudioEnergy ?? 0;
      }
    }
  }
  return sum;
};
