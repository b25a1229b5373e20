// A dashboard's variables: which values they have, which are chosen, and what stands for them in a query.
//
// Follows Grafana's rules for Prometheus: `All` is the variable's allValue or else a pattern of all values, several
// values are joined by `|`, and what may be several is escaped as a pattern.

import { labelValues } from './prometheus.js';

export const ALL = '$__all';

// The variables of the dashboard that a reader may choose, in order, each with its options and what is chosen:
// by the address (`var-name=value`), else as the dashboard says. A later variable may refer to earlier ones.
export async function loadVariables(dashboard, address, range) {
  const variables = [];
  for (const definition of dashboard.templating?.list ?? []) {
    const options = await optionsOf(definition, variables, range);
    const chosen = chosenOf(definition, options, address.getAll(`var-${definition.name}`));
    variables.push({ definition, options, chosen });
  }
  return variables;
}

async function optionsOf(definition, earlier, range) {
  const { type, query } = definition;
  switch (type) {
    case 'datasource':
      return ['prometheus'];
    case 'constant':
    case 'textbox':
      return [query];
    case 'custom':
    case 'interval':
      return query.split(',').map((option) => option.trim());
    case 'query':
      return queried(definition, earlier, range);
    default:
      throw new Error(`variable ${definition.name}: type ${type} cannot be drawn`);
  }
}

async function queried({ name, query, regex, sort }, earlier, range) {
  const text = substitute(typeof query === 'string' ? query : query.query, earlier);
  const call = /^label_values\((?:(?<selector>.+),)?\s*(?<label>\w+)\s*\)$/s.exec(text.trim());
  if (!call) {
    throw new Error(`variable ${name}: only label_values() can be drawn, not ${text}`);
  }
  let values = await labelValues(call.groups.label, call.groups.selector?.trim(), range);
  if (regex) {
    const [, pattern, flags] = /^\/(.*)\/([a-z]*)$/s.exec(regex) ?? [null, `^${regex}$`, ''];
    const matches = values.map((value) => new RegExp(pattern, flags).exec(value)).filter(Boolean);
    values = [...new Set(matches.map((match) => match.groups?.value ?? match[1] ?? match[0]))];
  }
  return sorted(values, sort);
}

// Grafana's orders: 1 and 2 by name, 3 and 4 by number, 5 and 6 without regard to case; even ones descend.
function sorted(values, order = 0) {
  if (order === 0) {
    return values;
  }
  const number = (value) => Number(/\d+/.exec(value)?.[0] ?? NaN);
  const compare = {
    1: (a, b) => (a < b ? -1 : 1),
    2: (a, b) => number(a) - number(b),
    3: (a, b) => a.toLowerCase().localeCompare(b.toLowerCase()),
  }[Math.ceil(order / 2)];
  const ascending = [...values].sort(compare);
  return order % 2 === 0 ? ascending.reverse() : ascending;
}

function chosenOf({ includeAll, multi, current }, options, fromAddress) {
  const wanted = fromAddress.length > 0 ? fromAddress : [current?.value ?? []].flat();
  if (includeAll && (wanted.length === 0 || wanted.includes(ALL) || wanted.includes('All'))) {
    return [ALL];
  }
  const known = wanted.filter((value) => options.includes(value));
  const chosen = known.length > 0 ? known : options.slice(0, 1);
  return multi ? chosen : chosen.slice(0, 1);
}

// Puts the variables' values, and those that Grafana has built in, into a text. A name that is neither stays.
export function substitute(text, variables, builtIn = {}) {
  const named = /\$(\w+)|\$\{(\w+)(?::(\w+))?\}|\[\[(\w+)(?::(\w+))?\]\]/g;
  return text.replace(named, (whole, plain, braced, format, bracketed, oldFormat) => {
    const name = plain ?? braced ?? bracketed;
    if (name in builtIn) {
      return builtIn[name];
    }
    const variable = variables.find(({ definition }) => definition.name === name);
    return variable ? valueOf(variable, format ?? oldFormat) : whole;
  });
}

function valueOf({ definition, options, chosen }, format) {
  const isAll = chosen.includes(ALL);
  if (isAll && definition.allValue) {
    return definition.allValue;
  }
  const values = isAll ? options : chosen;
  switch (format) {
    case 'raw':
    case 'csv':
      return values.join(',');
    case 'pipe':
      return values.join('|');
    case undefined:
    case 'regex':
      return pattern(values, format === 'regex' || definition.multi || definition.includeAll);
    default:
      throw new Error(`variable ${definition.name}: format ${format} cannot be drawn`);
  }
}

// A backslash is doubled once for the pattern and once for the quoted string of the query that it stands in.
function pattern(values, isPattern) {
  if (!isPattern) {
    return values.join(',').replace(/[\\']/g, '\\$&');
  }
  const escape = (value) => value.replace(/\\/g, '\\\\\\\\').replace(/[$^*{}[\]'+?.()|]/g, '\\\\$&');
  const escaped = values.map(escape);
  return escaped.length === 1 ? escaped[0] : `(${escaped.join('|')})`;
}
