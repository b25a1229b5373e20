// A dashboard: its variables at the top, its panels on Grafana's grid of 24 columns, drawn again at intervals.

import { rangeUtil } from '@grafana/data';
import { useEffect, useState } from 'react';
import { Controls } from './controls.jsx';
import { Panel } from './panel.jsx';
import { scrapeIntervalSeconds } from './prometheus.js';
import { runPanel } from './query.js';
import { loadVariables } from './variables.js';

// Grafana's grid, in pixels.
const COLUMNS = 24;
const CELL_HEIGHT = 30;
const GAP = 8;
const MARGIN = 16;

// How long pictures wait after the last panel has its data: charts are drawn in the next frames.
const SETTLE_MILLISECONDS = 500;

export function Dashboard({ dashboard, all, theme, address }) {
  const width = useWindowWidth();
  const [drawing, setDrawing] = useState(null);
  const [error, setError] = useState(null);

  useEffect(() => {
    document.title = dashboard.title;
    let timer;
    let ended = false;
    const draw = async () => {
      try {
        const next = await fetchAll(dashboard, theme, address, width);
        if (!ended) {
          setDrawing(next);
          setError(null);
        }
      } catch (failure) {
        window.tracerDrawn = () => ({ error: failure.message });
        setError(failure.message);
      }
      const refresh = address.get('refresh') ?? dashboard.refresh;
      if (refresh && !ended) {
        timer = setTimeout(draw, rangeUtil.intervalToMs(refresh));
      }
    };
    draw();
    return () => {
      ended = true;
      clearTimeout(timer);
    };
  }, [dashboard, theme, address, width]);

  useEffect(() => {
    if (!drawing) {
      return undefined;
    }
    const timer = setTimeout(async () => {
      await document.fonts.ready;
      window.tracerDrawn = () => account(dashboard, drawing);
    }, SETTLE_MILLISECONDS);
    return () => clearTimeout(timer);
  }, [dashboard, drawing]);

  const bottom = Math.max(...places(dashboard).map(({ gridPos: { y, h } }) => y + h));
  return (
    <>
      <Controls dashboard={dashboard} all={all} variables={drawing?.context.variables ?? []} address={address} />
      {error && <p style={{ padding: MARGIN, color: theme.colors.error.text }}>{error}</p>}
      <main style={{ position: 'relative', margin: MARGIN, height: bottom * (CELL_HEIGHT + GAP) - GAP }}>
        {drawing?.panels.map(({ panel, result }) => (
          <div key={panel.id} id={`panel-${panel.id}`} style={{ position: 'absolute', ...box(panel.gridPos, width) }}>
            <Panel panel={panel} result={result} context={drawing.context} size={box(panel.gridPos, width)} />
          </div>
        ))}
      </main>
    </>
  );
}

function useWindowWidth() {
  const now = () => document.documentElement.clientWidth;
  const [width, setWidth] = useState(now);
  useEffect(() => {
    const resized = () => setWidth(now());
    window.addEventListener('resize', resized);
    return () => window.removeEventListener('resize', resized);
  }, []);
  return width;
}

// The panels, those in closed rows among them: a row is drawn open, and pushes down what is below it.
function places(dashboard) {
  const placed = [];
  let shift = 0;
  for (const panel of [...dashboard.panels].sort((a, b) => a.gridPos.y - b.gridPos.y)) {
    placed.push(...[panel, ...(panel.panels ?? [])].map((each) => shifted(each, shift)));
    if (panel.panels?.length > 0) {
      shift += Math.max(...panel.panels.map(({ gridPos: { y, h } }) => y + h)) - panel.gridPos.y - 1;
    }
  }
  return placed;
}

function shifted(panel, rows) {
  return { ...panel, gridPos: { ...panel.gridPos, y: panel.gridPos.y + rows } };
}

function box({ x, y, w, h }, windowWidth) {
  const column = (windowWidth - 2 * MARGIN + GAP) / COLUMNS;
  return {
    left: Math.round(x * column),
    top: y * (CELL_HEIGHT + GAP),
    width: Math.round((x + w) * column) - Math.round(x * column) - GAP,
    height: h * (CELL_HEIGHT + GAP) - GAP,
  };
}

async function fetchAll(dashboard, theme, address, width) {
  const now = Date.now();
  const from = address.get('from') ?? dashboard.time?.from ?? 'now-1h';
  const range = { from: now - milliseconds(from), to: now };
  const variables = await loadVariables(dashboard, address, range);
  const context = { range, variables, theme, scrapeSeconds: await scrapeIntervalSeconds() };
  const panels = await Promise.all(
    places(dashboard).map(async (panel) => {
      const points = box(panel.gridPos, width).width;
      const wanted = { ...context, range: { ...range, points } };
      return { panel, result: panel.type === 'row' ? null : await guarded(panel, wanted) };
    })
  );
  return { panels, context };
}

// A panel that cannot be drawn does not keep the others from it.
async function guarded(panel, context) {
  try {
    return await runPanel(panel, context);
  } catch (error) {
    return { frames: [], queries: [], error: error.message };
  }
}

// `now-15m`.
function milliseconds(from) {
  const ago = /^now-(\w+)$/.exec(from)?.[1];
  if (!ago) {
    throw new Error(`from=${from} is not of the form now-15m`);
  }
  return rangeUtil.intervalToMs(ago);
}

// What was drawn, panel by panel, with what a reader would miss.
function account(dashboard, { panels }) {
  const drawn = panels.filter(({ panel }) => panel.type !== 'row');
  return {
    uid: dashboard.uid,
    title: dashboard.title,
    panels: drawn.map(({ panel, result: { queries, error } }) => {
      const { id, type, title } = panel;
      return { id, type, title, queries, error: error ?? seen(panel) };
    }),
  };
}

// What is wrong with a panel as it stands on the page; null if nothing is.
function seen({ id, type }) {
  const element = document.getElementById(`panel-${id}`);
  const alert = element?.querySelector('[role="alert"]');
  if (alert) {
    return alert.innerText;
  }
  const wrong = /\bNaN\b|\bundefined\b|\bInfinity\b|∞/.exec(element?.innerText ?? '');
  if (wrong) {
    return `shows ${wrong[0]}`;
  }
  // An empty panel says so, and its query is found to have no data.
  const content = { table: '[role="row"] [role="gridcell"]', timeseries: 'canvas', stat: 'span' }[type];
  return element?.querySelector(`${content}, [data-empty]`) ? null : 'draws nothing';
}
