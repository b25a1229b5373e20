// Bundles the page and puts it with the dashboards and Grafana's icons and font into one directory of static files.
//
// `node build.mjs DASHBOARDS OUT`: DASHBOARDS holds their JSON files. Writes nothing but OUT.

import { build } from 'esbuild';
import { cp, mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';

const here = import.meta.dirname;
const [source, out] = process.argv.slice(2);
if (!out) {
  console.error('usage: node build.mjs DASHBOARDS OUT');
  process.exit(64);
}

// Grafana's libraries can show maps and code editors, and load them when they do. No panel drawn here does.
const UNUSED = /^(monaco-editor|ol)(\/|$)/;
const leaveOut = {
  name: 'leave-out',
  setup({ onLoad, onResolve }) {
    onResolve({ filter: UNUSED }, ({ path }) => ({ path, namespace: 'unused' }));
    onLoad({ filter: /./, namespace: 'unused' }, () => ({ contents: 'module.exports = {};' }));
  },
};

await rm(out, { recursive: true, force: true });
await mkdir(path.join(out, 'dashboards'), { recursive: true });
await build({
  entryPoints: [path.join(here, 'src/page.jsx')],
  outdir: out,
  bundle: true,
  minify: true,
  format: 'esm',
  splitting: true,
  target: 'es2022',
  jsx: 'automatic',
  define: { 'process.env.NODE_ENV': '"production"', global: 'globalThis' },
  plugins: [leaveOut],
  logLevel: 'warning',
});
await cp(path.join(here, 'index.html'), path.join(out, 'index.html'));
const icons = 'img/icons';
await cp(path.join(here, 'node_modules/@grafana/ui/dist/public', icons), path.join(out, 'public/build', icons), {
  recursive: true,
});

await mkdir(path.join(out, 'public/fonts/inter'), { recursive: true });
for (const font of ['Inter-Regular', 'Inter-Medium']) {
  const file = `${font}.woff2`;
  await cp(path.join(here, 'node_modules/inter-ui/web', file), path.join(out, 'public/fonts/inter', file));
}

const dashboards = [];
for (const file of (await readdir(source)).filter((name) => name.endsWith('.json')).sort()) {
  const text = await readFile(path.join(source, file), 'utf8');
  const { uid, title, description } = JSON.parse(text);
  await writeFile(path.join(out, 'dashboards', `${uid}.json`), text);
  dashboards.push({ uid, title, description });
}
await writeFile(path.join(out, 'dashboards.json'), JSON.stringify(dashboards));
