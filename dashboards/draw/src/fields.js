// The settings that a field of a panel can have, with their defaults: what Grafana's panels register with the
// library that applies them.
//
// A setting that is not listed would be left out without a word, so a panel that has one is refused.

import {
  FieldColorModeId,
  FieldConfigOptionsRegistry,
  booleanOverrideProcessor,
  dataLinksOverrideProcessor,
  displayNameOverrideProcessor,
  identityOverrideProcessor,
  numberOverrideProcessor,
  stringOverrideProcessor,
  thresholdsOverrideProcessor,
  unitOverrideProcessor,
  valueMappingsOverrideProcessor,
} from '@grafana/data';

const STANDARD = {
  displayName: displayNameOverrideProcessor,
  unit: unitOverrideProcessor,
  min: numberOverrideProcessor,
  max: numberOverrideProcessor,
  decimals: numberOverrideProcessor,
  fieldMinMax: booleanOverrideProcessor,
  noValue: stringOverrideProcessor,
  color: identityOverrideProcessor,
  thresholds: thresholdsOverrideProcessor,
  mappings: valueMappingsOverrideProcessor,
  links: dataLinksOverrideProcessor,
  filterable: booleanOverrideProcessor,
};

// By type of panel: settings of its own, with what holds where a dashboard says nothing.
const CUSTOM = {
  timeseries: {
    axisBorderShow: false,
    axisCenteredZero: false,
    axisColorMode: 'text',
    axisGridShow: undefined,
    axisLabel: '',
    axisPlacement: 'auto',
    axisSoftMax: undefined,
    axisSoftMin: undefined,
    axisWidth: undefined,
    barAlignment: 0,
    barMaxWidth: undefined,
    barWidthFactor: 0.6,
    drawStyle: 'line',
    fillBelowTo: undefined,
    fillOpacity: 0,
    gradientMode: 'none',
    hideFrom: { legend: false, tooltip: false, viz: false },
    insertNulls: false,
    lineInterpolation: 'linear',
    lineStyle: undefined,
    lineWidth: 1,
    pointSize: 5,
    scaleDistribution: { type: 'linear' },
    showPoints: 'auto',
    spanNulls: false,
    stacking: { mode: 'none', group: 'A' },
    thresholdsStyle: { mode: 'off' },
    transform: undefined,
  },
  stat: {},
  table: {
    align: 'auto',
    cellOptions: { type: 'auto' },
    displayMode: undefined,
    filterable: undefined,
    footer: undefined,
    hidden: undefined,
    inspect: false,
    minWidth: undefined,
    width: undefined,
    wrapText: undefined,
  },
};

const registries = Object.fromEntries(Object.keys(CUSTOM).map((type) => [type, makeRegistry(type)]));

function makeRegistry(type) {
  const standard = Object.entries(STANDARD).map(([path, process]) => item(path, path, process, false));
  const custom = Object.keys(CUSTOM[type]).map((path) =>
    item(`custom.${path}`, path, identityOverrideProcessor, true)
  );
  return new FieldConfigOptionsRegistry(() => [...standard, ...custom]);
}

function item(id, path, process, isCustom) {
  const editor = () => null;
  return { id, path, name: id, process, isCustom, shouldApply: () => true, override: editor, editor };
}

// `{ config, registry }` of the panel. Fails if it has a setting that cannot be drawn.
export function fieldOptions({ type, fieldConfig }) {
  const { defaults = {}, overrides = [] } = fieldConfig ?? {};
  const registry = registries[type];
  const named = [
    ...Object.keys(defaults).filter((name) => name !== 'custom'),
    ...Object.keys(defaults.custom ?? {}).map((name) => `custom.${name}`),
    ...overrides.flatMap(({ properties }) => properties.map(({ id }) => id)),
  ];
  const unknown = named.filter((name) => !registry.getIfExists(name) && name !== 'description');
  if (unknown.length > 0) {
    throw new Error(`field setting ${unknown.join(', ')} cannot be drawn`);
  }
  const color = defaults.color ?? {
    mode: type === 'timeseries' ? FieldColorModeId.PaletteClassic : FieldColorModeId.Thresholds,
  };
  const custom = { ...CUSTOM[type], ...defaults.custom };
  return { config: { defaults: { ...defaults, color, custom }, overrides }, registry };
}
