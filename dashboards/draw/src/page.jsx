// The page: a list of the dashboards, or the dashboard that the address names.
//
// `?dashboard=UID&from=now-15m&refresh=5s&var-NAME=VALUE`, named as Grafana names them. Once a
// dashboard is drawn, `window.tracerDrawn()` gives an account of it, for the program that takes pictures.

import { ThemeContext, createTheme } from '@grafana/data';
import { initPluginTranslations } from '@grafana/i18n';
import { GlobalStyles, PortalContainer } from '@grafana/ui';
import { createRoot } from 'react-dom/client';
import 'uplot/dist/uPlot.min.css';
import { Dashboard } from './dashboard.jsx';
import './page.css';

const theme = createTheme({ colors: { mode: 'dark' } });
const address = new URLSearchParams(location.search);

async function load(file) {
  const answer = await fetch(file);
  if (!answer.ok) {
    throw new Error(`${file}: HTTP ${answer.status}`);
  }
  return answer.json();
}

async function content() {
  const all = await load('dashboards.json');
  const uid = address.get('dashboard');
  return uid ? (
    <Dashboard dashboard={await load(`dashboards/${uid}.json`)} all={all} theme={theme} address={address} />
  ) : (
    <List dashboards={all} />
  );
}

function List({ dashboards }) {
  const link = (uid) => `?${new URLSearchParams({ ...Object.fromEntries(address), dashboard: uid })}`;
  return (
    <main style={{ padding: theme.spacing(4), maxWidth: 900 }}>
      <h1>Dashboards of tracer</h1>
      {dashboards.map(({ uid, title, description }) => (
        <section key={uid} style={{ marginTop: theme.spacing(3) }}>
          <h3>
            <a href={link(uid)} style={{ color: theme.colors.text.link }}>
              {title}
            </a>
          </h3>
          <p style={{ color: theme.colors.text.secondary }}>{description}</p>
        </section>
      ))}
    </main>
  );
}

async function start() {
  await initPluginTranslations('grafana');
  const root = createRoot(document.getElementById('root'));
  const show = (children) =>
    root.render(
      <ThemeContext.Provider value={theme}>
        <GlobalStyles />
        {children}
        <PortalContainer />
      </ThemeContext.Provider>
    );
  try {
    show(await content());
  } catch (error) {
    window.tracerDrawn = () => ({ error: error.message });
    show(<p style={{ padding: theme.spacing(4), color: theme.colors.error.text }}>{error.message}</p>);
  }
}

start();
