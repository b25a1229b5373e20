// One panel: Grafana's frame around what shows its type of data.

import { LoadingState } from '@grafana/data';
import { ErrorBoundaryAlert, PanelChrome } from '@grafana/ui';
import { Stat } from './stat.jsx';
import { Table } from './table.jsx';
import { Timeseries } from './timeseries.jsx';

const TYPES = { stat: Stat, table: Table, timeseries: Timeseries };

export function Panel({ panel, result, context, size: { width, height } }) {
  const { theme } = context;
  if (panel.type === 'row') {
    return <h5 style={{ margin: 0, lineHeight: `${height}px`, color: theme.colors.text.primary }}>{panel.title}</h5>;
  }
  const failure = result.error ?? result.queries.map(({ error }) => error).find(Boolean);
  const Visualization = TYPES[panel.type];
  return (
    <PanelChrome
      width={width}
      height={height}
      title={panel.title}
      description={panel.description}
      displayMode={panel.transparent ? 'transparent' : 'default'}
      padding={panel.type === 'table' ? 'none' : 'md'}
      loadingState={failure ? LoadingState.Error : LoadingState.Done}
      statusMessage={failure}
    >
      {(innerWidth, innerHeight) => (
        <ErrorBoundaryAlert key={context.range.to}>
          {isEmpty(result.frames) ? (
            <Empty width={innerWidth} height={innerHeight} text={panel.fieldConfig?.defaults?.noValue} />
          ) : (
            <Visualization
              panel={panel}
              frames={result.frames}
              context={context}
              width={innerWidth}
              height={innerHeight}
            />
          )}
        </ErrorBoundaryAlert>
      )}
    </PanelChrome>
  );
}

function isEmpty(frames) {
  return frames.every((frame) => frame.length === 0);
}

function Empty({ width, height, text }) {
  return (
    <div data-empty style={{ width, height, display: 'flex', alignItems: 'center', justifyContent: 'center' }}>
      {text ?? 'No data'}
    </div>
  );
}
