// Checks dashboards against Grafana's own types: `node check.mjs FILE…`, where the packages of package.json are
// installed. Types become JSON Schemas that allow no property which the types do not have. Prints what does not fit, by
// file and place, and fails then. What Grafana accepts beyond its types is listed here, with the reason.
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import Ajv from 'ajv';
import { createGenerator } from 'ts-json-schema-generator';

const generator = createGenerator({
  path: new URL('types.ts', import.meta.url).pathname,
  tsconfig: new URL('tsconfig.json', import.meta.url).pathname,
  type: '*',
  additionalProperties: false,
  skipTypeCheck: true,
});
const ajv = new Ajv({ allErrors: true, strict: false });
const validators = new Map();

function validator(type) {
  if (!validators.has(type)) {
    validators.set(type, ajv.compile(generator.createSchema(type)));
  }
  return validators.get(type);
}

/** What does not fit the type, each with its place below `where`. */
function misfits(type, value, where) {
  const validate = validator(type);
  if (validate(value)) {
    return [];
  }
  return validate.errors.map((error) => {
    const extra = error.params.additionalProperty ?? error.params.allowedValues?.join(', ') ?? '';
    return `${where}${error.instancePath}: ${error.message} ${extra}`.trimEnd();
  });
}

/** The dashboard without what Grafana writes itself and its types do not have. */
function withoutKnownExtras(dashboard) {
  const copy = structuredClone(dashboard);
  for (const variable of copy.templating.list) {
    // Grafana's editor keeps the query's text there as well.
    delete variable.definition;
    // Exported data source variables choose nothing.
    if (variable.type === 'datasource' && Object.keys(variable.current).length === 0) {
      delete variable.current;
    }
  }
  return copy;
}

/** What of a panel the dashboard's type leaves open. */
function misfitsOfPanel(panel) {
  const where = `panel "${panel.title}"`;
  const options = { stat: 'StatOptions', table: 'TableOptions', timeseries: 'TimeSeriesOptions' }[panel.type];
  if (panel.type === 'row') {
    return misfits('Row', panel, where);
  }
  if (options === undefined) {
    return [`${where}: ${panel.type} is none of stat, table, timeseries`];
  }
  const found = misfits(options, panel.options, `${where} options`);
  const field = { table: 'TableField', timeseries: 'TimeSeriesField' }[panel.type];
  const custom = panel.fieldConfig.defaults.custom;
  if (field !== undefined) {
    found.push(...misfits(field, custom, `${where} custom`));
  } else if (custom !== undefined) {
    found.push(`${where}: a ${panel.type} has no custom field options`);
  }
  return found;
}

const files = process.argv.slice(2);
if (files.length === 0) {
  console.error('usage: node check.mjs FILE…');
  process.exit(64);
}
let wrong = 0;
for (const file of files) {
  const dashboard = JSON.parse(readFileSync(file, 'utf8'));
  const found = misfits('AnyDashboard', withoutKnownExtras(dashboard), 'dashboard');
  found.push(...dashboard.panels.flatMap(misfitsOfPanel));
  found.forEach((line) => console.error(`${basename(file)}: ${line}`));
  wrong += found.length;
}
console.log(`${files.length} dashboards, ${wrong} misfits with @grafana/schema`);
process.exit(wrong === 0 ? 0 : 1);
