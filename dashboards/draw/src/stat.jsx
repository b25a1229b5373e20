// A stat panel: big values, one for each field or row, as the panel's options reduce them.

import { VizOrientation, getDisplayValueAlignmentFactors, getFieldDisplayValues } from '@grafana/data';
import { BigValue, VizRepeater } from '@grafana/ui';
import { fieldOptions } from './fields.js';
import { asTimeRange } from './query.js';
import { substitute } from './variables.js';

export function Stat({ panel, frames, context, width, height }) {
  const { theme, variables, range } = context;
  const options = panel.options ?? {};
  const getValues = () =>
    getFieldDisplayValues({
      fieldConfig: fieldOptions(panel).config,
      reduceOptions: options.reduceOptions ?? { calcs: ['lastNotNull'] },
      replaceVariables: (text) => substitute(text ?? '', variables),
      theme,
      data: frames,
      sparkline: (options.graphMode ?? 'area') !== 'none',
      timeZone: 'browser',
    });
  const renderValue = ({ value: { display, sparkline }, alignmentFactors, count, width, height }) => (
    <BigValue
      value={display}
      count={count}
      sparkline={sparkline && { ...sparkline, timeRange: asTimeRange(range) }}
      colorMode={options.colorMode ?? 'value'}
      graphMode={options.graphMode ?? 'area'}
      justifyMode={options.justifyMode ?? 'auto'}
      textMode={options.textMode ?? 'auto'}
      alignmentFactors={alignmentFactors}
      text={options.text}
      width={width}
      height={height}
      theme={theme}
      disableWideLayout={options.wideLayout === false}
    />
  );
  return (
    <VizRepeater
      getValues={getValues}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderValue={renderValue}
      width={width}
      height={height}
      source={frames}
      itemSpacing={3}
      renderCounter={range.to}
      autoGrid
      orientation={options.orientation ?? VizOrientation.Auto}
    />
  );
}
