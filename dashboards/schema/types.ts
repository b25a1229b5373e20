// What a dashboard of this directory is made of, in Grafana's own types: the dashboard, and the options of the
// three kinds of panels that are used, which the dashboard's type leaves open. check.mjs makes a JSON Schema of each
// exported type. Holds no rule of its own: those are tests of the agent.
import type { Dashboard, RowPanel } from './node_modules/@grafana/schema/dist/types/raw/dashboard/x/types.gen.js';
import type * as stat from './node_modules/@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen.js';
import type * as table from './node_modules/@grafana/schema/dist/types/raw/composable/table/panelcfg/x/types.gen.js';
import type * as timeseries from './node_modules/@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen.js';

export type AnyDashboard = Dashboard;
export type Row = RowPanel;
export type StatOptions = stat.Options;
export type TableOptions = table.Options;
export type TableField = table.FieldConfig;
export type TimeSeriesOptions = timeseries.Options;
export type TimeSeriesField = timeseries.FieldConfig;
