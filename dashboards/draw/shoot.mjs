// Draws dashboards in a headless Chromium and says what was drawn.
//
// `node shoot.mjs CHROMIUM PAGE PICTURES UID…`: opens PAGE for each UID and writes PICTURES/UID.png. Prints one line
// of JSON for each, the page's own account of its panels.

import { chromium } from 'playwright-core';
import path from 'node:path';

const WIDTH = 1600;
// Chromium itself asks the network for nothing but the page.
const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];
// A machine that has other things to do may take long.
const TIMEOUT_MILLISECONDS = 180_000;

const SETTLE_MILLISECONDS = 1_000;

const [executablePath, page, pictures, ...uids] = process.argv.slice(2);
if (uids.length === 0) {
  console.error('usage: node shoot.mjs CHROMIUM PAGE PICTURES UID…');
  process.exit(64);
}

const browser = await chromium.launch({ executablePath, args: FLAGS, timeout: TIMEOUT_MILLISECONDS });
try {
  for (const uid of uids) {
    console.log(JSON.stringify(await shoot(uid)));
  }
} finally {
  await browser.close();
}

async function shoot(uid) {
  const tab = await browser.newPage({ viewport: { width: WIDTH, height: 1000 } });
  tab.setDefaultTimeout(TIMEOUT_MILLISECONDS);
  const complaints = [];
  tab.on('pageerror', (error) => complaints.push(error.message));
  tab.on('requestfailed', (request) => complaints.push(`${request.url()}: ${request.failure()?.errorText}`));
  const address = new URL(page);
  address.searchParams.set('dashboard', uid);
  await tab.goto(address.href);
  await tab.waitForFunction(() => window.tracerDrawn);
  // Tables draw only the rows that are in sight.
  const height = await tab.evaluate(() => document.documentElement.scrollHeight);
  await tab.setViewportSize({ width: WIDTH, height });
  await tab.waitForTimeout(SETTLE_MILLISECONDS);
  await tab.screenshot({ path: path.join(pictures, `${uid}.png`), timeout: TIMEOUT_MILLISECONDS });
  const account = { uid, ...(await tab.evaluate(() => window.tracerDrawn())), complaints };
  await tab.close();
  return account;
}
