// The top of a dashboard: which one, which time, and its variables. Each choice is a new address, so that what is
// seen can be linked to.

import { Combobox, InlineField, InlineFieldRow, MultiCombobox } from '@grafana/ui';
import { ALL } from './variables.js';

const TIMES = { 'now-5m': 'Last 5 minutes', 'now-15m': 'Last 15 minutes', 'now-1h': 'Last hour', 'now-6h': 'Last 6 hours' };

export function Controls({ dashboard, all, variables, address }) {
  const go = (changes) => {
    const next = new URLSearchParams(address);
    for (const [name, values] of Object.entries(changes)) {
      next.delete(name);
      [values].flat().forEach((value) => next.append(name, value));
    }
    location.search = next;
  };
  const shown = variables.filter(({ definition: { type, hide } }) => type !== 'datasource' && hide !== 2);
  const from = address.get('from') ?? dashboard.time?.from ?? 'now-1h';
  const times = { ...TIMES, [from]: TIMES[from] ?? from.replace(/^now-/, 'Last ') };
  return (
    <header style={{ padding: '16px 16px 0' }}>
      <InlineFieldRow>
        <InlineField label="Dashboard">
          <Combobox
            options={all.map(({ uid, title }) => ({ value: uid, label: title }))}
            value={dashboard.uid}
            onChange={({ value }) => go({ dashboard: value })}
            width={30}
          />
        </InlineField>
        {shown.map((variable) => (
          <InlineField key={variable.definition.name} label={variable.definition.label || variable.definition.name}>
            <Choice variable={variable} choose={(values) => go({ [`var-${variable.definition.name}`]: values })} />
          </InlineField>
        ))}
        <InlineField label="Time">
          <Combobox
            options={Object.entries(times).map(([value, label]) => ({ value, label }))}
            value={from}
            onChange={({ value }) => go({ from: value })}
            width={20}
          />
        </InlineField>
      </InlineFieldRow>
    </header>
  );
}

function Choice({ variable: { definition, options, chosen }, choose }) {
  const every = definition.includeAll ? [{ value: ALL, label: 'All' }] : [];
  const items = [...every, ...options.map((value) => ({ value, label: value || '(empty)' }))];
  if (!definition.multi) {
    return <Combobox options={items} value={chosen[0]} onChange={({ value }) => choose(value)} width={24} />;
  }
  // Choosing `All` leaves it alone, choosing another one removes it.
  const changed = (picked) => {
    const values = picked.map(({ value }) => value);
    const isNew = values.includes(ALL) && !chosen.includes(ALL);
    const others = values.filter((value) => value !== ALL);
    choose(isNew || (others.length === 0 && definition.includeAll) ? [ALL] : others);
  };
  return <MultiCombobox options={items} value={chosen} onChange={changed} width={24} />;
}
