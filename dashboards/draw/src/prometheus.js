// Asks Prometheus' HTTP API, and turns its answers into Grafana's data frames as Grafana's data source does.
//
// Knows nothing of dashboards. The page is served by Prometheus, so its API is at the same origin.

import { FieldType, createDataFrame } from '@grafana/data';

const API = '/api/v1';

// One GET; fails with Prometheus' own words.
async function get(path, parameters = {}) {
  const answer = await fetch(`${API}/${path}?${new URLSearchParams(parameters)}`);
  const body = await answer.json();
  if (body.status !== 'success') {
    throw new Error(body.error ?? `${path}: HTTP ${answer.status}`);
  }
  return body.data;
}

// What Prometheus has scraped most often, in seconds: the data source's scrape interval.
export async function scrapeIntervalSeconds() {
  const { activeTargets } = await get('targets', { state: 'active' });
  return Math.max(1, Math.min(...activeTargets.map((target) => seconds(target.scrapeInterval))));
}

// A duration as Prometheus writes it.
function seconds(text) {
  const unit = { ms: 0.001, s: 1, m: 60, h: 3600, d: 86400 };
  return [...text.matchAll(/(\d+)(ms|[smhd])/g)].reduce((sum, [, count, name]) => sum + count * unit[name], 0);
}

// All values that the label has in the series of the selector, or anywhere.
export async function labelValues(label, selector, { from, to }) {
  const range = { start: from / 1000, end: to / 1000 };
  return get(`label/${label}/values`, selector ? { ...range, 'match[]': selector } : range);
}

// A query over a range; `step` in seconds.
export async function queryRange(query, { from, to }, step) {
  const align = (milliseconds) => Math.floor(milliseconds / 1000 / step) * step;
  const { result } = await get('query_range', { query, start: align(from), end: align(to), step });
  return result.map(({ metric, values }) => ({ labels: metric, samples: values.map(sample) }));
}

// A query at the end of the range.
export async function queryInstant(query, { to }) {
  const { result, resultType } = await get('query', { query, time: to / 1000 });
  if (resultType === 'scalar') {
    return [{ labels: {}, samples: [sample(result)] }];
  }
  return result.map(({ metric, value }) => ({ labels: metric, samples: [sample(value)] }));
}

function sample([time, text]) {
  const infinite = { '+Inf': Infinity, '-Inf': -Infinity };
  return { time: time * 1000, value: infinite[text] ?? Number(text) };
}

// One frame for each series, named by the target's legend.
export function asTimeSeries(series, { refId, legendFormat, expr }, stepSeconds) {
  return series.map(({ labels, samples }) =>
    createDataFrame({
      refId,
      name: legend(labels, legendFormat, expr),
      fields: [
        {
          name: 'Time',
          type: FieldType.time,
          // Beyond this distance two points are not joined.
          config: { interval: stepSeconds * 1000 },
          values: samples.map((sample) => sample.time),
        },
        {
          name: 'Value',
          type: FieldType.number,
          labels: withoutName(labels),
          config: { displayNameFromDS: legend(labels, legendFormat, expr) || undefined },
          values: samples.map((sample) => sample.value),
        },
      ],
    })
  );
}

// One frame for all series: time, a column for each label, the value. `name` is that of the value's column.
export function asTable(series, { refId }, name) {
  const labelNames = [...new Set(series.flatMap(({ labels }) => Object.keys(labels)))].sort();
  const rows = series.flatMap(({ labels, samples }) => samples.map((sample) => ({ labels, ...sample })));
  const column = (label) => ({
    name: label,
    type: FieldType.string,
    config: { filterable: true },
    values: rows.map((row) => row.labels[label] ?? ''),
  });
  return createDataFrame({
    refId,
    meta: { preferredVisualisationType: 'table' },
    fields: [
      { name: 'Time', type: FieldType.time, config: {}, values: rows.map((row) => row.time) },
      ...labelNames.map(column),
      {
        name,
        type: FieldType.number,
        config: { displayNameFromDS: name },
        values: rows.map((row) => row.value),
      },
    ],
  });
}

function withoutName({ __name__, ...labels }) {
  return labels;
}

// The name of a series: `{{label}}` of the legend filled in; nothing where Grafana is to find the shortest; else all
// labels, or the expression where there is none.
function legend(labels, format, expression) {
  if (format === '__auto' && Object.keys(labels).length > 0) {
    return '';
  }
  if (format && format !== '__auto') {
    return format.replace(/\{\{\s*(.+?)\s*\}\}/g, (_, label) => labels[label] ?? '');
  }
  const pairs = Object.entries(withoutName(labels)).map(([label, value]) => `${label}="${value}"`);
  const name = labels.__name__ ?? '';
  return pairs.length > 0 ? `${name}{${pairs.join(', ')}}` : name || expression;
}
