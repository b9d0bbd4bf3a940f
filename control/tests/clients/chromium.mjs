// What the scripts that drive pages in headless Chromium share.
import assert from 'node:assert/strict';
import http from 'node:http';
import { build } from 'esbuild';
import { chromium } from 'playwright-core';

const begin = performance.now();
export const say = (text) => console.log(`[${((performance.now() - begin) / 1000).toFixed(2).padStart(7)} s] ${text}`);
export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Waits until the condition yields something true, and returns it. */
export async function until(condition, what, withinS = 30) {
  const deadline = performance.now() + withinS * 1000;
  for (let last; ; await pause(100)) {
    const value = await condition((text) => { last = text; });
    if (value) return value;
    assert.ok(performance.now() < deadline, `not within ${withinS} s: ${what}; last ${JSON.stringify(last)}`);
  }
}

/**
 * Serves a page with that script, bundled, on loopback: cameras are given to secure origins only, which 127.0.0.1 is.
 * `sdk` names the package that it gets as livekit-client. Returns its URL.
 */
export async function servePage(script, sdk = 'livekit-client') {
  const { outputFiles: [bundle] } = await build({
    entryPoints: [new URL(script, import.meta.url).pathname],
    bundle: true, format: 'iife', write: false, logLevel: 'error', alias: { 'livekit-client': sdk },
  });
  const server = http.createServer((request, response) => {
    const isScript = request.url === '/page.js';
    response.setHeader('content-type', isScript ? 'text/javascript' : 'text/html');
    response.end(isScript ? bundle.contents : '<!doctype html><meta charset="utf-8"><body><script src="/page.js"></script>');
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${server.address().port}/`;
}

/** A browser with a fake camera and microphone, which may play sound without a gesture. `CHROMIUM` names another one. */
export const launch = () => chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--use-fake-device-for-media-stream',
    '--use-fake-ui-for-media-stream', '--autoplay-policy=no-user-gesture-required',
    '--disable-features=WebRtcHideLocalIpsWithMdns'],
});
