// Runs the queries of a panel: from its targets to data frames, transformed and with the panel's field settings.
//
// Keeps an account of each query, which says whether a reader would see anything.

import {
  applyFieldOverrides,
  dateTime,
  rangeUtil,
  standardTransformers,
  standardTransformersRegistry,
  transformDataFrame,
} from '@grafana/data';
import { firstValueFrom } from 'rxjs';
import { fieldOptions } from './fields.js';
import { asTable, asTimeSeries, queryInstant, queryRange } from './prometheus.js';
import { substitute } from './variables.js';

// Some are listed under two names.
const transformations = new Map(Object.values(standardTransformers).map((each) => [each.id, each]));
standardTransformersRegistry.setInit(() =>
  [...transformations.values()].map((transformation) => ({
    id: transformation.id,
    name: transformation.name,
    transformation: () => Promise.resolve(transformation),
    editor: () => null,
  }))
);

// How many scrapes $__rate_interval covers at least.
const RATE_INTERVAL_SCRAPES = 4;

// `{ frames, queries }`: what the panel shows, and for each target what Prometheus gave for it.
export async function runPanel(panel, context) {
  const targets = (panel.targets ?? []).filter((target) => !target.hide);
  const results = await Promise.all(targets.map((target) => runTarget(panel, target, targets.length, context)));
  const queries = results.map(({ query }) => query);
  try {
    const frames = await transformed(
      results.flatMap(({ frames }) => frames),
      panel.transformations ?? [],
      context
    );
    return { frames: withFieldSettings(frames, panel, context), queries };
  } catch (error) {
    return { frames: [], queries, error: `transformation: ${error.message}` };
  }
}

async function runTarget(panel, target, targetCount, context) {
  const { refId } = target;
  try {
    const { step, builtIn } = intervals(panel, target, context);
    const expr = substitute(target.expr, context.variables, builtIn);
    const isTable = target.format === 'table';
    const isInstant = target.instant && !target.range;
    const series = await (isInstant ? queryInstant(expr, context.range) : queryRange(expr, context.range, step));
    const named = { ...target, expr };
    const valueName = targetCount > 1 ? `Value #${refId}` : 'Value';
    const frames = isTable ? [asTable(series, named, valueName)] : asTimeSeries(series, named, step);
    return { frames: series.length > 0 ? frames : [], query: account(refId, expr, series) };
  } catch (error) {
    return { frames: [], query: { refId, expr: target.expr, series: 0, numbers: 0, error: error.message } };
  }
}

// `numbers` are the samples that can be drawn: a quotient by zero is none.
function account(refId, expr, series) {
  const samples = series.flatMap(({ samples }) => samples);
  return { refId, expr, series: series.length, numbers: samples.filter(({ value }) => Number.isFinite(value)).length };
}

// The step of a query and the variables that depend on it, as Grafana reckons them.
function intervals(panel, target, { range, scrapeSeconds, variables }) {
  const minimum = target.interval || panel.interval;
  const scrape = minimum ? rangeUtil.intervalToSeconds(substitute(minimum, variables)) : scrapeSeconds;
  const points = panel.maxDataPoints ?? range.points;
  const { intervalMs } = rangeUtil.calculateInterval(asTimeRange(range), points, `${scrape}s`);
  const step = Math.max(intervalMs / 1000, scrape);
  const rangeSeconds = Math.round((range.to - range.from) / 1000);
  const builtIn = {
    __interval: `${step}s`,
    __interval_ms: `${step * 1000}`,
    __rate_interval: `${Math.max(step + scrape, RATE_INTERVAL_SCRAPES * scrape)}s`,
    __range: `${rangeSeconds}s`,
    __range_s: `${rangeSeconds}`,
    __range_ms: `${rangeSeconds * 1000}`,
  };
  return { step, builtIn };
}

export function asTimeRange({ from, to }) {
  const range = { from: dateTime(from), to: dateTime(to) };
  return { ...range, raw: range };
}

async function transformed(frames, transformations, { variables }) {
  const interpolate = (text) => substitute(text, variables);
  const active = transformations.filter((transformation) => !transformation.disabled);
  const unknown = active.find(({ id }) => !standardTransformersRegistry.getIfExists(id));
  if (unknown) {
    throw new Error(`${unknown.id} cannot be drawn`);
  }
  return firstValueFrom(transformDataFrame(active, frames, { interpolate }));
}

function withFieldSettings(frames, panel, { theme, variables }) {
  return applyFieldOverrides({
    data: frames,
    fieldConfig: fieldOptions(panel).config,
    fieldConfigRegistry: fieldOptions(panel).registry,
    replaceVariables: (text) => substitute(text ?? '', variables),
    theme,
    timeZone: 'browser',
  });
}
