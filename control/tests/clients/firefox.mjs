// Headless Firefox by WebDriver BiDi, which it speaks itself: a page, and calls into it.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import WebSocket from 'ws';

const LISTENS = /WebDriver BiDi listening on (ws:\S+)/;

/**
 * Cameras and sound without a question; ICE on loopback, where the server is, for which a page needs the permission to
 * use them (others get the default route's address alone); nothing asked of anybody outside.
 */
const PREFERENCES = {
  'media.navigator.permission.disabled': true,
  'media.navigator.streams.fake': true,
  'media.autoplay.default': 0,
  'media.peerconnection.ice.loopback': true,
  'permissions.default.microphone': 1,
  'permissions.default.camera': 1,
  'media.peerconnection.ice.obfuscate_host_addresses': false,
  'network.captive-portal-service.enabled': false,
  'network.connectivity-service.enabled': false,
  'app.normandy.enabled': false,
  'browser.safebrowsing.update.enabled': false,
  'datareporting.policy.dataSubmissionEnabled': false,
  'media.gmp-manager.updateEnabled': false,
};

/** Opens a page; `FIREFOX` names another program. */
export async function openFirefox(url) {
  const profile = mkdtempSync(path.join(tmpdir(), 'onair-firefox-'));
  const lines = Object.entries(PREFERENCES).map(([name, value]) => `user_pref("${name}", ${JSON.stringify(value)});`);
  writeFileSync(path.join(profile, 'user.js'), lines.join('\n'));
  const program = process.env.FIREFOX ?? 'firefox-esr';
  const firefox = spawn(program, ['--headless', '--remote-debugging-port', '0', '--profile', profile, 'about:blank'],
    { stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, HOME: profile, MOZ_CRASHREPORTER_DISABLE: '1' } });
  let endpoint;
  for await (const line of createInterface({ input: firefox.stderr })) {
    endpoint = LISTENS.exec(line)?.[1];
    if (endpoint) break;
  }
  firefox.stderr.resume();
  const bidi = await connect(`${endpoint}/session`);
  await bidi('session.new', { capabilities: {} });
  const { contexts: [{ context }] } = await bidi('browsingContext.getTree', {});
  await bidi('browsingContext.navigate', { context, url, wait: 'complete' });
  return {
    /** Calls `window.client[method](...args)`; what it returns has to be JSON. */
    async call(method, ...args) {
      const functionDeclaration = `async (json) => { const [method, args] = JSON.parse(json);
        return JSON.stringify(await window.client[method](...args) ?? null); }`;
      const value = JSON.stringify([method, args]);
      const { result, exceptionDetails } = await bidi('script.callFunction',
        { functionDeclaration, awaitPromise: true, target: { context }, arguments: [{ type: 'string', value }] });
      if (exceptionDetails) throw new Error(exceptionDetails.text);
      return JSON.parse(result.value);
    },
    async close() {
      firefox.kill('SIGKILL');
      await once(firefox, 'exit');
      rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

/** A function that sends a command, and returns a promise of its result. */
async function connect(endpoint) {
  const socket = new WebSocket(endpoint, { perMessageDeflate: false });
  await once(socket, 'open');
  const waiting = new Map();
  let last = 0;
  socket.on('message', (text) => {
    const { id, type, result, error, message } = JSON.parse(text);
    const settle = waiting.get(id);
    waiting.delete(id);
    if (type === 'error') settle?.reject(new Error(`${error}: ${message}`));
    else settle?.resolve(result);
  });
  return (method, params) => new Promise((resolve, reject) => {
    last += 1;
    waiting.set(last, { resolve, reject });
    socket.send(JSON.stringify({ id: last, method, params }));
  });
}
