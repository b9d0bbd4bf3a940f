// Every version of livekit-client in one room, in a page each: each publishes, and sees what all others publish.
import { randomBytes } from 'node:crypto';
import { AccessToken } from 'livekit-server-sdk';
import { launch, say, servePage, until } from '../chromium.mjs';

const url = process.env.LIVEKIT_URL ?? 'ws://127.0.0.1:7880';
const [key, secret] = [process.env.LIVEKIT_API_KEY ?? 'devkey', process.env.LIVEKIT_API_SECRET ?? 'secret'];
const room = `mixed-${randomBytes(4).toString('hex')}`;
const old = ['1.0', '1.15', '2.0', '2.9'].map((version) => `./versions/node_modules/livekit-client-${version}`);
const browser = await launch();
const patienceS = 120;
let status = 0;

// Version 1.0 looks at the state of its connection, and waits before it makes an offer: on a slow machine two calls make one
// each, and the answer to the first, which it cannot tell from that to the second, does not fit. The second one does.
const answersAnEarlierOffer = (sdk, error) => sdk.endsWith('1.0') && `${error}`.includes('order of m-lines');

async function member(sdk) {
  const page = await (await browser.newContext({ permissions: ['camera', 'microphone'] })).newPage();
  page.on('pageerror', (error) => {
    say(`${sdk}: ${error}`);
    if (!answersAnEarlierOffer(sdk, error)) status = 1;
  });
  await page.goto(await servePage('./stack_page.js', sdk));
  const call = (method, ...args) => page.evaluate(([name, values]) => window.client[name](...values), [method, args]);
  const version = await call('version');
  const token = new AccessToken(key, secret, { identity: version });
  token.addGrant({ roomJoin: true, room });
  await call('join', url, await token.toJwt(), {});
  await call('publish');
  say(`${version} has joined and publishes`);
  return { version, call };
}

try {
  const members = [];
  for (const sdk of [...old, 'livekit-client']) members.push(await member(sdk));
  for (const { version, call } of members) {
    await until(async (last) => {
      const frames = await call('framesByTrack');
      last(frames);
      return frames.length === members.length - 1 && frames.every((count) => count >= 30);
    }, `${version} sees the ${members.length - 1} others`, patienceS);
    say(`${version} sees all others`);
  }
  for (const { call } of members) await call('leave');
} catch (error) {
  say(`failed: ${error.stack ?? error}`);
  status = 1;
}
await browser.close();
say(status ? 'failed' : 'passed');
process.exit(status);
