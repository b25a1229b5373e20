// A table panel: Grafana's table of the first frame, as Grafana shows it when there are several.

import { cacheFieldDisplayNames } from '@grafana/data';
import { TableNG } from '@grafana/ui/unstable';
import { fieldOptions } from './fields.js';
import { asTimeRange } from './query.js';

export function Table({ panel, frames, context, width, height }) {
  const options = panel.options ?? {};
  // The table looks for the names of its columns there alone.
  cacheFieldDisplayNames(frames);
  return (
    <TableNG
      data={frames[options.frameIndex ?? 0]}
      width={width}
      height={height}
      noHeader={options.showHeader === false}
      cellHeight={options.cellHeight ?? 'sm'}
      sortBy={options.sortBy}
      enablePagination={options.enablePagination}
      frozenColumns={options.frozenColumns?.left}
      fieldConfig={fieldOptions(panel).config}
      timeRange={asTimeRange(context.range)}
      resizable
    />
  );
}
