// A time series panel: Grafana's chart, with the panel's legend and tooltip.

import { TimeSeries, TooltipPlugin } from '@grafana/ui';
import { asTimeRange } from './query.js';

const LEGEND = { displayMode: 'list', placement: 'bottom', showLegend: true, calcs: [] };

export function Timeseries({ panel, frames, context, width, height }) {
  const { legend, tooltip } = panel.options ?? {};
  return (
    <TimeSeries
      frames={frames}
      width={width}
      height={height}
      timeRange={asTimeRange(context.range)}
      timeZone="browser"
      legend={{ ...LEGEND, ...legend }}
      options={panel.options}
    >
      {(config, alignedFrame) => (
        <TooltipPlugin
          data={alignedFrame}
          config={config}
          mode={tooltip?.mode ?? 'single'}
          sortOrder={tooltip?.sort ?? 'none'}
          timeZone="browser"
        />
      )}
    </TimeSeries>
  );
}
