// The room of control/examples/chat_server.rs on Node's socket.io, with nothing but sending on: no store, no limits.
// Prints its address, serves until it is killed.

import { createServer } from "node:http";
import { randomUUID } from "node:crypto";
import { Server } from "socket.io";

const http = createServer();
const io = new Server(http, { maxHttpBufferSize: 16 * 1024, serveClient: false });
const room = io.of("/live:bench");
let seq = 0;

room.on("connection", (socket) => {
  const userId = socket.handshake.auth.token;
  socket.emit("chat:state", { you: { userId, role: "user" }, history: [], lastSeq: seq });
  socket.on("chat:message", ({ text }, acknowledge) => {
    seq += 1;
    const message = { id: randomUUID(), seq, text, userId, name: userId, role: "user", sentAt: new Date().toISOString() };
    acknowledge?.({ ok: true, id: message.id, seq, sentAt: message.sentAt });
    room.emit("chat:message", message);
  });
});

http.listen(0, "127.0.0.1", () => console.log(`127.0.0.1:${http.address().port}`));
