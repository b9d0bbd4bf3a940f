// The rules of the chat, judged with the unmodified socket.io-client. Each case is run by control/tests/chat.rs against
// a server of its own: `node chat.mjs <case>` with CHAT_URL set.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { io } from "socket.io-client";

const url = process.env.CHAT_URL;
const sockets = [];

/** Asks the test server for something that clients cannot do themselves. */
async function order(what, body, status = 200) {
  const answer = await fetch(`${url}/test/${what}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  assert.equal(answer.status, status, `${what}: ${await answer.clone().text()}`);
  return answer.json();
}

/** A socket that keeps everything it got. */
function connect(namespace, token, options = {}) {
  const { auth, ...rest } = options;
  const socket = io(url + namespace, {
    transports: ["websocket"],
    forceNew: true,
    reconnection: false,
    auth: typeof auth === "function" ? auth : { ...(token && { token }), ...auth },
    ...rest,
  });
  sockets.push(socket);
  socket.got = [];
  socket.onAny((event, payload) => socket.got.push([event, payload]));
  socket.on("disconnect", (reason) => socket.got.push(["disconnect", reason]));
  socket.on("connect_error", (error) => socket.got.push(["connect_error", error.message]));
  return socket;
}

/** The payload of the next event of that name that was not taken yet. */
async function next(socket, event, matches = () => true) {
  const deadline = Date.now() + 10_000;
  while (Date.now() < deadline) {
    const at = socket.got.findIndex(([name, payload]) => name === event && matches(payload));
    if (at >= 0) return socket.got.splice(at, 1)[0][1];
    await sleep(5);
  }
  throw new Error(`no ${event}, only ${JSON.stringify(socket.got)}`);
}

function has(socket, event) {
  return socket.got.some(([name]) => name === event);
}

/** A connected socket, and what it was told first. */
async function join(namespace, token, options) {
  const socket = connect(namespace, token, options);
  socket.state = await next(socket, "chat:state");
  return socket;
}

async function refusal(namespace, token, options) {
  return next(connect(namespace, token, options), "connect_error");
}

function say(socket, text, more = {}) {
  return socket.timeout(10_000).emitWithAck("chat:message", { text, ...more });
}

function react(socket, emoji) {
  return socket.timeout(10_000).emitWithAck("reaction", emoji);
}

/** A call of the API; what it answers, if it has that status. */
async function call(method, path, token, body, status = 200) {
  const headers = { ...(token && { authorization: `Bearer ${token}` }), ...(body && { "content-type": "application/json" }) };
  const answer = await fetch(`${url}/api/live/${path}`, { method, headers, body: body && JSON.stringify(body) });
  const text = await answer.text();
  assert.equal(answer.status, status, `${method} ${path}: ${text}`);
  return text && JSON.parse(text);
}

/** The code with which a call is refused. */
async function refused(method, path, token, body, status) {
  return (await call(method, path, token, body, status)).code;
}

async function live(owner = "owner") {
  return order("live", { owner });
}

const cases = {
  async messages_reach_everybody_and_the_sender() {
    const { namespace } = await live();
    const [ana, ben] = [await join(namespace, "ana"), await join(namespace, "ben")];
    const ack = await say(ana, "  hello ", { clientId: "c-1" });
    assert.equal(ack.ok, true);
    for (const socket of [ana, ben]) {
      const message = await next(socket, "chat:message");
      assert.deepEqual(message, {
        id: ack.id,
        seq: ack.seq,
        sentAt: ack.sentAt,
        text: "hello",
        userId: "ana",
        name: "ana's name",
        role: "user",
        clientId: "c-1",
      });
      assert.match(message.sentAt, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    }
    const reply = await say(ben, "hi", { replyTo: ack.id });
    assert.equal((await next(ana, "chat:message")).replyTo, ack.id);
    assert.equal(reply.seq, ack.seq + 1);
  },

  async roles_are_shown() {
    const { namespace } = await live();
    const owner = await join(namespace, "owner");
    const admin = await join(namespace, "root:admin");
    assert.equal(owner.state.you.role, "owner");
    assert.equal(admin.state.you.role, "admin");
    await say(owner, "o");
    await say(admin, "a");
    assert.equal((await next(owner, "chat:message")).role, "owner");
    assert.equal((await next(owner, "chat:message")).role, "admin");
  },

  async both_transports_and_the_upgrade_work() {
    const { namespace } = await live();
    const polling = await join(namespace, "ana", { transports: ["polling"] });
    const upgraded = await join(namespace, "ben", { transports: ["polling", "websocket"] });
    if (upgraded.io.engine.transport.name !== "websocket") {
      await new Promise((resolve) => upgraded.io.engine.once("upgrade", resolve));
    }
    for (const socket of [polling, upgraded]) {
      assert.equal((await say(socket, `by ${socket.state.you.userId}`)).ok, true);
      await next(polling, "chat:message");
      await next(upgraded, "chat:message");
    }
    assert.equal(polling.io.engine.transport.name, "polling");
  },

  async one_connection_carries_several_rooms() {
    const [one, two] = [await live("o1"), await live("o2")];
    const first = await join(one.namespace, "ana", { forceNew: false });
    const second = await join(two.namespace, "ana", { forceNew: false });
    assert.equal(first.io, second.io);
    await say(first, "only here");
    await next(first, "chat:message");
    await order("end", { streamId: one.streamId });
    assert.equal(await next(first, "disconnect"), "io server disconnect");
    assert.equal((await say(second, "still here")).ok, true);
    assert.ok(!second.got.some(([, payload]) => payload?.text === "only here"));
  },

  async refusals_have_bare_codes() {
    const { namespace, streamId } = await live();
    assert.equal(await refusal(namespace, "ana:bad"), "unauthenticated");
    assert.equal(await refusal(namespace, "ana:expired"), "token_expired");
    assert.equal(await refusal(namespace, undefined, { auth: { token: 5 } }), "unauthenticated");
    await order("block", { streamId, userId: "troll" });
    assert.equal(await refusal(namespace, "troll"), "blocked");
    await order("ban", { userId: "crook" });
    assert.equal(await refusal(namespace, "crook"), "banned");
    assert.equal(await refusal("/live:live_nobody_1", "ana"), "Invalid namespace");
    assert.equal(await refusal("/", "ana"), "Invalid namespace");
    const { streamId: other, namespace: ended } = await live("o2");
    await order("end", { streamId: other });
    assert.equal(await refusal(ended, "ana"), "Invalid namespace");
  },

  async a_refused_client_does_not_try_again() {
    const { namespace } = await live();
    const socket = connect(namespace, "ana:bad", { reconnection: true, reconnectionDelay: 10 });
    await next(socket, "connect_error");
    await sleep(200);
    assert.equal(socket.active, false);
    assert.ok(!has(socket, "connect_error"));
  },

  async guests_may_be_kept_out() {
    const { namespace } = await live();
    assert.equal(await refusal(namespace), "unauthenticated");
  },

  async guests_may_read_only() {
    const { namespace } = await live();
    const [guest, ana] = [await join(namespace), await join(namespace, "ana")];
    assert.equal(guest.state.you.role, "guest");
    assert.equal(guest.state.you.canWrite, false);
    const queried = await join(namespace, undefined, { query: { token: "ana" } });
    assert.equal(queried.state.you.role, "guest");
    await say(ana, "hello");
    assert.equal((await next(guest, "chat:message")).text, "hello");
    assert.equal((await say(guest, "hi")).error.code, "unauthenticated");
    assert.equal((await react(guest, "🔥")).error.code, "unauthenticated");
  },

  // The sample of the product's description, as it stands: no token, no acknowledgement.
  async guests_may_write_in_development() {
    const { namespace } = await live();
    const socket = io(url + namespace, { transports: ["websocket"] });
    sockets.push(socket);
    const got = new Promise((resolve) => socket.on("chat:message", resolve));
    const reacted = new Promise((resolve) => socket.on("reaction", resolve));
    socket.emit("chat:message", { text: "Hello!" });
    socket.emit("reaction", "❤️");
    assert.equal((await got).text, "Hello!");
    assert.equal(await reacted, "❤️");
  },

  async the_switched_off_feature_lets_nobody_in() {
    const { namespace } = await live();
    assert.equal(await refusal(namespace, "ana"), "feature_disabled");
    assert.equal(await refusal(namespace), "feature_disabled");
  },

  async a_user_has_five_sockets_in_a_room() {
    const { namespace } = await live();
    const mine = [];
    for (let n = 0; n < 5; n += 1) mine.push(await join(namespace, "ana"));
    assert.equal(await refusal(namespace, "ana"), "too_many_connections");
    await join(namespace, "ben");
    mine[0].disconnect();
    for (let tries = 0; ; tries += 1) {
      const socket = connect(namespace, "ana");
      await Promise.race([next(socket, "chat:state"), next(socket, "connect_error")]);
      if (socket.connected) break;
      assert.ok(tries < 50, "the place of the one that left is not free");
      await sleep(20);
    }
  },

  async a_connection_has_twenty_namespaces() {
    const rooms = [];
    for (let n = 0; n < 21; n += 1) rooms.push(await live(`o${n}`));
    for (const { namespace } of rooms.slice(0, 20)) await join(namespace, "ana", { forceNew: false });
    assert.equal(await refusal(rooms[20].namespace, "ana", { forceNew: false }), "too_many_connections");
    await join(rooms[20].namespace, "ana");
  },

  async an_expired_token_reads_on_but_does_not_write() {
    const { namespace } = await live();
    const [ana, ben] = [await join(namespace, "ana:1.5"), await join(namespace, "ben")];
    assert.equal((await say(ana, "in time")).ok, true);
    await sleep(1600);
    assert.equal((await say(ana, "too late")).error.code, "token_expired");
    await say(ben, "still read");
    await next(ana, "chat:message", ({ text }) => text === "still read");
  },

  async refusals_without_a_callback_come_as_an_event() {
    const { namespace } = await live();
    const ana = await join(namespace, "ana");
    ana.emit("chat:message", { text: "" });
    assert.equal((await next(ana, "chat:error")).code, "validation_failed");
    ana.emit("nonsense", 1, 2, 3);
    assert.equal((await next(ana, "chat:error")).code, "validation_failed");
    ana.emit("chat:message", "a string");
    assert.equal((await next(ana, "chat:error")).code, "validation_failed");
    ana.emit("chat:message");
    assert.equal((await next(ana, "chat:error")).code, "validation_failed");
    const { ok, error } = await say(ana, "x".repeat(501));
    assert.equal(ok, false);
    assert.deepEqual(Object.keys(error).sort(), ["code", "message"]);
  },

  async messages_are_limited_over_all_sockets_of_a_user() {
    const { namespace } = await live();
    const [one, two] = [await join(namespace, "ana"), await join(namespace, "ana")];
    const acks = await Promise.all([0, 1, 2, 3, 4, 5, 6].map((n) => say(n % 2 ? one : two, `m${n}`)));
    assert.equal(acks.filter(({ ok }) => ok).length, 5);
    const refused = acks.find(({ ok }) => !ok).error;
    assert.equal(refused.code, "rate_limited");
    assert.ok(refused.retryAfterMs > 0 && refused.retryAfterMs <= 2000, refused.retryAfterMs);
    assert.equal((await say(await join(namespace, "ben"), "mine")).ok, true);
  },

  async the_same_text_is_not_sent_twice() {
    const { namespace } = await live();
    const ana = await join(namespace, "ana");
    assert.equal((await say(ana, "again")).ok, true);
    assert.equal((await say(ana, "again ")).error.code, "duplicate_message");
    assert.equal((await say(await join(namespace, "ben"), "again")).ok, true);
  },

  async slow_mode_spares_owner_and_administrators() {
    const { namespace, streamId } = await live();
    const [ana, owner] = [await join(namespace, "ana"), await join(namespace, "owner")];
    const admin = await join(namespace, "root:admin");
    const settings = await order("settings", { streamId, slowModeSeconds: 60 });
    assert.equal(settings.slowModeSeconds, 60);
    assert.deepEqual(await next(ana, "chat:settings"), settings);
    assert.equal((await say(ana, "one")).ok, true);
    const { error } = await say(ana, "two");
    assert.equal(error.code, "slow_mode");
    assert.ok(error.retryAfterMs > 50_000 && error.retryAfterMs <= 60_000);
    for (const socket of [owner, admin]) {
      assert.equal((await say(socket, "one")).ok, true);
      assert.equal((await say(socket, "two")).ok, true);
    }
  },

  async settings_hold_for_messages() {
    const { namespace, streamId } = await live();
    const ana = await join(namespace, "ana");
    const set = async (change) => {
      await order("settings", { streamId, ...change });
      await next(ana, "chat:settings");
    };
    await set({ maxLength: 3 });
    assert.equal((await say(ana, "1234")).error.code, "validation_failed");
    await set({ maxLength: 500, linksAllowed: false });
    assert.equal((await say(ana, "see example.com")).error.code, "filtered");
    await set({ linksAllowed: true, emojiOnly: true });
    assert.equal((await say(ana, "words")).error.code, "validation_failed");
    assert.equal((await say(ana, "🔥🔥")).ok, true);
    await set({ emojiOnly: false, enabled: false });
    assert.equal((await say(ana, "anything")).error.code, "chat_disabled");
    assert.equal((await join(namespace, "ben")).state.you.canWrite, false);
  },

  async a_muted_user_is_told_and_may_read() {
    const { namespace, streamId } = await live();
    const [ana, ben] = [await join(namespace, "ana"), await join(namespace, "ben")];
    const { until } = await order("mute", { streamId, userId: "ana", seconds: 60 });
    assert.deepEqual(await next(ana, "chat:muted"), { until });
    const { error } = await say(ana, "hm");
    assert.equal(error.code, "muted");
    assert.ok(error.retryAfterMs > 50_000);
    await say(ben, "hello");
    assert.equal((await next(ana, "chat:message")).text, "hello");
    const again = await join(namespace, "ana");
    assert.equal(again.state.you.canWrite, false);
    assert.equal(again.state.you.mutedUntil, until);
    await order("unmute", { streamId, userId: "ana" });
    assert.deepEqual(await next(ana, "chat:muted"), {});
    assert.equal((await say(ana, "back")).ok, true);
    assert.ok(!has(ben, "chat:muted"));
  },

  async muting_can_clear_what_was_said() {
    const { namespace, streamId } = await live();
    const [ana, ben] = [await join(namespace, "ana"), await join(namespace, "ben")];
    await say(ana, "bad 1");
    await say(ben, "good");
    await order("mute", { streamId, userId: "ana", seconds: 60, deleteMessages: true });
    assert.deepEqual(await next(ben, "chat:cleared"), { userId: "ana" });
    const late = await join(namespace, "cal");
    assert.deepEqual(late.state.history.map(({ text }) => text), ["good"]);
  },

  async a_deleted_message_is_hidden() {
    const { namespace, streamId } = await live();
    const [ana, ben] = [await join(namespace, "ana"), await join(namespace, "ben")];
    const { id, seq } = await say(ana, "oops");
    await order("delete", { streamId, messageId: id, by: "ben" }, 403);
    await order("delete", { streamId, messageId: id, by: "ana" });
    assert.deepEqual(await next(ben, "chat:deleted"), { id, seq });
    assert.deepEqual((await join(namespace, "cal")).state.history, []);
    await order("delete", { streamId, messageId: id, by: "owner" });
    await order("delete", { streamId, messageId: "none", by: "owner" }, 404);
  },

  async one_message_is_pinned() {
    const { namespace, streamId } = await live();
    const [ana, owner] = [await join(namespace, "ana"), await join(namespace, "owner")];
    assert.equal(ana.state.pinned, null);
    const { id } = await say(owner, "rules");
    await order("pin", { streamId, messageId: id, by: "ana" }, 403);
    await order("pin", { streamId, messageId: id });
    assert.equal((await next(ana, "chat:pinned")).id, id);
    assert.equal((await join(namespace, "ben")).state.pinned.text, "rules");
    await order("unpin", { streamId });
    assert.equal(await next(ana, "chat:pinned"), null);
    await order("pin", { streamId, messageId: id });
    await next(ana, "chat:pinned");
    await order("delete", { streamId, messageId: id, by: "owner" });
    assert.equal(await next(ana, "chat:pinned"), null);
    await order("pin", { streamId, messageId: id }, 404);
  },

  async reactions_are_relayed_and_summed_up() {
    const { namespace } = await live();
    const [ana, ben] = [await join(namespace, "ana"), await join(namespace, "ben")];
    for (let n = 0; n < 3; n += 1) ana.emit("reaction", "❤️");
    assert.deepEqual(await react(ben, "🔥"), { ok: true });
    assert.equal(await next(ben, "reaction", (emoji) => emoji === "❤️"), "❤️");
    assert.equal(await next(ana, "reaction", (emoji) => emoji === "🔥"), "🔥");
    const totals = { "❤️": 3, "🔥": 1 };
    const sum = await next(ana, "reactions", ({ totals: now }) => now["❤️"] === 3 && now["🔥"] === 1);
    assert.equal(sum.windowMs, 500);
    assert.deepEqual(sum.totals, totals);
    assert.deepEqual((await join(namespace, "cal")).state.reactionTotals, totals);
    for (const bad of ["", "x", "❤️❤️", "<b>"]) {
      assert.equal((await react(ana, bad)).error.code, "validation_failed", bad);
    }
  },

  async many_reactions_are_sampled_and_dropped_beyond_the_limit() {
    const { namespace } = await live();
    const watcher = await join(namespace, "watcher");
    const crowd = await Promise.all([...Array(5).keys()].map((n) => join(namespace, `u${n}`)));
    const begin = performance.now();
    for (const socket of crowd) for (let n = 0; n < 15; n += 1) socket.emit("reaction", "🔥");
    for (let n = 0; n < 200; n += 1) crowd[0].emit("reaction", "❤️");
    // Refused only once all before it has been read; dropped like the others while these wait.
    while ((await react(crowd[0], "none")).error?.code !== "validation_failed") await sleep(100);
    await sleep(600);
    const seconds = (performance.now() - begin) / 1000;
    const all = (event) => watcher.got.filter(([name]) => name === event).map(([, payload]) => payload);
    const { totals } = all("reactions").at(-1);
    assert.equal(totals["🔥"], 75);
    // Twenty at once, fifteen of which were fires, and ten a second.
    const hearts = totals["❤️"];
    assert.ok(hearts >= 5 && hearts <= 5 + 10 * seconds, `${hearts} hearts in ${seconds} s`);
    for (const emoji of ["🔥", "❤️"]) {
      const told = all("reactions").reduce((sum, { counts }) => sum + (counts[emoji] ?? 0), 0);
      assert.equal(told, totals[emoji], `the windows' ${emoji} together`);
    }
    const singles = all("reaction").length;
    assert.ok(singles >= 10 && singles <= 10 + 10 * seconds, `${singles} one by one in ${seconds} s`);
    assert.ok(!has(crowd[0], "chat:error"), "dropped without a word");
  },

  async viewers_are_told() {
    const { namespace, streamId } = await live();
    await order("viewers", { streamId, viewers: 3 });
    const ana = await join(namespace, "ana");
    assert.equal(ana.state.viewers, 3);
    for (const viewers of [4, 5, 6]) await order("viewers", { streamId, viewers });
    const last = await next(ana, "viewers", ({ viewers }) => viewers === 6);
    assert.deepEqual(last, { viewers: 6, peakViewers: 6 });
    assert.ok(ana.got.filter(([event]) => event === "viewers").length <= 1);
  },

  async changes_of_the_stream_are_told() {
    const { namespace, streamId } = await live();
    const ana = await join(namespace, "ana");
    await order("title", { streamId, title: "New" });
    assert.deepEqual(await next(ana, "stream:updated"), { title: "New", tags: [] });
    await order("state", { streamId, state: "reconnecting" });
    assert.deepEqual(await next(ana, "stream:state"), { state: "reconnecting" });
  },

  async a_blocked_user_is_told_and_disconnected() {
    const { namespace, streamId } = await live();
    const options = { reconnection: true, reconnectionDelay: 10 };
    const mine = [await join(namespace, "ana", options), await join(namespace, "ana", options)];
    const ben = await join(namespace, "ben");
    await order("block", { streamId, userId: "ana" });
    for (const socket of mine) {
      assert.deepEqual(await next(socket, "moderation:blocked"), {});
      assert.equal(await next(socket, "disconnect"), "io server disconnect");
      assert.equal(socket.active, false);
    }
    assert.equal((await say(ben, "still here")).ok, true);
    assert.equal(await refusal(namespace, "ana"), "blocked");
  },

  async a_banned_user_is_disconnected_everywhere() {
    const [one, two] = [await live("o1"), await live("o2")];
    const mine = [await join(one.namespace, "ana"), await join(two.namespace, "ana")];
    await order("ban", { userId: "ana" });
    for (const socket of mine) assert.equal(await next(socket, "disconnect"), "io server disconnect");
    assert.equal(await refusal(one.namespace, "ana"), "banned");
  },

  async the_end_is_told_and_disconnects() {
    const { namespace, streamId } = await live();
    const options = { reconnection: true, reconnectionDelay: 10 };
    const all = [];
    for (const transports of [["websocket"], ["polling"]]) all.push(await join(namespace, "ana", { ...options, transports }));
    await order("end", { streamId });
    for (const socket of all) {
      const { endReason, endedAt } = await next(socket, "stream:ended");
      assert.equal(endReason, "stopped");
      assert.ok(Date.parse(endedAt) > 0);
      assert.equal(await next(socket, "disconnect"), "io server disconnect");
      await sleep(100);
      assert.equal(socket.active, false);
      assert.ok(!has(socket, "connect_error"), "it does not come back");
    }
  },

  async history_is_given_to_newcomers_and_what_they_lack_to_others() {
    const { namespace } = await live();
    const ana = await join(namespace, "ana");
    assert.deepEqual(ana.state.history, []);
    assert.equal(ana.state.lastSeq, 0);
    const seqs = [];
    for (let n = 0; n < 260; n += 1) seqs.push((await say(ana, `m${n}`)).seq);
    assert.deepEqual(seqs, [...Array(260).keys()].map((n) => seqs[0] + n), "no gaps");
    const fresh = await join(namespace, "ben");
    assert.equal(fresh.state.history.length, 50);
    assert.equal(fresh.state.lastSeq, seqs[259]);
    const back = await join(namespace, "cal", { auth: { lastSeq: seqs[159] } });
    assert.deepEqual(back.state.history.map(({ seq }) => seq), seqs.slice(160));
    assert.equal(back.state.gap, false);
    const long = await join(namespace, "dan", { auth: { lastSeq: seqs[9] } });
    assert.equal(long.state.history.length, 200);
    assert.equal(long.state.gap, true);
  },

  async two_thousand_messages_of_one_sender_keep_their_order() {
    const { namespace } = await live();
    const [ana, ben] = [await join(namespace, "ana"), await join(namespace, "ben")];
    const got = [];
    ben.on("chat:message", ({ text, seq }) => got.push([Number(text), seq]));
    for (let n = 0; n < 2000; n += 50) {
      await Promise.all([...Array(50).keys()].map((k) => say(ana, String(n + k)).then(({ ok }) => assert.ok(ok))));
    }
    while (got.length < 2000) await sleep(10);
    assert.deepEqual(got.map(([n]) => n), [...Array(2000).keys()]);
    for (let n = 1; n < got.length; n += 1) assert.equal(got[n][1], got[n - 1][1] + 1);
  },

  async fifty_refused_events_close_the_socket() {
    const { namespace } = await live();
    const [ana, ben] = [await join(namespace, "ana"), await join(namespace, "ben")];
    for (let n = 0; n < 49; n += 1) ana.emit("nonsense");
    await sleep(300);
    assert.ok(ana.connected);
    ana.emit("nonsense");
    assert.equal(await next(ana, "disconnect"), "io server disconnect");
    assert.ok(ben.connected);
  },

  async what_may_be_sent_at_once_is_taken_whole() {
    const { namespace } = await live();
    const [ana, ben] = [await join(namespace, "ana"), await join(namespace, "ben")];
    const sent = [...Array(20).keys()].map(() => ana.timeout(10_000).emitWithAck("reaction", "🔥"));
    for (let n = 0; n < 5; n += 1) sent.push(say(ana, `message ${n}`));
    for (const answer of await Promise.all(sent)) assert.equal(answer.ok, true, JSON.stringify(answer));
    for (let n = 0; n < 5; n += 1) await next(ben, "chat:message", ({ text }) => text === `message ${n}`);
    await next(ben, "reactions", ({ totals }) => totals["🔥"] === 20);
  },

  async what_is_too_large_is_answered() {
    const { namespace } = await live();
    for (const transports of [["websocket"], ["polling"]]) {
      const ana = await join(namespace, "ana", { transports });
      const answer = await ana.timeout(10_000).emitWithAck("chat:message", { text: "x".repeat(250_000) });
      assert.deepEqual([answer.ok, answer.error.code], [false, "validation_failed"]);
      ana.emit("reaction", "x".repeat(17_000));
      assert.match((await next(ana, "chat:error")).message, /bytes/);
      assert.equal((await say(ana, `and goes on by ${transports}`)).ok, true);
      assert.equal((await ana.timeout(10_000).emitWithAck("chat:message", { text: "x".repeat(16_000) })).ok, false);
    }
  },

  async oversized_packets_and_attachments_end_the_connection() {
    const { namespace } = await live();
    const opened = await (await fetch(`${url}/socket.io/?EIO=4&transport=polling`)).text();
    assert.equal(JSON.parse(opened.slice(1)).maxPayload, 256 * 1024);
    const ben = await join(namespace, "ben");
    for (const payload of [{ text: "x".repeat(300_000) }, { text: Buffer.from("binary") }]) {
      const ana = await join(namespace, "ana");
      ana.emit("chat:message", payload);
      assert.match(await next(ana, "disconnect"), /^transport (close|error)$/);
    }
    const polling = await join(namespace, "cal", { transports: ["polling"] });
    polling.emit("chat:message", { text: "x".repeat(300_000) });
    assert.match(await next(polling, "disconnect"), /^transport (close|error)$/);
    assert.equal((await say(ben, "unharmed")).ok, true);
  },

  async pages_of_other_origins_are_kept_out() {
    const { namespace } = await live();
    for (const transports of [["websocket"], ["polling"]]) {
      const evil = { transports, extraHeaders: { origin: "https://evil.example" } };
      assert.match(await refusal(namespace, "ana", evil), /error/);
      const own = { transports, extraHeaders: { origin: url } };
      await join(namespace, "ana", own);
      const listed = { transports, extraHeaders: { origin: "https://app.example" } };
      await join(namespace, "ana", listed);
    }
    const answer = await fetch(`${url}/socket.io/?EIO=4&transport=polling`, { headers: { origin: "https://app.example" } });
    assert.equal(answer.headers.get("access-control-allow-origin"), "https://app.example");
  },

  async a_client_comes_back_by_itself_and_lacks_nothing() {
    const { namespace } = await live();
    const ben = await join(namespace, "ben");
    let last;
    const ana = connect(namespace, undefined, {
      reconnection: true,
      reconnectionDelay: 20,
      auth: (give) => give({ token: "ana", ...(last && { lastSeq: last }) }),
    });
    await next(ana, "chat:state");
    last = (await say(ben, "one")).seq;
    await next(ana, "chat:message");
    ana.io.engine.close();
    await say(ben, "two");
    const state = await next(ana, "chat:state");
    const texts = [...state.history, ...ana.got.filter(([event]) => event === "chat:message").map(([, m]) => m)];
    assert.deepEqual(texts.map(({ text }) => text), ["two"]);
  },

  async history_is_read_page_by_page() {
    const { namespace, streamId } = await live();
    const ana = await join(namespace, "ana");
    const seqs = [];
    for (let n = 0; n < 120; n += 1) seqs.push((await say(ana, `m${n}`)).seq);
    const page = async (query, token) => {
      const { messages, hasMore } = await call("GET", `${streamId}/chat${query}`, token);
      return [messages.map(({ seq }) => seq), hasMore];
    };
    assert.deepEqual(await page(""), [seqs.slice(70), true]);
    assert.deepEqual(await page(`?before=${seqs[70]}&limit=100`, "ben"), [seqs.slice(0, 70), false]);
    assert.deepEqual(await page(`?after=${seqs[100]}&limit=10`), [seqs.slice(101, 111), true]);
    assert.deepEqual(await page(`?after=${seqs[119]}`), [[], false]);
    const { messages } = await call("GET", `${streamId}/chat?limit=1`);
    assert.deepEqual(messages[0], (await next(ana, "chat:message", ({ seq }) => seq === seqs[119])));
    for (const query of ["?limit=0", "?limit=101", "?before=x", `?before=1&after=1`]) {
      assert.equal(await refused("GET", `${streamId}/chat${query}`, undefined, undefined, 400), "invalid_parameter");
    }
    assert.equal(await refused("GET", "0123456789abcdef01234567/chat", undefined, undefined, 404), "stream_not_found");
    assert.equal(await refused("GET", `${streamId}/chat`, "ana:expired", undefined, 401), "token_expired");
    await order("block", { streamId, userId: "troll" });
    assert.equal(await refused("GET", `${streamId}/chat`, "troll", undefined, 403), "blocked");
    await order("end", { streamId });
    assert.deepEqual((await page(""))[0], seqs.slice(70), "also after the end");
  },

  async history_is_as_open_as_the_socket() {
    const { streamId } = await live();
    assert.equal(await refused("GET", `${streamId}/chat`, undefined, undefined, 401), "unauthenticated");
    await call("GET", `${streamId}/chat`, "ana");
  },

  async moderation_is_for_the_owner_and_administrators() {
    const { namespace, streamId } = await live();
    const ana = await join(namespace, "ana");
    const { id } = await say(ana, "hello");
    const acts = [
      ["PATCH", `${streamId}/chat/settings`, { slowModeSeconds: 5 }, 200],
      ["PUT", `${streamId}/chat/mutes/ben`, { seconds: 10 }, 200],
      ["DELETE", `${streamId}/chat/mutes/ben`, undefined, 204],
      ["PUT", `${streamId}/chat/pin`, { messageId: id }, 200],
      ["DELETE", `${streamId}/chat/pin`, undefined, 204],
    ];
    for (const [method, path, body, status] of acts) {
      assert.equal(await refused(method, path, undefined, body, 401), "unauthenticated");
      assert.equal(await refused(method, path, "ana", body, 403), "not_owner");
      for (const token of ["owner", "root:admin", "owner"]) await call(method, path, token, body, status);
    }
    assert.equal(await refused("DELETE", `${streamId}/chat/${id}`, "ben", undefined, 403), "forbidden");
    await call("DELETE", `${streamId}/chat/${id}`, "ana", undefined, 204);
    await call("DELETE", `${streamId}/chat/${id}`, "root:admin", undefined, 204);
    assert.equal(await refused("DELETE", `${streamId}/chat/nothing`, "owner", undefined, 404), "not_found");
    assert.equal(await refused("PUT", `${streamId}/chat/mutes/owner`, "root:admin", { seconds: 10 }, 403), "forbidden");
    await order("end", { streamId });
    for (const [method, path, body] of acts) {
      assert.equal(await refused(method, path, "owner", body, 410), "stream_ended");
    }
  },

  async moderation_checks_its_fields() {
    const { streamId } = await live();
    for (const body of [{ slowModeSeconds: 121 }, { maxLength: 0 }, { maxLength: 501 }]) {
      const { code, errors } = await call("PATCH", `${streamId}/chat/settings`, "owner", body, 422);
      assert.equal(code, "validation_failed");
      assert.deepEqual(errors.map(({ field }) => field), Object.keys(body));
    }
    for (const body of [{ slowmode: 1 }, { filter: "maybe" }, { enabled: "yes" }, { slowModeSeconds: -1 }]) {
      assert.equal(await refused("PATCH", `${streamId}/chat/settings`, "owner", body, 400), "malformed_body");
    }
    for (const seconds of [9, 86_401]) {
      assert.equal(await refused("PUT", `${streamId}/chat/mutes/ana`, "owner", { seconds }, 422), "validation_failed");
    }
    const long = "x".repeat(129);
    assert.equal(await refused("PUT", `${streamId}/chat/mutes/${long}`, "owner", { seconds: 10 }, 404), "not_found");
    const settings = await call("PATCH", `${streamId}/chat/settings`, "owner", { filter: "mask", maxLength: 100 });
    const rest = { enabled: true, slowModeSeconds: 0, linksAllowed: true, emojiOnly: false };
    assert.deepEqual(settings, { ...rest, filter: "mask", maxLength: 100 });
  },

  async chat_goes_on_while_the_store_is_away() {
    const { namespace, streamId } = await live();
    const [ana, ben] = [await join(namespace, "ana"), await join(namespace, "ben")];
    const first = await say(ana, "before");
    await order("store", { away: true });
    const during = [];
    for (let n = 0; n < 150; n += 1) during.push(await say(ana, `during ${n}`));
    assert.ok(during.every(({ ok }) => ok));
    assert.deepEqual(during.map(({ seq }) => seq), during.map((_, n) => first.seq + 1 + n));
    await next(ben, "chat:message", ({ text }) => text === "during 149");
    await order("mute", { streamId, userId: "ana", seconds: 60 }, 503);
    await order("store", { away: false });
    const after = await say(ana, "after");
    assert.ok(after.seq > during[149].seq);
  },
};

const name = process.argv[2];
setTimeout(() => {
  console.error(`not done within a minute; the sockets got ${JSON.stringify(sockets.map(({ got }) => got))}`);
  process.exit(1);
}, 60_000).unref();
try {
  await cases[name]();
  process.exit(0);
} catch (error) {
  console.error(error);
  process.exit(1);
}
